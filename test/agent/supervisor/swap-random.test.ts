import t from 'tap'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, stream, type Outcome } from './harness.ts'

/** mulberry32: the same numbers for the same seed. */
function chances(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

const BAD = ['throwAtStart', 'hangAtStart', 'exitAtStart', 'throwAtSelfTest', 'refuseInherited']
const seeds = process.env['SEEDS']?.split(',').map(Number) ?? [1, 2, 3]

for (const seed of seeds) {
  t.test(`any order of swaps, good and bad, commits and reverts loses nothing (seed ${seed})`, async (t) => {
    const { supervisor } = await harness({ holdTimeoutMs: 400 })
    t.teardown(() => supervisor.close())
    const chance = chances(seed)
    await supervisor.install(await counterBundle('1.0.0'), {})
    await supervisor.commit('counter')
    let live = true
    const outcomes: Outcome[] = []
    const lanes = Array.from({ length: 4 }, async () => {
      while (live) {
        outcomes.push(await ask(supervisor, 'Next'))
        await new Promise((resolve) => setImmediate(resolve))
      }
    })
    const tails = [0, 1].map(() => stream(supervisor, 'Tail', 'serverStream', ''))
    let [version, settled] = ['1.0.0', true]
    for (let step = 1; step <= 12; step++) {
      if (!settled) {
        const keep = chance() < 0.5
        if (keep) await supervisor.commit('counter')
        else await supervisor.revert('counter', 'by chance')
        if (keep) version = supervisor.get('counter')?.version ?? ''
        settled = true
      }
      const bad = chance() < 0.5 ? BAD[Math.floor(chance() * BAD.length)] : undefined
      const candidate = await counterBundle(`1.${step}.0`)
      if (bad) await t.rejects(supervisor.swap(candidate, { misbehave: bad }), { code: 'SWAP_ROLLED_BACK' }, bad)
      else await supervisor.swap(candidate, {})
      settled = bad !== undefined
      t.equal(supervisor.get('counter')?.version, bad ? version : `1.${step}.0`)
    }
    live = false
    await Promise.all(lanes)
    for (const tail of tails) tail.handle.cancel()
    t.same(
      outcomes.filter(({ error }) => error),
      [],
      `${outcomes.length} calls`,
    )
    const numbers = [...outcomes.map(({ text }) => text ?? ''), ...tails.flatMap(({ received }) => received)].map((one) => Number(one.split(' ')[1]))
    t.equal(new Set(numbers).size, numbers.length, 'no number twice')
    t.ok(
      tails.every(({ received }) => new Set(received.map((one) => one.split(' ')[0])).size > 1),
      'the streams saw several versions',
    )
  })
}
