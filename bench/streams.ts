/**
 * Updates of about 150 bytes per second on one server stream through the agent, beside a plain grpc-js server that streams the same
 * messages over the same TLS, in alternating slices of one run. ratio: to plain. mainCpuRatio: CPU time per update of the two main
 * threads. Both write as fast as their client reads and wait for its window. `--quick`: short slices, for development.
 */
import { TelemetryMethods } from '../proto/gen/telemetry.ts'
import { besidePlain, mainCpuUs, type Peer } from './beside-plain.ts'
import { frame } from './load.ts'
import { median, report } from './report.ts'

const quick = process.argv.includes('--quick')
const SLICES = quick ? 5 : 9
const UPDATES = quick ? 20_000 : 60_000

const { path, request } = TelemetryMethods.Stream
const pair = await besidePlain()
try {
  const samples: Record<string, { samples: number[]; unit: string }> = {}
  const keep = (name: string, value: number, unit: string) => {
    samples[name] ??= { samples: [], unit }
    samples[name].samples.push(value)
  }
  const stream = async (peer: Peer, updates: number) => {
    const startMs = performance.now()
    let bytes = 0
    await peer.load.call(path, frame(request.encode({ samples: updates })), (count) => {
      bytes += count
    })
    return { count: updates, perSecond: (updates * 1_000) / (performance.now() - startMs), updateBytes: bytes / updates }
  }
  for (const peer of pair.peers) await stream(peer, UPDATES)
  for (let turn = 0; turn < SLICES; turn++) {
    for (const peer of turn % 2 === 0 ? pair.peers : pair.peers.toReversed()) {
      const { perSecond, cpuUs, updateBytes } = await mainCpuUs(peer, async () => await stream(peer, UPDATES))
      keep(`${peer.name}, updates`, perSecond, 'updates/s')
      keep(`${peer.name}, main thread`, cpuUs, 'us CPU/update')
      keep(`${peer.name}, size`, updateBytes, 'bytes')
    }
  }
  const ratio = (what: string) => median(samples[`agent, ${what}`]?.samples ?? []) / median(samples[`plain, ${what}`]?.samples ?? [])
  report('streams', samples, { ratio: ratio('updates'), mainCpuRatio: ratio('main thread') })
} finally {
  await pair.close()
}
process.exit(0)
