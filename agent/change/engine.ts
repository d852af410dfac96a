/**
 * Carries changes out: records each new state durably, then does what the table (change.ts) says. One step of a change at a
 * time; different changes run at once.
 */
import type { Clock } from '../../core/clock.ts'
import { codeOf, type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import { changesSettledMax, settleRetryMsMax, settleRetryMsMin, stepsMax } from '../limits.ts'
import { changeCell, type ChangeEffect, type ChangeEvent } from './change.ts'
import type { Journal } from './journal.ts'
import { checkConfirm, kept, slotOf } from './rules.ts'
import type { ChangeEngine, ChangeHandler, ChangeKind, ChangeRecord, ProposedChange, StepMark, Track } from './types.ts'

export interface EngineOptions {
  readonly journal: Journal
  readonly clock: Clock
  readonly log: { info(fields: object, message: string): void; error(fields: object, message: string): void }
  /** Durable note of an intent, before anything is touched; a rejection refuses the change. */
  readonly audit?: (record: ChangeRecord) => Promise<void>
  /**
   * Makes the receipt of a change whose final effect has been carried out; its digest, or empty for a kind without. Asked again for the
   * same change it answers with the receipt that is there.
   */
  readonly receipt?: (record: ChangeRecord) => Promise<string>
}

interface Live {
  record: ChangeRecord
  handler: ChangeHandler
  /** Set when it became provisional in this process. */
  provisionalAtMonotonicMs: number
  /** A revert that came while a handler's step was under way. */
  doomed: { reason: string; error: ErrorCode | '' } | null
  /** Ends when the step under way has ended. */
  work: Promise<unknown>
  retryMs: number
  disarm: () => void
  /** Steps are counted from here, so that they go on in one line after a restart. */
  zeroMonotonicMs: number
  /** Ends when the steps so far are written. */
  stepped: Promise<unknown>
}

type Facts = Partial<Pick<ChangeRecord, 'reason' | 'error' | 'provisionalAtMs' | 'confirmDeadlineMs' | 'heldMs' | 'heldCalls'>>

export class Engine implements ChangeEngine {
  readonly #options: EngineOptions
  readonly #handlers = new Map<ChangeKind, ChangeHandler>()
  readonly #changes = new Map<string, Live>()
  readonly #listeners = new Set<(record: ChangeRecord) => void>()
  #recovered = false
  #closed = false
  #disarmOwed = () => {}

  constructor(options: EngineOptions) {
    this.#options = options
  }

  handle(kind: ChangeKind, handler: ChangeHandler): void {
    this.#handlers.set(kind, handler)
  }

  async recover(): Promise<void> {
    for (const record of await this.#options.journal.load()) {
      const handler = this.#handlers.get(record.kind)
      if (!handler && !record.settled) this.#options.log.error({ change: record.id, kind: record.kind }, 'a change of unknown kind stays unsettled')
      const live = this.#keep(record, handler ?? unknownKind)
      if (record.settled || !handler) continue
      const why = { reason: 'the agent restarted before it was confirmed', error: 'SWAP_ROLLED_BACK' as const }
      this.#add(live, 'restart')
      await this.#dispatch(live, 'restart', record.state === 'provisional' || record.state === 'staged' || record.state === 'proposed' ? why : {})
    }
    this.#recovered = true
    await this.#giveOwed(settleRetryMsMin)
    await this.#prune()
  }

  async propose(proposed: ProposedChange): Promise<ChangeRecord> {
    const handler = this.#handlers.get(proposed.kind)
    if (!handler || !this.#recovered || this.#closed) throw new OffboxError('STATE_REFUSED', 'the agent is starting or stopping; it takes no changes now')
    const { permanent = false, ...wanted } = proposed
    const slot = slotOf(wanted)
    const other = this.all().find((record) => slotOf(record) === slot && !record.settled)
    if (other) throw new OffboxError('SWAP_IN_PROGRESS', `change ${other.id} (${other.kind} ${other.service} ${other.to}, ${other.state}) holds the slot`)
    const blank = { error: '' as const, provisionalAtMs: 0, confirmDeadlineMs: 0, heldMs: 0, heldCalls: 0, settled: false, receipt: '' }
    const id = this.#options.journal.nextId()
    // From here on the slot is held: nothing was awaited since it was found free.
    const steps = [{ step: 'proposed', atMs: 0 }]
    const live = this.#keep({ id, ...wanted, ...blank, proposedAtMs: this.#options.clock.nowMs(), state: 'proposed', steps }, handler)
    try {
      await this.#options.audit?.(live.record)
      await this.#options.journal.write(live.record)
    } catch (error) {
      this.#changes.delete(id)
      // It may be there all the same, e.g. when only its directory could not be synced; a restart would then undo what never began.
      await this.#options.journal.forget(id).catch(() => {})
      throw error
    }
    this.#tell(live)
    const failure = await this.#exclusive(live, async () => await this.#run(live, permanent))
    if (failure) throw failure
    return { ...live.record }
  }

  async confirm(id: string, by: { principal: string; connectionOpenedAtMs: number }): Promise<ChangeRecord> {
    const live = this.#find(id)
    this.#guard(live, 'confirm')
    return await this.#exclusive(live, async () => {
      this.#guard(live, 'confirm')
      if (live.record.state === 'confirmed') return { ...live.record }
      checkConfirm(live.record, by.connectionOpenedAtMs, live.provisionalAtMonotonicMs, this.#options.clock.monotonicMs())
      await this.#dispatch(live, 'confirm', { reason: `confirmed by ${by.principal}` })
      return { ...live.record }
    })
  }

  async revert(id: string, reason: string, error: ErrorCode | '' = ''): Promise<ChangeRecord> {
    const live = this.#find(id)
    this.#guard(live, 'revert')
    const cell = changeCell(live.record.state, 'revert')
    if (typeof cell === 'object' && cell.effects.includes('doom')) live.doomed ??= { reason, error }
    return await this.#exclusive(live, async () => {
      this.#guard(live, 'revert')
      await this.#dispatch(live, 'revert', { reason, error })
      return { ...live.record }
    })
  }

  current(service: string): ChangeRecord | undefined {
    return this.all().find((record) => record.service === service && !record.settled)
  }

  get(id: string): ChangeRecord | undefined {
    const live = this.#changes.get(id)
    return live && { ...live.record }
  }

  /** All changes kept, newest first. */
  all(): ChangeRecord[] {
    return [...this.#changes.values()].map((live) => ({ ...live.record })).reverse()
  }

  watch(listener: (record: ChangeRecord) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Stops timers. What is provisional reverts at the next start. */
  close(): void {
    this.#closed = true
    this.#disarmOwed()
    for (const live of this.#changes.values()) live.disarm()
  }

  /** Stage, apply, provisional. Returns the error with which it was reverted. */
  async #run(live: Live, permanent: boolean): Promise<unknown> {
    try {
      await live.handler.stage(live.record, this.#track(live))
      this.#stopIfDoomed(live)
      await this.#dispatch(live, 'staged', {})
      if (permanent) await this.#dispatch(live, 'confirm', {})
      return undefined
    } catch (error) {
      if (live.record.state === 'confirmed') throw error
      const doomed = live.doomed
      const facts = doomed ?? { reason: messageOf(error), error: codeOf(error) }
      this.#options.log.error({ change: live.record.id, kind: live.record.kind, service: live.record.service, err: error }, 'change failed; reverting')
      // A live change is past its handler's steps: only recording it can have failed.
      await this.#dispatch(live, 'failed', facts)
      return error
    }
  }

  async #dispatch(live: Live, event: ChangeEvent, facts: Facts): Promise<void> {
    const cell = changeCell(live.record.state, event)
    if (cell === 'NEVER') throw new Error(`${event} in state ${live.record.state} of change ${live.record.id}`)
    if (cell === 'REFUSE') throw refused(live.record)
    if (cell === 'IGNORE') return
    if (live.record.state !== cell.to) this.#add(live, cell.to)
    const next: ChangeRecord = { ...live.record, ...facts, state: cell.to }
    try {
      await this.#options.journal.write(next)
    } catch (error) {
      // Forward steps need their record. The way back does not: unconfirmed on disk means that a restart goes back as well.
      if (cell.to !== 'reverted') throw error
      this.#options.log.error({ change: next.id, err: error }, 'a revert could not be recorded; it is carried out all the same')
    }
    const { state, id, kind, service, from, to, reason } = next
    this.#options.log.info({ change: id, kind, service, from, to, state, event, reason }, 'change')
    // Steps may have come in while it was written.
    live.record = { ...next, steps: live.record.steps }
    this.#tell(live)
    for (const effect of cell.effects) await this.#effects[effect](live)
  }

  readonly #effects: Record<ChangeEffect, (live: Live) => Promise<void>> = {
    apply: async (live) => {
      const { heldMs, heldCalls } = await live.handler.apply(live.record, this.#track(live))
      this.#stopIfDoomed(live)
      const provisionalAtMs = this.#options.clock.nowMs()
      live.provisionalAtMonotonicMs = this.#options.clock.monotonicMs()
      const confirmDeadlineMs = provisionalAtMs + live.record.confirmTimeoutMs
      await this.#dispatch(live, 'applied', { heldMs, heldCalls, provisionalAtMs, confirmDeadlineMs })
      this.#stopIfDoomed(live)
    },
    armDeadline: async (live) => {
      live.disarm = this.#options.clock.after(live.record.confirmTimeoutMs, () => {
        const reason = `not confirmed within ${live.record.confirmTimeoutMs} ms`
        const late = this.#exclusive(live, async () => await this.#dispatch(live, 'deadline', { reason, error: 'DEADLINE_PASSED' }))
        late.catch((error) => this.#options.log.error({ change: live.record.id, err: error }, 'the deadline of a change could not be handled'))
      })
    },
    doom: async () => {},
    commit: async (live) => await this.#settle(live, async () => await live.handler.commit(live.record, this.#track(live))),
    revert: async (live) => await this.#settle(live, async () => await live.handler.revert(live.record, this.#track(live))),
  }

  /** Carries the final effect out; what fails is tried again until it succeeds, and the slot stays held until then. */
  async #settle(live: Live, act: () => Promise<void>): Promise<void> {
    live.disarm()
    try {
      await act()
      await live.stepped
      const receipt = await this.#receipt(live)
      const settled = { ...live.record, confirmDeadlineMs: 0, settled: true, receipt }
      // On a full disk the record goes instead: nothing is left to recover, and removing needs no space.
      await this.#options.journal.write(settled).catch(async () => await this.#options.journal.forget(settled.id))
      live.record = { ...settled, steps: live.record.steps }
      if (receipt === OWED && this.#recovered) this.#giveOwedLater(settleRetryMsMin)
    } catch (error) {
      const { id, kind, service, state } = live.record
      this.#options.log.error({ change: id, kind, service, state, retryMs: live.retryMs, err: error }, 'a change could not be settled; trying again')
      if (this.#closed) return
      live.disarm = this.#options.clock.after(live.retryMs, () => void this.#exclusive(live, async () => await this.#settle(live, act)))
      live.retryMs = Math.min(live.retryMs * 2, settleRetryMsMax)
      return
    }
    this.#tell(live)
    if (this.#recovered) await this.#prune()
  }

  /** A receipt that cannot be written now must not keep the slot: on a full disk the next change may be the removal that frees space. */
  async #receipt({ record }: Live): Promise<string> {
    try {
      return (await this.#options.receipt?.(record)) ?? ''
    } catch (error) {
      this.#options.log.error({ change: record.id, code: codeOf(error), error: messageOf(error) }, 'the receipt of a change could not be made; trying again')
      return OWED
    }
  }

  async #giveOwed(retryMs: number): Promise<void> {
    for (const live of this.#changes.values()) {
      if (live.record.receipt !== OWED) continue
      const receipt = await this.#receipt(live)
      if (receipt === OWED) {
        this.#giveOwedLater(retryMs)
        return
      }
      live.record = { ...live.record, receipt }
      // The receipt itself is there: should this not be written, the same one is found again.
      await this.#options.journal.write(live.record).catch(() => {})
    }
  }

  #giveOwedLater(retryMs: number): void {
    this.#disarmOwed()
    if (this.#closed) return
    this.#disarmOwed = this.#options.clock.after(retryMs, () => void this.#giveOwed(Math.min(retryMs * 2, settleRetryMsMax)))
  }

  #track(live: Live): Track {
    const write = async (mark: StepMark, durable: boolean) => {
      const at = live.record.steps.length - 1
      const done = live.stepped.then(async () => await this.#options.journal.step(live.record.id, at, mark, durable))
      live.stepped = done.catch((error) => this.#options.log.error({ change: live.record.id, step: mark.step, err: error }, 'a step could not be recorded'))
      await done
    }
    return {
      mark: (step, detail) => {
        const mark = this.#add(live, step, detail)
        if (mark) write(mark, false).catch(() => {})
        this.#tell(live)
      },
      intent: async (step, detail) => {
        const mark = this.#add(live, step, detail)
        if (mark) await write(mark, true)
        this.#tell(live)
      },
    }
  }

  /** Only in memory: written with the record, or by `#track`. */
  #add(live: Live, step: string, detail?: string): StepMark | undefined {
    const { steps } = live.record
    if (steps.length >= stepsMax) return undefined
    const atMs = Math.round((this.#options.clock.monotonicMs() - live.zeroMonotonicMs) * 1_000) / 1_000
    const mark: StepMark = detail === undefined ? { step, atMs } : { step, atMs, detail }
    live.record = { ...live.record, steps: [...steps, mark] }
    return mark
  }

  async #prune(): Promise<void> {
    const keep = kept(this.all(), changesSettledMax)
    for (const [id, { record }] of this.#changes) {
      if (!record.settled || keep.has(id)) continue
      this.#changes.delete(id)
      // A file that stays behind is history, and is pruned at the next start.
      await this.#options.journal.forget(id).catch((error) => this.#options.log.error({ change: id, err: error }, 'an old change could not be removed'))
    }
  }

  #keep(record: ChangeRecord, handler: ChangeHandler): Live {
    const { clock } = this.#options
    const live: Live = {
      record,
      handler,
      provisionalAtMonotonicMs: 0,
      doomed: null,
      work: Promise.resolve(),
      retryMs: settleRetryMsMin,
      disarm: () => {},
      zeroMonotonicMs: clock.monotonicMs() - Math.max(0, clock.nowMs() - record.proposedAtMs),
      stepped: Promise.resolve(),
    }
    this.#changes.set(record.id, live)
    return live
  }

  #find(id: string): Live {
    const live = this.#changes.get(id)
    if (!live) throw new OffboxError('CHANGE_NOT_FOUND', `no change ${JSON.stringify(id)} is kept on this device`)
    return live
  }

  #guard(live: Live, event: 'confirm' | 'revert'): void {
    if (changeCell(live.record.state, event) === 'REFUSE') throw refused(live.record)
  }

  #stopIfDoomed(live: Live): void {
    if (live.doomed) throw new OffboxError(live.doomed.error || 'SWAP_ROLLED_BACK', live.doomed.reason || 'reverted before it was live')
  }

  #exclusive<T>(live: Live, act: () => Promise<T>): Promise<T> {
    const done = live.work.then(act)
    live.work = done.catch(() => {})
    return done
  }

  #tell(live: Live): void {
    for (const listener of this.#listeners) {
      try {
        listener({ ...live.record })
      } catch (error) {
        this.#options.log.error({ change: live.record.id, err: error }, 'a listener of changes failed')
      }
    }
  }
}

/** In place of a receipt's digest. */
const OWED = 'owed'

function refused(record: ChangeRecord): OffboxError {
  const why = record.reason ? `: ${record.reason}` : ''
  return new OffboxError('STATE_REFUSED', `change ${record.id} is ${record.state}${why}`)
}

const unknownKind: ChangeHandler = {
  stage: async () => {},
  apply: async () => ({ heldMs: 0, heldCalls: 0 }),
  commit: async () => {},
  revert: async () => {},
}
