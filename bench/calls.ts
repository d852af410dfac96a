/**
 * Unary calls through the agent (TLS, authorization, audit, the hop to the worker and back) beside a plain grpc-js server that answers the
 * same method with the same messages and codec over the same TLS, in alternating slices of one run. ratio64 and ratio1: calls per
 * second with 64 and 1 in flight, to plain. mainCpuRatio: CPU time per call of the agent's main thread to that of the plain server's,
 * at 64 in flight; unlike calls per second it does not depend on how many cores are free for the client and the worker. The client is
 * bench/load.ts. `--quick`: short slices, for development.
 */
import { TelemetryMethods } from '../proto/gen/telemetry.ts'
import { besidePlain, mainCpuUs, type Peer } from './beside-plain.ts'
import { frame } from './load.ts'
import { median, report } from './report.ts'

const quick = process.argv.includes('--quick')
/** Odd, so that the median is a measured slice; each peer goes first in every other one. */
const SLICES = quick ? 3 : 9
const SLICE_MS = quick ? 700 : 1_500

const { path, request } = TelemetryMethods.Get
const asked = frame(request.encode({ callSequence: 7 }))
const pair = await besidePlain()
try {
  const samples: Record<string, { samples: number[]; unit: string }> = {}
  const keep = (name: string, value: number, unit: string) => {
    samples[name] ??= { samples: [], unit }
    samples[name].samples.push(value)
  }
  const slice = async (peer: Peer, inFlight: number) => {
    const { perSecond, cpuUs } = await mainCpuUs(peer, async () => await peer.load.unaryPerSecond(path, asked, inFlight, SLICE_MS))
    keep(`${peer.name}, ${inFlight} in flight`, perSecond, 'calls/s')
    keep(`${peer.name}, main thread, ${inFlight}`, cpuUs, 'us CPU/call')
  }
  // Until both have compiled what is hot.
  for (const { load } of pair.peers) await load.unaryPerSecond(path, asked, 64, quick ? 1_500 : 3_000)
  for (let turn = 0; turn < SLICES; turn++) {
    for (const inFlight of [64, 1]) for (const peer of turn % 2 === 0 ? pair.peers : pair.peers.toReversed()) await slice(peer, inFlight)
  }
  const ratio = (what: string) => median(samples[`agent, ${what}`]?.samples ?? []) / median(samples[`plain, ${what}`]?.samples ?? [])
  report('calls', samples, { ratio64: ratio('64 in flight'), ratio1: ratio('1 in flight'), mainCpuRatio: ratio('main thread, 64') })
} finally {
  await pair.close()
}
process.exit(0)
