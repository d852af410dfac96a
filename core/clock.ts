/** Time as an argument, so that every deadline can be tested without waiting. */
export interface Clock {
  /** Wall time, Unix milliseconds. May jump; for showing, never for measuring. */
  nowMs(): number
  /** Monotonic milliseconds since some start, fractional. */
  monotonicMs(): number
  /** Calls back once after at least `delayMs`; the result cancels it and is safe to call late. */
  after(delayMs: number, callback: () => void): () => void
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs)
    return () => clearTimeout(timer)
  },
}
