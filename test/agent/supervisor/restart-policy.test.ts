import t from 'tap'
import { SUPERVISOR_LIMITS } from '../../../agent/supervisor/limits.ts'
import { judgeExit } from '../../../agent/supervisor/restart-policy.ts'

const limits = { ...SUPERVISOR_LIMITS, restartsBurst: 5, restartsWindowMs: 60_000, backoffFirstMs: 200, backoffMaxMs: 1_000 }

/** Crashes at these times: what was decided each time. */
function judged(atMs: number[], chance = 0) {
  let crashesAtMs: readonly number[] = []
  return atMs.map((nowMs) => {
    const verdict = judgeExit(crashesAtMs, nowMs, chance, limits)
    crashesAtMs = verdict.crashesAtMs
    return verdict.event === 'exit' ? verdict.delayMs : verdict.event
  })
}

t.test('a burst is forgiven with doubling pauses up to the longest, then it is final', async (t) => {
  t.same(judged([0, 1, 2, 3, 4, 5]), [200, 400, 800, 1_000, 1_000, 'exitFinal'])
})

t.test('the window forgives: a crash now and then goes on for ever', async (t) => {
  t.same(judged([0, 61_000, 122_000, 183_000, 244_000, 305_000, 366_000]), [200, 200, 200, 200, 200, 200, 200])
})

t.test('chance takes at most half off', async (t) => {
  t.same(judged([0, 1], 1), [100, 200])
})
