/**
 * How long calls are held at a swap that moves 1 KB, 1 MB and 50 MB of state, beside a bare transfer of an ArrayBuffer of 50 MB from one
 * worker to another in the same run (from the order to send to the taker's word that it has it). ratio50: held time with 50 MB in memory
 * that both versions share (`ctx.sharedBytes`, the documented way for large state) to that transfer; ratio50Moved: with 50 MB that are
 * moved, with a checksum on either side while clients wait. In alternating turns, after a few that are not counted.
 *
 *   npm run bench -- swap-state [--json] [--turns 9]
 */
import { MessageChannel, Worker } from 'node:worker_threads'
import { parseArgs } from 'node:util'
import { createSupervisor } from '../agent/supervisor/supervisor.ts'
import type { VerifiedBundle } from '../agent/supervisor/types.ts'
import { counterBundle, hostText, payloadOf } from '../test/fixtures/services/counter/bundle.ts'
import { median, report } from './report.ts'

const { values } = parseArgs({ options: { json: { type: 'boolean' }, turns: { type: 'string' } } })
const turns = Number(values.turns ?? 9)
const WARM_UP = 2
const KB = 1024
const MB = 1024 * KB

const STATES = [
  { name: '1 KB', config: { sizeBytes: KB } },
  { name: '1 MB', config: { sizeBytes: MB - KB } },
  { name: '50 MB', config: { sizeBytes: 50 * MB, shared: true } },
  { name: '50 MB moved', config: { sizeBytes: 50 * MB, once: true } },
] as const

async function bundleOf(name: string, version: string): Promise<VerifiedBundle> {
  const methods = [{ path: `/test.${name}/Next`, kind: 'unary' }] as const
  const bundle = await counterBundle(version, {
    name,
    methods,
    capabilities: [],
    snapshot: { writes: [1], reads: [1] },
    heapMbMax: 64,
    limits: { memoryMbMax: 1_024 },
  })
  const code = Buffer.from(await payloadOf('test/fixtures/services/stateful/service.ts')).toString()
  return { ...bundle, payload: Buffer.from(code.replace('/test.Counter/Next', `/test.${name}/Next`)) }
}

const BARE = `
const { parentPort } = require('node:worker_threads')
let peer, bytes
parentPort.on('message', (message) => {
  if (message.port) {
    peer = message.port
    peer.on('message', (got) => { bytes = got; parentPort.postMessage(got.byteLength) })
  } else if (message === 'make') { bytes = new Uint8Array(${50 * MB}).fill(7); parentPort.postMessage('made') }
  else if (message === 'drop') { bytes = undefined; parentPort.postMessage('dropped') }
  else peer.postMessage(bytes, [bytes.buffer])
})`

/** Two workers that hand 50 MB from one to the other. */
async function bareTransfer(): Promise<{ once(): Promise<number>; close(): Promise<void> }> {
  const [giver, taker] = [new Worker(BARE, { eval: true }), new Worker(BARE, { eval: true })]
  const { port1, port2 } = new MessageChannel()
  giver.postMessage({ port: port1 }, [port1])
  taker.postMessage({ port: port2 }, [port2])
  const heard = (worker: Worker) => new Promise<unknown>((resolve) => worker.once('message', resolve))
  const tell = async (worker: Worker, what: string) => {
    const answer = heard(worker)
    worker.postMessage(what)
    await answer
  }
  return {
    once: async () => {
      await tell(giver, 'make')
      const arrived = heard(taker)
      const startMs = performance.now()
      giver.postMessage('send')
      await arrived
      const tookMs = performance.now() - startMs
      await tell(taker, 'drop')
      return tookMs
    },
    close: async () => void (await Promise.all([giver.terminate(), taker.terminate()])),
  }
}

const host = {
  capability: async () => ({}),
  log: (service: string, level: string, message: string) =>
    void (level === 'error' && !message.includes('no state of its own') && process.stderr.write(`${service}: ${message}\n`)),
  methodsChanged: () => {},
}
const supervisor = createSupervisor(host, { hostText: await hostText() })
const bare = await bareTransfer()
try {
  const samples: Record<string, { samples: number[]; unit: string }> = {}
  const keep = (turn: number, name: string, ms: number) => {
    samples[name] ??= { samples: [], unit: 'ms' }
    if (turn >= WARM_UP) samples[name].samples.push(ms)
  }
  const services = STATES.map((state, at) => ({ ...state, service: `state${at}` }))
  for (const { service, config } of services) {
    await supervisor.install(await bundleOf(service, '1.0.0'), config)
    await supervisor.commit(service)
  }
  for (let turn = 0; turn < turns + WARM_UP; turn++) {
    for (const { name, service, config } of services) {
      const { heldMs } = await supervisor.swap(await bundleOf(service, `1.${turn + 1}.0`), config)
      await supervisor.commit(service)
      keep(turn, name, heldMs)
    }
    keep(turn, 'bare transfer of 50 MB', await bare.once())
  }
  const of = (name: string) => median(samples[name]?.samples ?? [])
  const floor = of('bare transfer of 50 MB')
  report('swap-state', samples, {
    ...{ heldMs1KB: of('1 KB'), heldMs1MB: of('1 MB'), heldMs50MB: of('50 MB'), heldMs50MBMoved: of('50 MB moved'), bareMs: floor },
    ...{ ratio50: of('50 MB') / floor, ratio50Moved: of('50 MB moved') / floor },
  })
} finally {
  await bare.close()
  await supervisor.close()
}
process.exit(0)
