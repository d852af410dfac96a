import t from 'tap'
import { newTally, recordAnswer } from '../../../fleet/lab/tally.ts'

const answers = (...sequences: number[]) => {
  const tally = newTally()
  for (const sequence of sequences) recordAnswer(tally, { sequence, serviceVersion: sequence < 3 ? '1.0.0' : '1.1.0' })
  return tally
}

t.test('numbers that go on by one over two versions are neither duplicates nor gaps', async (t) => {
  t.match(answers(1, 2, 3, 4), { calls: 4, duplicates: 0, gaps: 0, byVersion: { '1.0.0': 2, '1.1.0': 2 } })
})

t.test('a successor that begins at one again is seen as duplicates', async (t) => {
  t.match(answers(1, 2, 3, 1, 2), { duplicates: 2 })
})

t.test('a number that nobody was given is a gap', async (t) => {
  t.match(answers(1, 2, 4), { gaps: 1, duplicates: 0 })
})

t.test('the first number may be any: the client may come late', async (t) => {
  t.match(answers(40, 41), { gaps: 0, duplicates: 0 })
})
