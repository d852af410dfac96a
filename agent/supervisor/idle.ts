/** When it is time to collect garbage. Pure: readings come in, verdicts go out. */

export interface IdleLimits {
  /** Idle is at most this share of one core, per cent, in each stretch of `readMs` for `idleMs`. */
  readonly idlePercentMax: number
  readonly readMs: number
  readonly idleMs: number
  /** CPU time since the last collection that makes another one worth its pause. */
  readonly collectWorkMs: number
  /** Between two collections. */
  readonly collectPauseMs: number
}

/**
 * V8 collects when it needs room: a thread that has worked and falls idle keeps what it no longer uses for minutes. One collection when the work is
 * over gives that back, at a moment when nobody waits. It also costs: optimized code that knows of objects which are gone goes with them, and
 * the next one to two thousand calls take up to twice their CPU time until it is made again. Hence not in every short lull. One of these for each thread.
 */
export class IdleCollection {
  readonly #limits: IdleLimits
  #last: { atMs: number; cpuMs: number } | undefined
  #idleSinceMs = Number.POSITIVE_INFINITY
  /** What the thread had used when it was last collected; 0 at its start, which leaves garbage like any other work. */
  #collectedCpuMs = 0
  #collectedAtMs = Number.NEGATIVE_INFINITY
  #collecting = false

  constructor(limits: IdleLimits) {
    this.#limits = limits
  }

  /** Whether to collect now. `atMs`: monotonic; `cpuMs`: CPU time of the thread since its start. Readings may come at any rhythm. */
  due(atMs: number, cpuMs: number): boolean {
    const { idlePercentMax, readMs, idleMs, collectWorkMs, collectPauseMs } = this.#limits
    const last = this.#last
    if (last && atMs - last.atMs < readMs) return false
    this.#last = { atMs, cpuMs }
    if (!last) return false
    if (this.#collecting) {
      // What the collection itself took is no work: on a slow device it would be followed by another, and so on.
      this.#collecting = false
      this.#collectedCpuMs = cpuMs
      return false
    }
    const idle = (cpuMs - last.cpuMs) * 100 <= (atMs - last.atMs) * idlePercentMax
    this.#idleSinceMs = idle ? Math.min(this.#idleSinceMs, last.atMs) : Number.POSITIVE_INFINITY
    if (atMs - this.#idleSinceMs < idleMs || cpuMs - this.#collectedCpuMs < collectWorkMs || atMs - this.#collectedAtMs < collectPauseMs) return false
    this.#collecting = true
    this.#collectedAtMs = atMs
    return true
  }
}
