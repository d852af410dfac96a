import t from 'tap'
import { runAttempts } from './run-attempts.ts'

t.setTimeout(280_000)

/** Body of a function in the service, and what it answers: what libraries and services rely on works inside as outside. */
const WORKS: Readonly<Record<string, { code: string; answer: RegExp }>> = {
  'the globals': {
    code: `return ['Array', 'AbortController', 'AbortSignal', 'Date', 'Event', 'EventTarget', 'Map', 'Math', 'Promise', 'Proxy', 'Reflect', 'Symbol', 'TextDecoder', 'TextEncoder', 'URL', 'URLSearchParams', 'WeakMap', 'WeakSet', 'BigInt', 'Float16Array', 'Float32Array', 'Float64Array', 'Intl', 'Temporal', 'WeakRef', 'FinalizationRegistry', 'DataView', 'Iterator', 'atob', 'btoa', 'clearInterval', 'console', 'performance', 'queueMicrotask', 'setImmediate', 'structuredClone'].filter((name) => globalThis[name] === undefined).join()`,
    answer: /^$/,
  },
  'nothing of Node': {
    code: `return ['process', 'require', 'module', 'Buffer', 'global', 'fetch', 'WebSocket', 'BroadcastChannel', 'MessageChannel', 'Worker', 'WebAssembly', 'SharedArrayBuffer', 'Atomics', 'Compartment', 'lockdown'].filter((name) => globalThis[name] !== undefined).join()`,
    answer: /^$/,
  },
  'time and chance': {
    code: `return Date.now() > 1.7e12 && new Date().getFullYear() > 2024 && Math.random() !== Math.random() && performance.now() > 0`,
    answer: /^true$/,
  },
  timers: {
    code: `const order = []; const push = (name) => order.push(name)
await new Promise((resolve) => { clearTimeout(setTimeout(push, 1, 'never')); setTimeout(push, 5, 'timeout'); setImmediate(push, 'immediate'); queueMicrotask(() => push('microtask'))
let times = 0; const every = setInterval((name) => { push(name); if (++times === 2) { clearInterval(every); setTimeout(resolve, 20) } }, 10, 'interval').unref().ref() })
return order.join()`,
    answer: /^microtask,immediate,timeout,interval,interval$/,
  },
  text: {
    code: `const streaming = new TextDecoder('utf-8', { fatal: true }); const [a, b] = [streaming.decode(new Uint8Array([0xc3]), { stream: true }), streaming.decode(new Uint8Array([0xa4]))]
const wrong = thrownBy(() => new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([0xff])))
return [a + b, new TextEncoder().encode('ä').length, wrong instanceof TypeError, wrong.code, atob(btoa('x'))].join()`,
    answer: /^ä,2,true,ERR_ENCODING_INVALID_ENCODED_DATA,x$/,
  },
  URL: {
    code: `const url = new URL('/a?b=1&b=2', 'http://host:81'); url.searchParams.append('c', '3'); url.hash = 'd'; const wrong = thrownBy(() => new URL('no'))
return [url.href, url.searchParams.getAll('b').join('+'), [...new URLSearchParams({ e: 'f' })].join(), URL.canParse('http://x'), wrong.code].join(' ')`,
    answer: /^http:\/\/host:81\/a\?b=1&b=2&c=3#d 1\+2 e,f true ERR_INVALID_URL$/,
  },
  signals: {
    code: `const heard = []; const controller = new AbortController(); const { signal } = controller
const any = AbortSignal.any([signal, AbortSignal.timeout(60000)]); any.addEventListener('abort', ({ type, target }) => heard.push(type, target === any), { once: true }); signal.onabort = () => heard.push('on')
controller.abort(new Error('enough')); controller.abort()
const passed = await new Promise((resolve) => { const soon = AbortSignal.timeout(5); soon.addEventListener('abort', () => resolve(soon.reason.name)) })
return [...heard, any.reason.message, thrownBy(() => signal.throwIfAborted()).message, passed, AbortSignal.abort().reason.name].join()`,
    answer: /^(abort,true,on|on,abort,true),enough,enough,TimeoutError,AbortError$/,
  },
  clones: {
    code: `const original = { at: new Date(5), map: new Map([[1, new Uint8Array(2)]]) }; const copy = structuredClone(original); const wrong = thrownBy(() => structuredClone(() => {}))
return [copy !== original, copy.at instanceof Date, copy.map.get(1) instanceof Uint8Array, wrong.name].join()`,
    answer: /^true,true,true,DataCloneError$/,
  },
  'errors with properties of their own': {
    code: `class Refused extends Error { constructor(message) { super(message); this.name = 'Refused'; this.code = 'E' } }
const plain = new TypeError(); plain.message = 'set'; function Old() {}; Old.prototype = Object.create(Error.prototype); Old.prototype.constructor = Old; Old.prototype.name = 'Old'
return [new Refused('why'), plain.message, new Old().name, String(Object.assign({}, { constructor: 1, toString: () => 'text' }))].join()`,
    answer: /^Refused: why,set,Old,text$/,
  },
  'a stack with its own name and lines': { code: `return new Error('here').stack`, answer: /attempt@1\.0\.0:\d+:\d+/ },
  'numbers and dates as text': {
    code: `return [new Intl.NumberFormat('de').format(1234.5), (1234.5).toLocaleString('de'), typeof Temporal.Now.instant().epochMilliseconds].join(' ')`,
    answer: /^1\.234,5 1\.234,5 number$/,
  },
  'floats in a message': { code: `return new Float32Array(new Uint8Array(new Float32Array([1.5]).buffer).buffer)[0]`, answer: /^1\.5$/ },
  'functions made of text': { code: `return new Function('a', 'return a + 1')(1) + (0, eval)('2 + 2')`, answer: /^6$/ },
}

for (const tier of ['worker', 'process'] as const) {
  t.test(`a service in the ${tier} tier finds what it is promised, and no more`, async (t) => {
    const attempts = Object.entries(WORKS).map(([name, { code }]) => ({ name, code }))
    await runAttempts(attempts, { tier, onOutcome: ({ attempt, said }) => void t.match(said, WORKS[attempt.name]?.answer, attempt.name) })
  })
}
