import t from 'tap'
import { afterTimeout } from '../../../agent/api/deadlines.ts'

t.test('each deadline passes once, never early; one that was called off does not, whoever shares its timer', async (t) => {
  const startMs = Date.now()
  const passed: string[] = []
  const early: string[] = []
  const arm = (name: string, timeoutMs: number) =>
    afterTimeout(timeoutMs, Date.now(), () => {
      if (Date.now() - startMs < timeoutMs - 1) early.push(name)
      passed.push(name)
    })
  arm('near', 20)
  const off = arm('near, called off', 20)
  const one = arm('far, called off', 2_100)
  arm('far', 2_100)
  const alone = arm('far, alone, called off', 3_600_000)
  off()
  one()
  alone()
  alone()
  await new Promise<void>((resolve) => afterTimeout(2_300, Date.now(), resolve))
  t.same(passed, ['near', 'far'])
  t.same(early, [])
  t.doesNotThrow(one, 'late is harmless')
})

t.test('a timeout beyond what a timer can hold waits as long as it can', async (t) => {
  const stop = afterTimeout(Number.MAX_SAFE_INTEGER, Date.now(), () => t.fail('passed'))
  await new Promise((resolve) => setTimeout(resolve, 20))
  stop()
})
