/** To other threads: nested workers, channels, shared memory, the port to the agent. */
import type { Attempt } from '../attempt.ts'

export const THREADS: readonly Attempt[] = [
  {
    name: 'worker: a nested one without restrictions',
    code: `const { Worker } = await module_('worker_threads'); new Worker("require('fs').writeFileSync('" + DIRECTORY + "/escaped', '')", { eval: true, execArgv: [] }); await new Promise((resolve) => setTimeout(resolve, 300))`,
  },
  { name: 'worker: from a data URL', code: `new Worker('data:text/javascript,1'); return 'made'` },
  {
    name: 'worker: its data once more',
    code: `const { workerData } = await module_('worker_threads'); workerData.port.postMessage([{ type: 'log', level: 'info', message: 'forged', fields: {} }])`,
  },
  {
    name: 'worker: the port of its parent',
    code: `const { parentPort } = await module_('worker_threads'); parentPort.postMessage({ type: 'forged' }); return 'posted'`,
  },
  {
    name: 'worker: a message to the main thread',
    code: `const { postMessageToThread } = await module_('worker_threads'); await postMessageToThread(0, 'forged')`,
  },
  {
    name: 'worker: data of the environment',
    code: `const { setEnvironmentData } = await module_('worker_threads'); setEnvironmentData('forged', 1); return 'set'`,
  },
  { name: 'channel: a broadcast', code: `new BroadcastChannel('escape').postMessage('out'); await new Promise((resolve) => setTimeout(resolve, 100))` },
  {
    name: 'channel: a broadcast by its module',
    code: `const { BroadcastChannel } = await module_('worker_threads'); new BroadcastChannel('escape').postMessage('out'); await new Promise((resolve) => setTimeout(resolve, 100))`,
  },
  {
    name: 'port: the prototype of the port to the agent, by MessageChannel',
    code: `const { prototype } = MessagePort; const post = prototype.postMessage; prototype.postMessage = function (...all) { post.call(this, [{ type: 'log', level: 'info', message: 'forged', fields: {} }]); return post.apply(this, all) }`,
  },
  {
    name: 'port: the same, by the symbol that transfers a signal',
    code: `const { signal } = new AbortController()
for (let at = signal; at; at = Object.getPrototypeOf(at)) for (const symbol of Object.getOwnPropertySymbols(at)) {
  let ports = []
  try { const made = signal[symbol]?.(); ports = [...Object.values(made ?? {}), ...Object.values(made?.data ?? {})] } catch {}
  for (const port of ports) if (port?.postMessage) {
    for (let kind = Object.getPrototypeOf(port); kind; kind = Object.getPrototypeOf(kind)) for (const name of Reflect.ownKeys(kind)) {
      const was = Object.getOwnPropertyDescriptor(kind, name).value
      if (typeof was === 'function' && name !== 'constructor') try { kind[name] = function (...all) { try { this.postMessage?.([{ type: 'log', level: 'info', message: 'forged', fields: {} }]) } catch {} return was.apply(this, all) } } catch {}
    }
    return 'a port'
  }
}`,
  },
  {
    name: 'port: one in anything that can be reached',
    code: `const seen = new Set(); const queue = [globalThis, ctx, call, request, ctx.capabilities, ctx.services, new Error(), setTimeout(() => {}, 1), setInterval(() => {}, 1e6), setImmediate(() => {}), new AbortController(), new URL('http://a/?b=c'), new TextDecoder(), new TextEncoder(), new Event('a'), thrownBy(() => atob('?')), thrownBy(() => new URL('')), thrownBy(() => structuredClone(() => {}))]
hooks.feed = async (requests) => { queue.push(requests, requests[Symbol.asyncIterator]()); walk(); return text('fed') }
const walk = () => {
  while (queue.length > 0) {
    const one = queue.pop()
    if ((typeof one !== 'object' && typeof one !== 'function') || one === null || seen.has(one)) continue
    seen.add(one)
    try { if (typeof one.postMessage === 'function') one.postMessage([{ type: 'log', level: 'info', message: 'forged', fields: {} }]) } catch {}
    try { if (typeof one.kill === 'function') useProcess(one) } catch {}
    try { if (typeof one === 'function' && one.name === 'require') one('node:fs').writeFileSync(DIRECTORY + '/escaped', '') } catch {}
    queue.push(Object.getPrototypeOf(one))
    for (const key of Reflect.ownKeys(one)) {
      const { value, get, set } = Object.getOwnPropertyDescriptor(one, key) ?? {}
      queue.push(value, get, set)
      try { queue.push(one[key]) } catch {}
    }
  }
}
walk()
return seen.size`,
  },
  {
    name: 'memory: SharedArrayBuffer and Atomics',
    code: `const shared = new SharedArrayBuffer(8); Atomics.wait(new Int32Array(shared), 0, 0, 60000); return 'waited'`,
  },
  {
    name: 'memory: shared by WebAssembly',
    code: `const { buffer } = new WebAssembly.Memory({ initial: 1, maximum: 10, shared: true }); return buffer.constructor.name`,
  },
  { name: 'memory: code of WebAssembly', code: `return new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])).toString()` },
  {
    name: 'memory: the constructor behind shared bytes of the host',
    code: `const { buffer } = ctx.sharedBytes(8); const kind = buffer.constructor; kind.prototype.polluted = 1; Object.defineProperty(kind, Symbol.hasInstance, { value: () => true }); Object.setPrototypeOf(kind.prototype, null)`,
  },
  {
    name: 'memory: the pool behind a request',
    code: `const outside = new Uint8Array(request.buffer).slice(request.byteLength); if (outside.length > 0) loot.push('forged: ' + outside.length + ' bytes of somebody else'); return outside.length`,
  },
  {
    name: 'memory: the pool behind encoded text',
    code: `const { buffer, byteLength } = new TextEncoder().encode('x'); if (buffer.byteLength > byteLength) loot.push('forged: a pool of ' + buffer.byteLength)`,
  },
  {
    name: 'memory: the pool behind messages of a stream',
    code: `hooks.feed = async (requests) => { for await (const one of requests) if (one.buffer.byteLength !== one.byteLength) loot.push('forged: a pool of ' + one.buffer.byteLength); return text('fed') }`,
  },
  { name: 'memory: Buffer and its pool', code: `return Buffer.allocUnsafe(1 << 16).toString('latin1') + new Uint8Array(Buffer.from('x').buffer).join()` },
  {
    name: 'memory: bytes grown after they were given',
    code: `const buffer = new ArrayBuffer(4, { maxByteLength: 1 << 20 }); const view = new Uint8Array(buffer); hooks.flow = async function* () { yield view; buffer.resize(1 << 20); yield view }; return 'given'`,
  },
]
