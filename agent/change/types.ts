/**
 * The one change engine: every mutation of the device (service, configuration, certificate) is a change that goes
 * proposed -> staged -> provisional -> confirmed | reverted, its intent journalled and fsynced before each effect.
 */
import type { ErrorCode } from '../../core/errors.ts'

export type ChangeKind = 'install' | 'upgrade' | 'remove' | 'config' | 'certificate'
export type ChangeState = 'proposed' | 'staged' | 'provisional' | 'confirmed' | 'reverted'

/** One thing that happened in a change. */
export interface StepMark {
  /** A state of the change (docs/lifecycle.md), a step of a swap (supervisor/swap.ts), or "restart": the agent found it unsettled. */
  readonly step: string
  /** Since the change was proposed, milliseconds: monotonic, but from one restart to the next as far as the wall clock is right. */
  readonly atMs: number
  /** Numbers and reasons, in words; left out when there is nothing to say. */
  readonly detail?: string
}

/** How a handler tells what it does. Marks stand in the order in which they were made. */
export interface Track {
  /** Written at once, and not waited for: what a killed process did is on record, what a power cut did may end earlier. */
  mark(step: string, detail?: string): void
  /** The same, on disk when it resolves: for what must be known before it is done. @throws STORE_FULL */
  intent(step: string, detail?: string): Promise<void>
}

export const noTrack: Track = { mark: () => {}, intent: async () => {} }

/** As it stands in the journal. */
export interface ChangeRecord {
  readonly id: string
  readonly kind: ChangeKind
  readonly service: string
  readonly from: string
  readonly to: string
  readonly author: string
  readonly proposedAtMs: number
  /** What the handler needs to stage, apply, commit or revert it, also after a restart: plain JSON, no secrets. */
  readonly plan: unknown
  readonly bakeMs: number
  readonly confirmTimeoutMs: number
  state: ChangeState
  reason: string
  error: ErrorCode | ''
  provisionalAtMs: number
  confirmDeadlineMs: number
  heldMs: number
  heldCalls: number
  /** A final state whose effect (commit or revert) has been carried out. */
  settled: boolean
  /** The first `stepsMax`, oldest first. */
  steps: readonly StepMark[]
  /** SHA-256 of its receipt's body, hex; "owed": it could not be written yet; empty: not settled, or of a kind without receipts. */
  receipt: string
}

/**
 * How one kind of change is carried out. Each step is called after its intent is on disk. `commit` and `revert` must be safe
 * to repeat and safe after a crash in the middle of any step, in a fresh process that knows only `record`.
 */
export interface ChangeHandler {
  /** Prepares beside what runs. A rejection reverts with nothing live touched. */
  stage(record: ChangeRecord, track: Track): Promise<void>
  /** Makes it live. A rejection reverts. */
  apply(record: ChangeRecord, track: Track): Promise<{ heldMs: number; heldCalls: number }>
  /** Makes it permanent. */
  commit(record: ChangeRecord, track: Track): Promise<void>
  /** Puts back what was before. */
  revert(record: ChangeRecord, track: Track): Promise<void>
}

export interface ProposedChange {
  readonly kind: ChangeKind
  readonly service: string
  readonly from: string
  readonly to: string
  readonly author: string
  readonly reason: string
  readonly plan: unknown
  /** Confirm is refused before the change has been live for this long, milliseconds. */
  readonly bakeMs: number
  /** It reverts by itself after this long unconfirmed, milliseconds. */
  readonly confirmTimeoutMs: number
  /** Confirmed by the engine itself as soon as it is live: for what has no way back, e.g. a removal. Its effect is in `commit`. */
  readonly permanent?: boolean
}

export interface ChangeEngine {
  /** Drivers and the service installer register at start, before `recover`. */
  handle(kind: ChangeKind, handler: ChangeHandler): void
  /** After a restart: commits what was confirmed and unsettled, reverts every other unsettled change. */
  recover(): Promise<void>
  /**
   * Runs a change until it is provisional. One unsettled change per service and kind at a time.
   * @throws SWAP_IN_PROGRESS, or the handler's error once the change is reverted
   */
  propose(change: ProposedChange): Promise<ChangeRecord>
  /**
   * @param connectionOpenedAtMs monotonic time at which the caller's connection was opened
   * @throws CHANGE_NOT_FOUND, CONFIRM_NOT_FRESH, STATE_REFUSED
   */
  confirm(id: string, by: { principal: string; connectionOpenedAtMs: number }): Promise<ChangeRecord>
  /** @throws CHANGE_NOT_FOUND, STATE_REFUSED */
  revert(id: string, reason: string, error?: ErrorCode): Promise<ChangeRecord>
  /** The unsettled or provisional change of a service, newest first. */
  current(service: string): ChangeRecord | undefined
  get(id: string): ChangeRecord | undefined
  watch(listener: (record: ChangeRecord) => void): () => void
}
