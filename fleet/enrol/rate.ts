/** A token bucket for each key, in bounded memory. */
import type { Clock } from '../../core/clock.ts'

/** Keys remembered at once; the one unused for longest is forgotten, and with it that it was limited. */
const keysMax = 4_096

export class RateLimit {
  readonly #burst: number
  readonly #perSecond: number
  readonly #clock: Clock
  /** In order of last use. */
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>()

  constructor(rate: { burst: number; perSecond: number }, clock: Clock) {
    this.#burst = rate.burst
    this.#perSecond = rate.perSecond
    this.#clock = clock
  }

  /** Whether one more is permitted now. */
  take(key: string): boolean {
    const nowMs = this.#clock.monotonicMs()
    const bucket = this.#buckets.get(key) ?? { tokens: this.#burst, atMs: nowMs }
    this.#buckets.delete(key)
    bucket.tokens = Math.min(this.#burst, bucket.tokens + ((nowMs - bucket.atMs) / 1000) * this.#perSecond)
    bucket.atMs = nowMs
    const permitted = bucket.tokens >= 1
    if (permitted) bucket.tokens -= 1
    this.#buckets.set(key, bucket)
    const oldest = this.#buckets.keys().next().value
    if (this.#buckets.size > keysMax && oldest !== undefined) this.#buckets.delete(oldest)
    return permitted
  }
}
