/** Deadlines of many calls, most of which end long before: those that fall together share one timer. At most a granule late. */

/** Deadlines further away than this may be a granule late; nearer ones have timers of their own. */
const EXACT_MS = 2_000
const GRANULE_MS = 50
const TIMER_MS_MAX = 2 ** 31 - 1

interface Granule {
  readonly calls: Set<() => void>
  readonly timer: NodeJS.Timeout
}

const granules = new Map<number, Granule>()

/** Calls `passed` once, in `timeoutMs` from now. Returns the way to prevent it. */
export function afterTimeout(timeoutMs: number, nowMs: number, passed: () => void): () => void {
  if (timeoutMs <= EXACT_MS || timeoutMs >= TIMER_MS_MAX - GRANULE_MS) {
    const timer = setTimeout(passed, Math.min(timeoutMs, TIMER_MS_MAX))
    return () => clearTimeout(timer)
  }
  const at = Math.ceil((nowMs + timeoutMs) / GRANULE_MS)
  let granule = granules.get(at)
  if (!granule) {
    const calls = new Set<() => void>()
    const timer = setTimeout(
      () => {
        granules.delete(at)
        for (const call of calls) call()
      },
      at * GRANULE_MS - nowMs,
    )
    granule = { calls, timer }
    granules.set(at, granule)
  }
  const { calls, timer } = granule
  calls.add(passed)
  return () => {
    calls.delete(passed)
    // Deadlines are the client's to choose: what nobody waits for must not stay.
    if (calls.size > 0 || granules.get(at)?.calls !== calls) return
    clearTimeout(timer)
    granules.delete(at)
  }
}
