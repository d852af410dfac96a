// Preloaded into an agent: a wall clock that is wrong by CLOCK_SHIFT_MS. The monotonic clock and the timers go right.
import { isMainThread } from 'node:worker_threads'

const shiftMs = Number(process.env.CLOCK_SHIFT_MS ?? 0)
if (isMainThread && shiftMs !== 0) {
  const Right = Date
  globalThis.Date = class extends Right {
    constructor(...given) {
      if (given.length === 0) super(Right.now() + shiftMs)
      else super(...given)
    }
    static now() {
      return Right.now() + shiftMs
    }
  }
}
