/** Against the host and the agent by what they are given: results, streams, snapshots, logs; and by using everything up. */
import type { Attempt } from '../attempt.ts'

export const HOST: readonly Attempt[] = [
  { name: 'capability: one that was not granted', code: `return await ctx.capabilities.keystore.request({})` },
  {
    name: 'capability: one made from another',
    code: `const kind = Object.getPrototypeOf(ctx.capabilities); return await took('keystore', ctx.capabilities.proc.constructor?.keystore ?? kind.keystore).request()`,
  },
  {
    name: 'capability: a name on the prototype',
    code: `Object.prototype.keystore = ctx.capabilities.proc; took('the intrinsics', ({}).keystore); return await ctx.capabilities.keystore.request({})`,
  },
  {
    name: 'capability: replaced for the host',
    code: `for (const change of [() => { ctx.capabilities.keystore = ctx.capabilities.proc }, () => { ctx.service = 'sibling' }]) try { change() } catch {}
return await (ctx.capabilities.keystore ?? ctx.capabilities.proc).read()`,
  },
  {
    name: 'capability: an input with getters that look for the host',
    code: `return await ctx.capabilities.proc.read({ get a() { const { stack } = new Error(); useProcess(this.constructor.constructor('return process')()); return stack } })`,
  },
  {
    name: 'capability: the answer of another, by a promise that is none',
    code: `const answer = ctx.capabilities.proc.read(); answer.then = (f) => f(useProcess(f.constructor('return process')())); return answer`,
  },
  {
    name: 'capability: a thousand at once',
    code: `const refused = (await Promise.allSettled(Array.from({ length: 1000 }, () => ctx.capabilities.proc.read()))).filter(({ status }) => status === 'rejected').length; if (refused === 0) loot.push('forged: without bound'); return refused`,
  },
  {
    name: 'services: an API that the manifest does not name',
    code: `return await ctx.services.unary({ path: '/escape.Attempt/Quiet', kind: 'unary', request: { encode: () => new Uint8Array(0) }, response: { decode: (bytes) => took('another API', bytes) } }, {})`,
  },
  {
    name: 'services: codecs that are called in the host',
    code: `return await ctx.services.unary({ get path() { return '/escape.Attempt/Quiet' }, kind: 'unary', request: { encode() { useProcess(this.constructor.constructor('return process')()) } }, response: { decode: (bytes) => bytes } }, {})`,
  },
  {
    name: 'answer: a thenable that keeps the host’s functions',
    code: `return { then(resolve, reject) { useProcess(resolve.constructor('return process')()); loot.push(Object.keys(resolve).join()); resolve(text('then')) } }`,
  },
  {
    name: 'answer: a stream that is a hostile iterator',
    code: `hooks.flow = () => ({ [Symbol.asyncIterator]: () => ({ next(...all) { all.forEach((one) => useProcess(one)); return { get then() { useProcess(this.constructor.constructor('return process')()); return (resolve) => resolve({ get done() { return false }, get value() { return text('x') } }) } } }, return() { return new Proxy({}, {}) } }) }); let left = 5; const next = hooks.flow; hooks.flow = () => { const made = next()[Symbol.asyncIterator](); return { [Symbol.asyncIterator]: () => ({ next: () => left-- > 0 ? made.next() : { done: true } }) } }`,
  },
  {
    name: 'answer: bytes that are a proxy',
    code: `hooks.flow = async function* () { yield new Proxy(new Uint8Array(4), { get: (target, name) => name === 'byteLength' ? 4 : name === 'length' ? 64 : 0, getPrototypeOf: () => Uint8Array.prototype }); loot.push('forged: they were taken') }`,
  },
  {
    name: 'answer: bytes of a class with other species',
    code: `class Evil extends Uint8Array { static get [Symbol.species]() { return function (...all) { useProcess(all) } } get byteLength() { return 1 } get buffer() { return 'forged' } }; hooks.flow = async function* () { yield new Evil(1024) }`,
  },
  {
    name: 'answer: more bytes than a message may have',
    code: `hooks.flow = async function* () { yield Object.defineProperty(new Uint8Array(32 * 1024 * 1024), 'byteLength', { value: 1 }) }`,
  },
  {
    name: 'health: getters and endless evidence',
    code: `hooks.health = () => ({ get status() { useProcess(this.constructor.constructor('return process')()); return 'healthy' }, reason: { toString: () => 'forged' }, evidence: new Proxy({}, { ownKeys: () => Array.from({ length: 1e5 }, (_, at) => 'k' + at), getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true, value: 1 }) }) }); await new Promise((resolve) => setTimeout(resolve, 500))`,
  },
  {
    name: 'log: a line with a toJSON that looks for the host',
    code: `ctx.log('info', { toString: () => 'x' }, { a: { toJSON: (key) => { useProcess(key.constructor.constructor('return process')()) } } })`,
  },
  {
    name: 'log: a level and fields that are none',
    code: `ctx.log({ toString: () => 'info' }, 'x', new Proxy([], { ownKeys: () => ['length', 'level'] })); ctx.log('fatal', 'x'); return 'logged'`,
  },
  { name: 'log: a flood', code: `for (let line = 0; line < 20000; line++) ctx.log('info', 'flood ' + line)` },
  { name: 'print: a flood', code: `for (let line = 0; line < 20000; line++) console.log('flood ' + line)` },
  {
    name: 'print: a flood of warnings of Node',
    code: `for (let at = 0; at < 2000; at++) { clearTimeout(setTimeout(() => {}, 2 ** 31 + at)); clearTimeout(setTimeout(() => {}, NaN)); clearTimeout(setTimeout(() => {}, -1)) }`,
  },
  {
    name: 'snapshot: a buffer that is not its own',
    code: `hooks.snapshot = (schema) => { const bytes = new Uint8Array(8); Object.defineProperty(bytes, 'buffer', { value: { constructor: ArrayBuffer, detached: false, byteLength: 8 } }); return { schema, bytes } }`,
    swapped: true,
  },
  {
    name: 'snapshot: bytes that are a proxy',
    code: `hooks.snapshot = (schema) => ({ schema, get bytes() { return new Proxy(new Uint8Array(8), { getPrototypeOf: () => Uint8Array.prototype, get: (target, name) => name === 'byteLength' ? 8 : Reflect.get(target, name, target) }) } })`,
    swapped: true,
  },
  {
    name: 'events: a listener that is called with more than its event',
    code: `const controller = new AbortController(); controller.signal.addEventListener('abort', function (...all) { useProcess(this.constructor.constructor('return process')()); all.slice(1).forEach(useProcess) }); controller.abort(); controller.signal.dispatchEvent({ type: 'abort' })`,
  },
  {
    name: 'events: its own call, ended as if by the client',
    code: `try { call.signal.constructor.abort.call(call.signal) } catch {} Object.defineProperty(Object.getPrototypeOf(call.signal), 'aborted', { get: () => true }); return took('the prototype of signals', call.signal.aborted)`,
  },
  {
    name: 'timers: the handle of a timer',
    code: `const timer = setTimeout(() => {}, 1e6); for (let at = timer; at; at = Object.getPrototypeOf(at)) for (const key of Reflect.ownKeys(at)) { const value = timer[key]; if (typeof value === 'object' && value !== null && key !== '__proto__') loot.push('forged: ' + String(key)) } timer._onTimeout = useProcess; timer._idleNext?._onTimeout; return Reflect.ownKeys(timer).join()`,
  },
  { name: 'timers: more than the heap holds', code: `for (let at = 0; at < 1e6; at++) setTimeout(() => {}, 1e6)` },
  { name: 'exhaustion: an endless loop', code: `for (;;);` },
  { name: 'exhaustion: microtasks without end', code: `const again = () => queueMicrotask(again); again()` },
  { name: 'exhaustion: a regular expression without end', code: `return /^(a+)+$/.test('a'.repeat(40) + 'b')` },
  { name: 'exhaustion: the heap', code: `const all = []; for (;;) all.push(new Array(1000).fill(at => at))` },
  { name: 'exhaustion: the stack', code: `const fall = () => fall(); fall()` },
  { name: 'exhaustion: a text that grows', code: `let long = 'x'; for (;;) long = long + long` },
  { name: 'exhaustion: nobody catches it', code: `setTimeout(() => { throw new Error('thrown') }, 0)` },
]
