/** The agent's main thread gives back what it no longer uses, when it has worked and is idle; supervisor/idle.ts has the policy. */
import type { Clock } from '../core/clock.ts'
import { IdleCollection, type IdleLimits } from './supervisor/idle.ts'
import { AGENT_IDLE } from './supervisor/limits.ts'

const LOOK_MS = 1_000

export interface CollectOptions {
  readonly clock: Clock
  /** Stops the thread for as long as it takes: 60 ms with 20 MiB of live objects. */
  readonly collect: () => void
  /** CPU time of this thread since its start, milliseconds. */
  readonly cpuMs?: () => number
  readonly limits?: IdleLimits
}

/** From now on; the result ends it. */
export function collectWhenIdle({ clock, collect, cpuMs = threadCpuMs, limits = AGENT_IDLE }: CollectOptions): () => void {
  const idle = new IdleCollection(limits)
  let cancel = () => {}
  const look = () => {
    if (idle.due(clock.monotonicMs(), cpuMs())) collect()
    cancel = clock.after(LOOK_MS, look)
  }
  look()
  return () => cancel()
}

/** Undefined where Node was started without --expose-gc (agent/node.json has it). */
export function collector(): (() => void) | undefined {
  const { gc } = globalThis
  // Of the flavours only this one also gives V8's spare pages back to the system.
  return gc && (() => void gc({ type: 'major', execution: 'sync', flavor: 'last-resort' }))
}

function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1_000
}
