/**
 * Numbers samples: each number once, whatever crashes. A block of numbers is reserved in the agent's store before the first of it is
 * given out, so a crash skips the rest of a block and never repeats one; a hand-over skips nothing. Without the store
 * numbering goes on and is reported as at risk.
 */
import { OffboxError, type StateCapability } from '../sdk/service.ts'

/** Numbers reserved by one durable write. A crash skips at most this many. */
export const reservedBlock = 10_000
/** The next block is reserved, in the background, when fewer numbers than this are left. */
const lowWater = 2_000
const KEY = 'sequence'

export interface CounterState {
  /** Last number given out. */
  readonly sequence: number
  /** Last number reserved durably; `sequence` or above. */
  readonly reservedTo: number
}

type Report = (message: string, fields: Record<string, unknown>) => void

export class Counter {
  readonly #store: StateCapability
  readonly #report: Report
  #sequence: number
  #reservedTo: number
  #reserving: Promise<void> | undefined
  /** Why the last reservation failed; empty when it did not. */
  failure = ''

  /** Goes on after `inherited`, or, without one, after the last number that may have been given out. @throws STORE_CORRUPT */
  static async open(store: StateCapability, report: Report, inherited?: CounterState): Promise<Counter> {
    if (inherited) return new Counter(store, report, inherited)
    const bytes = await store.get({ key: KEY })
    const sequence = bytes === null ? 0 : Number(new TextDecoder().decode(bytes))
    if (!Number.isSafeInteger(sequence) || sequence < 0) throw new OffboxError('STORE_CORRUPT', 'the stored sequence is no number')
    return new Counter(store, report, { sequence, reservedTo: sequence })
  }

  private constructor(store: StateCapability, report: Report, { sequence, reservedTo }: CounterState) {
    this.#store = store
    this.#report = report
    this.#sequence = sequence
    this.#reservedTo = reservedTo
  }

  get state(): CounterState {
    return { sequence: this.#sequence, reservedTo: this.#reservedTo }
  }

  /** Resolves when there is a number to take: at once unless a block has to be reserved first. */
  async ready(): Promise<void> {
    // Others may have used a block up while this one waited for it.
    while (this.#sequence >= this.#reservedTo) await this.#reserve()
    if (this.#reservedTo - this.#sequence < lowWater) void this.#reserve()
  }

  /** The next number, or undefined when `ready` has to be awaited again. Nothing may be awaited between taking and using it. */
  next(): number | undefined {
    if (this.#sequence >= this.#reservedTo) return undefined
    this.#sequence += 1
    return this.#sequence
  }

  /** Resolves when no reservation is under way. */
  async settled(): Promise<void> {
    await this.#reserving
  }

  async #reserve(): Promise<void> {
    this.#reserving ??= this.#write().finally(() => {
      this.#reserving = undefined
    })
    await this.#reserving
  }

  async #write(): Promise<void> {
    const to = Math.max(this.#reservedTo, this.#sequence) + reservedBlock
    try {
      await this.#store.set({ key: KEY, value: new TextEncoder().encode(String(to)) })
      this.failure = ''
    } catch (error) {
      if (this.failure === '') this.#report('sample numbers cannot be reserved: a crash may repeat some', { error: String(error) })
      this.failure = error instanceof Error ? error.message : String(error)
    }
    // Also after a failure: numbering goes on, and the next block is the next try.
    this.#reservedTo = to
  }
}
