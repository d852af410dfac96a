/** To other threads: nested workers, channels, shared memory, the port to the agent. */
import type { Attempt } from '../attempt.ts'

export const THREADS: readonly Attempt[] = [
  {
    name: 'worker: a nested one without restrictions',
    code: `const { Worker } = await module_('worker_threads'); new Worker("require('fs').writeFileSync('" + DIRECTORY + "/escaped', '')", { eval: true, execArgv: [] }); await new Promise((resolve) => setTimeout(resolve, 300))`,
  },
  {
    name: 'worker: its data once more',
    code: `const { workerData } = await module_('worker_threads'); took('the port to the agent', workerData?.port).postMessage([{ type: 'log', level: 'info', message: 'forged', fields: {} }])`,
  },
  {
    name: 'worker: the port of its parent',
    code: `const { parentPort } = await module_('worker_threads'); took('the port of its parent', parentPort); return 'found'`,
  },
  {
    name: 'worker: a message to the main thread',
    code: `const { postMessageToThread } = await module_('worker_threads'); await postMessageToThread(0, 'forged')`,
  },
  {
    name: 'worker: data of the environment',
    code: `const { setEnvironmentData } = await module_('worker_threads'); setEnvironmentData('escape', 1); took('the data of the environment', true)`,
  },
  {
    name: 'channel: a broadcast',
    code: `new (took('BroadcastChannel', BroadcastChannel))('escape').postMessage('out'); await new Promise((resolve) => setTimeout(resolve, 100))`,
  },
  {
    name: 'channel: a broadcast by its module',
    code: `const { BroadcastChannel } = await module_('worker_threads'); new BroadcastChannel('escape').postMessage('out'); await new Promise((resolve) => setTimeout(resolve, 100))`,
  },
  {
    name: 'port: the prototype of the port to the agent, by MessageChannel',
    code: `const { prototype } = took('MessagePort', MessagePort); const post = prototype.postMessage; prototype.postMessage = function (...all) { post.call(this, [{ type: 'log', level: 'info', message: 'forged', fields: {} }]); return post.apply(this, all) }`,
  },
  {
    name: 'port: the same, by the symbol that transfers a signal',
    code: `const { signal } = new AbortController()
for (let at = signal; at; at = Object.getPrototypeOf(at)) for (const symbol of Object.getOwnPropertySymbols(at)) {
  let ports = []
  try { const made = signal[symbol]?.(); ports = [...Object.values(made ?? {}), ...Object.values(made?.data ?? {})] } catch {}
  for (const port of ports) if (port?.postMessage) {
    took('a port', port)
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
    // A capability has every name there is, and is neither.
    let isCapability = false
    try { isCapability = typeof one.noSuchName === 'function' } catch {}
    try { if (typeof one.postMessage === 'function') (isCapability ? one : took('a port', one)).postMessage([{ type: 'log', level: 'info', message: 'forged', fields: {} }]) } catch {}
    try { if (typeof one.kill === 'function') isCapability ? one.kill(AGENT_PID, 'SIGUSR2') : useProcess(one) } catch {}
    try { if (typeof one === 'function' && one.name === 'require') useFiles(one('node:fs')) } catch {}
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
    code: `const shared = new (took('SharedArrayBuffer', SharedArrayBuffer))(8); await heard(); Atomics.wait(new Int32Array(shared), 0, 0, 60000); return 'waited'`,
  },
  {
    name: 'memory: shared by WebAssembly',
    code: `const { buffer } = new (took('WebAssembly', WebAssembly)).Memory({ initial: 1, maximum: 10, shared: true }); return buffer.constructor.name`,
  },
  {
    name: 'memory: code of WebAssembly',
    code: `return new (took('WebAssembly', WebAssembly)).Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])).toString()`,
  },
  {
    name: 'memory: the constructor behind shared bytes of the host',
    code: `const { buffer } = ctx.sharedBytes(8); const kind = buffer.constructor; kind.prototype.polluted = 1; took('the prototype of shared bytes', kind.prototype.polluted); Object.defineProperty(kind, Symbol.hasInstance, { value: () => true }); Object.setPrototypeOf(kind.prototype, null)`,
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
  {
    name: 'memory: Buffer and its pool',
    code: `return took('Buffer', Buffer).allocUnsafe(1 << 16).toString('latin1') + new Uint8Array(Buffer.from('x').buffer).join()`,
  },
  {
    name: 'memory: bytes grown after they were given',
    code: `const buffer = new ArrayBuffer(4, { maxByteLength: 1 << 20 }); const view = new Uint8Array(buffer).fill(97); hooks.flow = async function* () { yield view; buffer.resize(1 << 20); yield view }; return 'given'`,
    flows: /^aaaa\n/,
  },
]
