/** Whether a version that has just gone live on a device may stay. Pure: what was seen goes in, a verdict comes out. */
import { ChangeState, type ServiceStatus } from '../../proto/gen/lifecycle.ts'

export const HEALTH = ['unknown', 'healthy', 'degraded', 'unhealthy'] as const
export type HealthName = (typeof HEALTH)[number]

/** What one look at the device showed of the service. */
export interface Seen {
  readonly version: string
  readonly health: HealthName
  readonly healthReason: string
  /** What the service rests its health on. */
  readonly numbers?: Readonly<Record<string, number>>
  /** The change in progress or the newest one, if it is the one we ask about. */
  readonly change: { readonly state: 'pending' | 'provisional' | 'confirmed' | 'reverted'; readonly reason: string; readonly error: string } | null
}

/** What was seen when it was decided last whether a version may stay: kept with the decision, for whoever asks for its grounds. */
export interface GateEvidence {
  readonly atMs: number
  /** Since the version went live. */
  readonly liveMs: number
  readonly healthBefore: HealthName
  readonly health: HealthName
  readonly numbers: Readonly<Record<string, number>>
}

export interface GateInput {
  readonly version: string
  /** Null: the look failed. `absent`: the device answers and does not run the service. */
  readonly seen: Seen | 'absent' | null
  /** Health of the version before; unknown for a first install. */
  readonly healthBefore: HealthName
  /** Since the version went live, milliseconds. */
  readonly elapsedMs: number
  readonly bakeMs: number
  readonly confirmTimeoutMs: number
}

export type Verdict =
  | { readonly do: 'wait'; readonly reason: string }
  | { readonly do: 'confirm' }
  | { readonly do: 'revert'; readonly reason: string }
  | { readonly do: 'done' }
  | { readonly do: 'reverted'; readonly reason: string; readonly error: string }
  | { readonly do: 'lost'; readonly reason: string }

/** A device that cannot be seen is given up this long after it must have undone the change by itself. */
export const lostAfterMs = 10_000
/** The last moment for a Confirm is this much before the device's deadline, or a quarter of the time, whichever is less. */
export const confirmMarginMs = 5_000

export function judge(input: GateInput): Verdict {
  const { seen, version, elapsedMs, bakeMs, confirmTimeoutMs } = input
  if (seen === null) {
    if (elapsedMs > confirmTimeoutMs + lostAfterMs) {
      return { do: 'lost', reason: `no answer since before its confirm deadline (${confirmTimeoutMs} ms), so it has gone back to the version before by itself` }
    }
    return { do: 'wait', reason: 'it does not answer' }
  }
  if (seen === 'absent') return { do: 'reverted', reason: 'the device no longer runs the service; it may have restarted', error: '' }
  if (seen.change?.state === 'reverted') return { do: 'reverted', reason: seen.change.reason, error: seen.change.error }
  if (seen.change?.state === 'confirmed') return { do: 'done' }
  if (seen.version !== version) return { do: 'reverted', reason: `the device runs ${seen.version} again`, error: '' }
  // It runs the new version and no change is open: somebody's Confirm, ours perhaps, went through.
  if (seen.change === null) return { do: 'done' }
  if (seen.health === 'unhealthy') return { do: 'revert', reason: `${version} is unhealthy: ${seen.healthReason}` }
  if (elapsedMs < bakeMs) return { do: 'wait', reason: `baking, ${Math.ceil((bakeMs - elapsedMs) / 1000)} s left; ${seen.health}` }
  const worse = seen.health === 'unknown' || (seen.health === 'degraded' && input.healthBefore === 'healthy')
  if (!worse) return { do: 'confirm' }
  const marginMs = Math.min(confirmMarginMs, confirmTimeoutMs / 4)
  if (elapsedMs >= confirmTimeoutMs - marginMs) {
    return { do: 'revert', reason: `${version} is ${seen.health}, the version before was ${input.healthBefore}: ${seen.healthReason}` }
  }
  return { do: 'wait', reason: `waits for its health, ${seen.health} now, ${input.healthBefore} before: ${seen.healthReason}` }
}

/**
 * Reads a status for the gate. It shows one open change of the service: where that is another one (a configuration, say), ours may
 * be open behind it, so it counts as open; Confirm, which names ours, tells.
 */
export function seenOf(status: ServiceStatus | null, changeId: string): Seen | 'absent' {
  if (!status) return 'absent'
  const { change } = status
  const ours = change && change.id === changeId
  const hidden = change && !ours && ['pending', 'provisional'].includes(changeStateOf(change.state))
  return {
    version: status.version,
    health: healthOf(status),
    healthReason: status.health?.reason ?? '',
    numbers: { ...status.health?.evidence },
    change: ours
      ? { state: changeStateOf(change.state), reason: change.reason, error: change.error }
      : hidden
        ? { state: 'provisional', reason: '', error: '' }
        : null,
  }
}

export function healthOf(status: ServiceStatus): HealthName {
  return HEALTH[status.health?.status ?? 0] ?? 'unknown'
}

export function changeStateOf(state: number): 'pending' | 'provisional' | 'confirmed' | 'reverted' {
  if (state === ChangeState.PROVISIONAL) return 'provisional'
  if (state === ChangeState.CONFIRMED) return 'confirmed'
  return state === ChangeState.REVERTED ? 'reverted' : 'pending'
}
