/** Sees a provisional change of a service through: watches its bake, probes it over a fresh connection, confirms or reverts. */
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { Change } from '../../proto/gen/lifecycle.ts'
import { changeStateOf, type GateEvidence, type HealthName, judge, type Seen, seenOf } from './gate.ts'
import type { DeviceRecord } from './record.ts'
import { type Dialer, type DeviceSession, openSession, withSession } from './session.ts'

/** Between two looks during a bake. */
export const pollIntervalMs = 500
/** One look: the device undoes the change while we wait for it. */
const lookTimeoutMs = 5_000

export interface SettleParts {
  readonly dialer: Dialer
  readonly clock: Clock
  /** The newest record: a device that boots again may come back at another address. */
  record(): DeviceRecord
  /** Ends the watch with its reason; nothing is confirmed or reverted. */
  readonly signal: AbortSignal
  /** Told of what the wait is for, whenever that changes. */
  progress(step: 'baking' | 'confirming', reason: string): Promise<void>
  /** Told of what each decision rests on. */
  judged?(evidence: GateEvidence): void
}

export interface SettleOrder {
  readonly service: string
  readonly version: string
  readonly changeId: string
  readonly healthBefore: HealthName
  readonly bakeMs: number
  readonly confirmTimeoutMs: number
  /** How long it has been live already, milliseconds. */
  readonly liveForMs: number
}

export type Outcome =
  | { readonly kind: 'confirmed' }
  /** `unhealthy`: it was the version itself that failed, not the circumstances. */
  | { readonly kind: 'reverted'; readonly reason: string; readonly error: string; readonly unhealthy: boolean }
  | { readonly kind: 'lost'; readonly reason: string }

/** @throws the signal's reason when it aborts; nothing else */
export async function settle(parts: SettleParts, order: SettleOrder): Promise<Outcome> {
  const { clock, signal } = parts
  const startedMs = clock.monotonicMs() - order.liveForMs
  const watch = new Watch(parts)
  const life = await lifeOf(parts)
  try {
    for (;;) {
      signal.throwIfAborted()
      const seen = await watch.look(order)
      const elapsedMs = clock.monotonicMs() - startedMs
      if (seen && seen !== 'absent' && seen.version === order.version) parts.judged?.(evidenceOf(seen, order, { atMs: clock.nowMs(), liveMs: elapsedMs }))
      const verdict = judge({ ...order, seen, elapsedMs })
      if (verdict.do === 'done') return { kind: 'confirmed' }
      if (verdict.do === 'lost') return { kind: 'lost', reason: verdict.reason }
      if (verdict.do === 'reverted') return await explain(parts, order, verdict, life)
      if (verdict.do === 'revert') return await giveUp(parts, order, verdict.reason)
      if (verdict.do === 'wait') await parts.progress('baking', verdict.reason)
      if (verdict.do === 'confirm') {
        await parts.progress('confirming', 'confirms over a fresh connection')
        if (await confirmFresh(parts, order)) return { kind: 'confirmed' }
      }
      await pause(clock, pollIntervalMs, signal)
    }
  } finally {
    watch.close()
  }
}

/** Undoes a change. Resolves to null when it had been confirmed before. @throws RpcError the device could not be reached */
export async function revertChange(parts: Pick<SettleParts, 'dialer' | 'record'>, changeId: string, reason: string): Promise<Change | null> {
  try {
    return await withSession(parts.dialer, parts.record(), async (session) => await session.revert(changeId, reason))
  } catch (error) {
    if (error instanceof OffboxError && error.code === 'STATE_REFUSED') return null
    throw error
  }
}

/** Resolves after `delayMs`. @throws the signal's reason */
export async function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  await new Promise<void>((resolve, reject) => {
    const stop = () => {
      cancel()
      reject(signal.reason)
    }
    const cancel = clock.after(delayMs, () => {
      signal.removeEventListener('abort', stop)
      resolve()
    })
    signal.addEventListener('abort', stop, { once: true })
  })
}

function evidenceOf({ health, numbers = {} }: Seen, { healthBefore }: SettleOrder, times: { atMs: number; liveMs: number }): GateEvidence {
  return { atMs: times.atMs, liveMs: Math.round(times.liveMs), healthBefore, health, numbers }
}

/** One connection for all looks of a bake, opened anew after a failure. */
class Watch {
  readonly #parts: SettleParts
  #session: DeviceSession | null = null

  constructor(parts: SettleParts) {
    this.#parts = parts
  }

  /** Null: the look failed. */
  async look(order: SettleOrder): Promise<Seen | 'absent' | null> {
    try {
      this.#session ??= openSession(this.#parts.dialer, this.#parts.record())
      return seenOf(await this.#session.service(order.service, { deadlineMs: lookTimeoutMs, signal: this.#parts.signal }), order.changeId)
    } catch (error) {
      if (!(error instanceof OffboxError)) throw error
      this.close()
      return null
    }
  }

  close(): void {
    this.#session?.close()
    this.#session = null
  }
}

/** Probes and confirms over one new connection. False: not this time; the next look tells why. */
async function confirmFresh(parts: SettleParts, order: SettleOrder): Promise<boolean> {
  try {
    return await withSession(parts.dialer, parts.record(), async (fresh) => {
      const seen = seenOf(await fresh.service(order.service, { deadlineMs: lookTimeoutMs }), order.changeId)
      if (seen === 'absent' || seen.version !== order.version || seen.health === 'unhealthy') return false
      return changeStateOf((await fresh.confirm(order.changeId)).state) === 'confirmed'
    })
  } catch (error) {
    if (error instanceof OffboxError) return false
    throw error
  }
}

async function giveUp(parts: SettleParts, order: SettleOrder, reason: string): Promise<Outcome> {
  try {
    const change = await revertChange(parts, order.changeId, reason)
    if (!change) return { kind: 'confirmed' }
    return { kind: 'reverted', reason, error: change.error || 'SWAP_ROLLED_BACK', unhealthy: true }
  } catch (error) {
    return {
      kind: 'reverted',
      reason: `${reason}; the order to go back did not arrive (${messageOf(error)}), the device does so by itself`,
      error: 'SWAP_ROLLED_BACK',
      unhealthy: true,
    }
  }
}

/** The device went back by itself: asks it why. Reverting a reverted change answers it again. */
async function explain(parts: SettleParts, order: SettleOrder, seen: { reason: string; error: string }, lifeBefore: string): Promise<Outcome> {
  let { reason, error } = seen
  try {
    const change = await revertChange(parts, order.changeId, 'asks for the reason')
    if (change?.reason) ({ reason, error } = change)
  } catch (failure) {
    // A device that booted again has forgotten the change; what was seen has to do.
    if (!(failure instanceof OffboxError)) throw failure
  }
  const lifeNow = await lifeOf(parts)
  const restarted = lifeBefore !== '' && lifeNow !== lifeBefore
  return { kind: 'reverted', reason: restarted ? `${reason} (the agent restarted)` : reason, error, unhealthy: error === 'SWAP_ROLLED_BACK' && !restarted }
}

/** Differs after a restart of the machine or of its agent, which reverts what was not confirmed: no fault of the version. Empty: not known. */
async function lifeOf(parts: SettleParts): Promise<string> {
  try {
    const { bootId, agentStarts } = await withSession(parts.dialer, parts.record(), async (session) => await session.info({ deadlineMs: lookTimeoutMs }))
    return `${bootId}/${agentStarts}`
  } catch (error) {
    if (error instanceof OffboxError) return ''
    throw error
  }
}
