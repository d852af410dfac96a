import t from 'tap'
import { ATTEMPTS } from './attempts/index.ts'
import { runAttempts } from './run-attempts.ts'

t.setTimeout(800_000)

t.test('no attempt gets out of the worker tier', async (t) => {
  const outcomes = await runAttempts(ATTEMPTS, {
    tier: 'worker',
    onOutcome: ({ attempt, harm, said }) => void t.same(harm, [], `${attempt.name} (${said.slice(0, 100)})`),
  })
  const contained = outcomes.filter(({ harm }) => harm.length === 0)
  t.comment(`${contained.length}/${outcomes.length} contained (worker)`)
  t.equal(contained.length, ATTEMPTS.length)
})
