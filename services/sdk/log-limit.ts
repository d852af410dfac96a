import { WIRE_LIMITS } from './wire.ts'

/** A token bucket: a burst, then so many lines per second. Pure but for its own count. */
export class LogLimit {
  #tokens: number = WIRE_LIMITS.logBurstLines
  #lastMs = 0
  #dropped = 0

  /** How many lines were dropped since the last one admitted, or undefined: drop this one. `nowMs` is monotonic. */
  admit(nowMs: number): number | undefined {
    this.#tokens = Math.min(WIRE_LIMITS.logBurstLines, this.#tokens + ((nowMs - this.#lastMs) / 1_000) * WIRE_LIMITS.logLinesPerSecondMax)
    this.#lastMs = nowMs
    if (this.#tokens < 1) {
      this.#dropped++
      return undefined
    }
    this.#tokens--
    const dropped = this.#dropped
    this.#dropped = 0
    return dropped
  }
}
