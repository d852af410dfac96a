/**
 * A service in a process of its own beside the same one in a worker: calls per second with 64 and with 1 in flight, through the
 * supervisor alone (no TLS, no gRPC), what a call costs the agent's main thread, time until it is ready, and the memory that it adds.
 * Slices and starts alternate.
 */
import { createSupervisor } from '../agent/supervisor/supervisor.ts'
import type { Supervisor, SupervisorHost } from '../agent/supervisor/types.ts'
import { TIERS, type Tier } from '../core/manifest.ts'
import { ask } from '../test/agent/supervisor/harness.ts'
import { counterBundle, hostText, processHostText } from '../test/fixtures/services/counter/bundle.ts'
import { memoryOf, sumMb } from './memory/pss.ts'
import { median, report } from './report.ts'

const SAMPLES = 7
const SLICE_MS = 1_000
const machine: SupervisorHost = { capability: async () => ({}), log: () => {}, methodsChanged: () => {} }

type Samples = Record<Tier, number[]>
const samples = (): Samples => ({ worker: [], process: [] })

const texts = { hostText: await hostText(), tiers: { processHostText: await processHostText(), key: `bench-${process.pid}` } }
const supervisors: Record<Tier, Supervisor> = { worker: createSupervisor(machine, texts), process: createSupervisor(machine, texts) }
const startMs = samples()
const addedMb = samples()
const calls64 = samples()
const calls1 = samples()
const mainUs = samples()

for (let sample = 0; sample <= SAMPLES; sample++) {
  for (const tier of TIERS) {
    const before = sumMb(memoryOf(process.pid))
    const tookMs = await start(tier)
    // The first of each compiles, and asks the machine what it can.
    if (sample > 0) startMs[tier].push(tookMs)
    if (sample > 0) addedMb[tier].push(sumMb(memoryOf(process.pid)) - before)
    await supervisors[tier].remove('counter')
  }
}
for (const tier of TIERS) await start(tier)
for (let sample = 0; sample <= SAMPLES; sample++) {
  for (const tier of TIERS) {
    const cpu = process.threadCpuUsage()
    const many = await callsPerSecond(supervisors[tier], 64)
    const { user, system } = process.threadCpuUsage(cpu)
    const one = await callsPerSecond(supervisors[tier], 1)
    if (sample > 0) mainUs[tier].push((user + system) / ((many * SLICE_MS) / 1_000))
    if (sample > 0) calls64[tier].push(many)
    if (sample > 0) calls1[tier].push(one)
  }
}
const confinement = supervisors.process.get('counter')?.confinement.join(', ') ?? ''
for (const tier of TIERS) await supervisors[tier].close()

const rows = {
  'start, ms': startMs,
  'memory added, MB': addedMb,
  'calls/s, 64 in flight': calls64,
  'calls/s, 1 in flight': calls1,
  'main thread per call, us': mainUs,
}
const ratio = ({ worker, process }: Samples) => median(process) / median(worker)
report('tiers', Object.fromEntries(Object.entries(rows).flatMap(([name, of]) => TIERS.map((tier) => [`${name}: ${tier}`, { samples: of[tier], unit: '' }]))), {
  ratio64: ratio(calls64),
  ratio1: ratio(calls1),
  mainCpuRatio: ratio(mainUs),
  startRatio: ratio(startMs),
  startMs: median(startMs.process),
  workerMb: median(addedMb.worker),
  processMb: median(addedMb.process),
  confinement,
})
process.exit(0)

async function start(tier: Tier): Promise<number> {
  const bundle = await counterBundle('1.0.0', { tier })
  const beganMs = performance.now()
  await supervisors[tier].install(bundle, {})
  return performance.now() - beganMs
}

async function callsPerSecond(supervisor: Supervisor, inFlight: number): Promise<number> {
  const beganMs = performance.now()
  let done = 0
  const caller = async () => {
    while (performance.now() - beganMs < SLICE_MS) {
      const { error } = await ask(supervisor, 'Next')
      if (error) throw new Error(error)
      done++
    }
  }
  await Promise.all(Array.from({ length: inFlight }, caller))
  return (done * 1_000) / (performance.now() - beganMs)
}
