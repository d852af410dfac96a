/**
 * Takes Node's own globals away from the realm in which the host runs. Service code has globals of its own (compartment.ts); this leaves
 * nothing there for one that should find the realm's.
 */

/** Beside the globals of ECMAScript itself. */
const KEPT: readonly string[] = [
  ...['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'clearImmediate', 'queueMicrotask', 'structuredClone'],
  ...['TextEncoder', 'TextDecoder', 'AbortController', 'AbortSignal', 'Event', 'EventTarget', 'DOMException', 'URL', 'URLSearchParams'],
  ...['performance', 'console', 'atob', 'btoa'],
]

const ECMASCRIPT: readonly string[] = [
  ...['globalThis', 'Infinity', 'NaN', 'undefined', 'isFinite', 'isNaN', 'parseFloat', 'parseInt', 'eval', 'escape', 'unescape'],
  ...['decodeURI', 'decodeURIComponent', 'encodeURI', 'encodeURIComponent', 'Object', 'Function', 'Boolean', 'Symbol', 'Number', 'BigInt'],
  ...['Math', 'Date', 'Temporal', 'String', 'RegExp', 'Array', 'Map', 'Set', 'WeakMap', 'WeakSet', 'WeakRef', 'FinalizationRegistry', 'JSON'],
  ...['Promise', 'Proxy', 'Reflect', 'Iterator', 'AsyncIterator', 'Intl', 'Atomics', 'ArrayBuffer', 'SharedArrayBuffer', 'DataView'],
  ...['Int8Array', 'Uint8Array', 'Uint8ClampedArray', 'Int16Array', 'Uint16Array', 'Int32Array', 'Uint32Array', 'BigInt64Array'],
  ...['BigUint64Array', 'Float16Array', 'Float32Array', 'Float64Array', 'Error', 'AggregateError', 'EvalError', 'RangeError'],
  ...['ReferenceError', 'SyntaxError', 'TypeError', 'URIError', 'SuppressedError', 'DisposableStack', 'AsyncDisposableStack'],
]

/** Deletes every other global: `process`, `require`, `Buffer`, `fetch`, `BroadcastChannel` and whatever a later Node adds. */
export function hideNodeGlobals(): void {
  const kept = new Set([...KEPT, ...ECMASCRIPT])
  for (const name of Object.getOwnPropertyNames(globalThis)) {
    if (!kept.has(name)) Reflect.deleteProperty(globalThis, name)
  }
}
