/**
 * Trusted time: a lower bound of the real one that nothing but signed sources moves, and that goes on by the monotonic clock. The wall
 * clock is never asked: whoever sets it back would revive expired metadata, and whoever sets it on would expire all of it.
 */
import type { Clock } from '../clock.ts'

export type TimeSource = 'build' | 'timestamp' | 'witness' | 'audit'

interface Mark {
  /** What the source vouched for, Unix milliseconds. */
  readonly atMs: number
  /** Monotonic time when this device learned of it. */
  readonly learnedMs: number
  /** For "timestamp": keys of the root under which it was signed, as in Heights. */
  readonly keys: string | null
}

/** What one source vouches for now: time has gone on since. Plain data. */
export interface TimeMark {
  readonly source: TimeSource
  /** Unix milliseconds. */
  readonly nowMs: number
  readonly keys: string | null
}

/** The latest of what counts under `keys`, Unix milliseconds. Pure. @param keys of the root in force: what a timestamp under other keys said does not count */
export function timeAt(marks: readonly TimeMark[], keys: string | null = null): number {
  return Math.max(...marks.filter((mark) => mark.keys === null || keys === null || mark.keys === keys).map(({ nowMs }) => nowMs))
}

export class TrustedTime {
  readonly #clock: Clock
  readonly #marks = new Map<TimeSource, Mark>()

  /** @param buildTimeMs when the image was built: no device runs before that */
  constructor(clock: Clock, buildTimeMs: number) {
    this.#clock = clock
    this.learn('build', buildTimeMs)
  }

  /**
   * Earlier than what the source vouched for already: ignored, unless other `keys` vouch for it.
   * @param keys for "timestamp" only
   */
  learn(source: TimeSource, atMs: number, keys: string | null = null): void {
    if (!Number.isSafeInteger(atMs) || atMs < 0) return
    const known = this.#marks.get(source)
    if (known && known.keys === keys && this.#now(known) >= atMs) return
    this.#marks.set(source, { atMs, learnedMs: this.#clock.monotonicMs(), keys })
  }

  /**
   * Unix milliseconds; never runs backwards but for a timestamp whose keys were replaced.
   * @param keys of the root in force: what a timestamp under other keys said does not count
   */
  nowMs(keys: string | null = null): number {
    return timeAt(this.marks(), keys)
  }

  /** What time rests on. */
  marks(): readonly TimeMark[] {
    return [...this.#marks].map(([source, mark]) => ({ source, nowMs: this.#now(mark), keys: mark.keys }))
  }

  #now({ atMs, learnedMs }: Mark): number {
    return Math.floor(atMs + Math.max(0, this.#clock.monotonicMs() - learnedMs))
  }
}
