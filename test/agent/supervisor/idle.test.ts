import { setFlagsFromString } from 'node:v8'
import t from 'tap'
import { collectWhenIdle } from '../../../agent/collect.ts'
import { Account } from '../../../agent/supervisor/account.ts'
import { IdleCollection } from '../../../agent/supervisor/idle.ts'
import { AGENT_IDLE, SUPERVISOR_LIMITS } from '../../../agent/supervisor/limits.ts'
import { ResourceWatch } from '../../../agent/supervisor/resources.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, until } from './harness.ts'

// Before there is any worker, as at a start with agent/node.json; and nothing but what is tested collects for want of anything to do.
for (const flag of ['--expose-gc', '--no-memory-reducer']) setFlagsFromString(flag)

const limits = { idlePercentMax: 1, readMs: 900, idleMs: 3_000, collectWorkMs: 50, collectPauseMs: 10_000 }
/** Readings once a second; the seconds after which it is time to collect. */
function seconds(idle: IdleCollection, cpuMs: readonly number[]): number[] {
  return cpuMs.flatMap((one, second) => (idle.due(second * 1_000, one) ? [second] : []))
}

t.test('garbage is collected once after work, when it has been idle for long enough', async (t) => {
  t.same(seconds(new IdleCollection(limits), [0, 400, 800, 1_100, 1_104, 1_108, 1_220, 1_221, 1_222, 1_223, 1_224, 1_225, 1_226, 1_227, 1_228]), [9])
})

t.test('a thread that is never idle, or has done too little, is left alone', async (t) => {
  t.same(
    seconds(
      new IdleCollection(limits),
      Array.from({ length: 100 }, (_, second) => second * 11),
    ),
    [],
  )
  t.same(seconds(new IdleCollection(limits), [0, 40, 41, 42, 43, 44]), [])
})

t.test('what a collection itself takes is no work, however slow the device', async (t) => {
  const idle = new IdleCollection(limits)
  let cpuMs = 1_000
  const collectedAt: number[] = []
  for (let second = 0; second < 200; second++) {
    if (!idle.due(second * 1_000, cpuMs)) continue
    collectedAt.push(second)
    cpuMs += 2_000
  }
  t.same(collectedAt, [3])
})

t.test('two collections are a pause apart, and work in between is not forgotten', async (t) => {
  // 100 ms of work in every fifth second.
  const readings = Array.from({ length: 30 }, (_, second) => 100 * Math.ceil(second / 5))
  t.same(seconds(new IdleCollection(limits), readings), [4, 14, 24])
})

t.test('readings that come fast are judged over a whole stretch', async (t) => {
  const idle = new IdleCollection(limits)
  const due: number[] = []
  // Busy for 5 ms of every 100, which no single pair of fast readings shows.
  for (let atMs = 0; atMs <= 20_000; atMs += 10) if (idle.due(atMs, 5 * Math.ceil(atMs / 100))) due.push(atMs)
  t.same(due, [])
})

t.test('the agent collects its own garbage when it falls idle, and stops looking when it is told to', async (t) => {
  const clock = new FakeClock()
  let cpuMs = 0
  let collected = 0
  const stop = collectWhenIdle({ clock, cpuMs: () => cpuMs, collect: () => collected++ })
  for (let second = 0; second < 5; second++) {
    cpuMs += 300
    await clock.advance(1_000)
  }
  t.equal(collected, 0, 'not while it works')
  await clock.advance(30_000)
  t.equal(collected, 1)
  stop()
  t.equal(clock.waiting, 0)
  t.ok(AGENT_IDLE.collectWorkMs > SUPERVISOR_LIMITS.collectWorkMs, 'its pause is felt by all services')
})

t.test('a version is asked to collect when it has worked and is idle, each for itself', async (t) => {
  const clock = new FakeClock()
  const resources = new ResourceWatch(clock, SUPERVISOR_LIMITS, { rssBytes: () => 2 ** 26, ownBytes: () => 2 ** 24 })
  const { manifest } = await counterBundle('1.0.0')
  const collected: string[] = []
  const add = (name: string, cpuMs: () => number) => {
    const usage = async () => ({ memoryBytes: 2 ** 22, cpuMs: cpuMs(), inAgent: true })
    t.teardown(resources.add({ account: new Account(manifest), usage, collect: () => collected.push(name), end: (code) => t.fail(code) }))
  }
  add('busy', () => clock.monotonicMs() * 0.3)
  add('started', () => 150)
  await clock.advance(8_000)
  t.same(collected, ['started'])
})

for (const tier of ['worker', 'process'] as const) {
  t.test(`a service of the ${tier} tier gives back what it no longer uses, and has no hand in it`, { timeout: 120_000 }, async (t) => {
    const { supervisor } = await harness({ idlePercentMax: 10, idleMs: 900, collectPauseMs: 1_000 })
    t.teardown(() => supervisor.close())
    await supervisor.install(await counterBundle('1.0.0', { tier, heapMbMax: 64 }), {})
    const memoryMb = () => (supervisor.get('counter')?.use.memoryBytes ?? 0) / 2 ** 20
    // 30 MB that live long enough for the old generation; what is left of them is garbage that nobody needs room for.
    const work = 'const kept = []; for (let n = 0; n < 400_000; n++) kept.push({ n, more: [n, n] }); await new Promise((go) => setTimeout(go, 300))'
    const answer = ask(supervisor, 'Do', `eval ${work}; return kept.length + " " + typeof gc`)
    let mostMb = 0
    const readMb = () => {
      mostMb = Math.max(mostMb, memoryMb())
      return memoryMb()
    }
    await until('memory is in use', () => readMb() > (tier === 'worker' ? 25 : 60))
    t.same(await answer, { text: '400000 undefined' })
    // Of the most there was: on a slow machine it was seen on its way up first.
    await until('it is given back', () => readMb() < mostMb - 20)
    t.match(supervisor.get('counter'), { state: 'ready', starts: 1 })
  })
}
