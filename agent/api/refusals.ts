/** Refused connections: all are counted, the first of each minute are logged, the rest are told as a number. */
import type { Clock } from '../../core/clock.ts'
import { refusalsLoggedPerMinuteMax } from '../limits.ts'

export class Refusals {
  readonly #clock: Clock
  readonly #log: (fields: object, message: string) => void
  readonly #each: (fields: object, message: string) => void
  #count = 0
  #minuteBeganMs = Number.NEGATIVE_INFINITY
  #inMinute = 0

  /** @param each told of all of them, also of those that are not logged */
  constructor(clock: Clock, log: (fields: object, message: string) => void, each: (fields: object, message: string) => void = () => {}) {
    this.#clock = clock
    this.#log = log
    this.#each = each
  }

  get count(): number {
    return this.#count
  }

  note(fields: object, message: string): void {
    this.#count += 1
    this.#each(fields, message)
    const nowMs = this.#clock.monotonicMs()
    if (nowMs - this.#minuteBeganMs >= 60_000) {
      const unlogged = this.#inMinute - refusalsLoggedPerMinuteMax
      if (unlogged > 0) this.#log({ unlogged }, 'more connections were refused')
      this.#minuteBeganMs = nowMs
      this.#inMinute = 0
    }
    this.#inMinute += 1
    if (this.#inMinute <= refusalsLoggedPerMinuteMax) this.#log(fields, message)
  }
}
