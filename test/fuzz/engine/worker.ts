/** One campaign in a thread of its own, so that it can be ended when it hangs. Coverage starts before the reader is loaded: V8 counts no blocks of what was compiled before. */
import { parentPort, workerData } from 'node:worker_threads'
import type { Target } from '../target.ts'
import { type Bounds, type Progress, runCampaign } from './campaign.ts'
import { Coverage } from './coverage.ts'
import { Random } from './random.ts'

export interface CampaignOrder {
  /** A module whose `TARGETS` hold it. */
  readonly module: string
  readonly target: string
  readonly seed: number
  /** blind: coverage is measured and steers nothing. off: it is not measured, for what would take too long with it. */
  readonly coverage: 'guided' | 'blind' | 'off'
  /** Ends after so many, or this long after the reader was loaded, whichever is first. */
  readonly executionsMax: number
  readonly forMs: number
  /** What the URL of code that counts begins with. */
  readonly covers: readonly string[]
  readonly bounds: Bounds
  /** Kinds of crash after which it ends. */
  readonly crashesMax: number
  /** Two numbers: executions begun, and bytes of the present input. */
  readonly state: SharedArrayBuffer
  /** The present input. */
  readonly input: SharedArrayBuffer
}

export interface CampaignReport {
  readonly executions: number
  readonly outcomes: Readonly<Record<string, number>>
  readonly corpus: number
  readonly blocks: { readonly run: number; readonly seen: number }
  readonly crashes: readonly { readonly text: string; readonly input: Uint8Array }[]
}

const order = workerData as CampaignOrder
const coverage = order.coverage === 'off' ? null : new Coverage(order.covers)
const { TARGETS } = (await import(order.module)) as { TARGETS: readonly Target[] }
const target = TARGETS.find(({ name }) => name === order.target)
if (!target) throw new Error(`no target ${order.target}`)

const untilMs = performance.now() + order.forMs
const state = new Int32Array(order.state)
const shared = new Uint8Array(order.input)
const progress: Progress = await runCampaign({
  target,
  random: new Random(order.seed),
  coverage,
  guided: order.coverage === 'guided',
  bounds: order.bounds,
  goesOn: ({ executions, crashes }) => executions < order.executionsMax && crashes.size < order.crashesMax && performance.now() < untilMs,
  before: (input) => {
    shared.set(input.subarray(0, shared.length))
    Atomics.store(state, 1, Math.min(input.length, shared.length))
    Atomics.add(state, 0, 1)
  },
})
const report: CampaignReport = {
  executions: progress.executions,
  outcomes: progress.outcomes,
  corpus: progress.corpus,
  blocks: coverage?.reached ?? { run: 0, seen: 0 },
  crashes: [...progress.crashes.values()].map(({ message, input }) => ({ text: message, input })),
}
parentPort?.postMessage(report)
