/**
 * Calls of one service to another, through the agent's relay, beside the same two ends joined by a MessagePort of their own, in
 * alternating slices of one run. A direct port is the floor that cannot be had: nobody could hold its calls at a swap, count them or end
 * them. relayRatio64 and relayRatio1: calls per second with 64 and 1 in flight, relay to direct. mainCpuUs: CPU time of the agent's main
 * thread per call at 64 in flight. `--quick`: short slices.
 */
import { once } from 'node:events'
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import { build } from 'esbuild'
import { Front } from '../test/fixtures/services/pair/methods.ts'
import { ask, pairBundle, startPair } from '../test/fixtures/services/pair/bundle.ts'
import { median, report } from './report.ts'

const quick = process.argv.includes('--quick')
const SLICES = quick ? 3 : 9
const SLICE_MS = quick ? 700 : 1_500

interface Peer {
  readonly name: 'relay' | 'direct'
  /** Calls answered. */
  run(inFlight: number, durationMs: number): Promise<number>
  close(): Promise<unknown>
}

async function relay(): Promise<Peer> {
  const { supervisor } = await startPair()
  return {
    name: 'relay',
    run: async (inFlight, durationMs) => Number((await ask(supervisor, Front.Load, JSON.stringify({ inFlight, durationMs }))).answers[0]),
    close: async () => await supervisor.close(),
  }
}

async function direct(): Promise<Peer> {
  const entry = `${import.meta.dirname}/service-calls/direct.ts`
  const banner = { js: "import { createRequire } from 'node:module'\nconst require = createRequire('file:///')" }
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, write: false, platform: 'node', target: 'node26', format: 'esm', banner })
  const script = new URL(`data:text/javascript;base64,${Buffer.from(outputFiles[0]?.contents ?? []).toString('base64')}`)
  const { port1, port2 } = new MessageChannel()
  const start = async (name: 'front' | 'back', port: MessagePort) => {
    const code = new TextDecoder().decode((await pairBundle(name, '1.0.0')).payload)
    const worker = new Worker(script, { workerData: { port, name, code }, transferList: [port] })
    await once(worker, 'message')
    return worker
  }
  const [caller, callee] = await Promise.all([start('front', port1), start('back', port2)])
  return {
    name: 'direct',
    run: async (inFlight, durationMs) => {
      caller.postMessage(new TextEncoder().encode(JSON.stringify({ inFlight, durationMs })))
      return (await once(caller, 'message'))[0]
    },
    close: async () => await Promise.all([caller.terminate(), callee.terminate()]),
  }
}

const peers = [await relay(), await direct()]
try {
  const samples: Record<string, { samples: number[]; unit: string }> = {}
  const keep = (name: string, value: number, unit: string) => {
    samples[name] ??= { samples: [], unit }
    samples[name].samples.push(value)
  }
  // Until both have compiled what is hot.
  for (const peer of peers) await peer.run(64, quick ? 1_000 : 3_000)
  for (let turn = 0; turn < SLICES; turn++) {
    for (const inFlight of [64, 1]) {
      for (const peer of turn % 2 === 0 ? peers : peers.toReversed()) {
        const before = process.threadCpuUsage()
        const answered = await peer.run(inFlight, SLICE_MS)
        const { user, system } = process.threadCpuUsage(before)
        keep(`${peer.name}, ${inFlight} in flight`, (answered * 1_000) / SLICE_MS, 'calls/s')
        if (peer.name === 'relay') keep(`main thread, ${inFlight} in flight`, (user + system) / answered, 'us CPU/call')
      }
    }
  }
  const of = (row: string) => median(samples[row]?.samples ?? [])
  report('service-calls', samples, {
    relayRatio64: of('relay, 64 in flight') / of('direct, 64 in flight'),
    relayRatio1: of('relay, 1 in flight') / of('direct, 1 in flight'),
    mainCpuUs: of('main thread, 64 in flight'),
  })
} finally {
  for (const peer of peers) await peer.close()
}
process.exit(0)
