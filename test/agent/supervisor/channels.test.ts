import t, { type Test } from 'tap'
import { Back, Front } from '../../fixtures/services/pair/methods.ts'
import { ask, begin, type Outcome, type PairTiers, pairBundle, startPair, through, tierOf } from '../../fixtures/services/pair/bundle.ts'
import { until } from './harness.ts'

/** Both tiers, and both ways between them. */
const TIERS: readonly PairTiers[] = [{}, { front: 'process' }, { back: 'process' }, { front: 'process', back: 'process' }]
const named = (tiers: object) =>
  Object.entries({ front: 'worker', back: 'worker', ...tiers })
    .map(([name, tier]) => `${name} in a ${tier}`)
    .join(', ')

for (const tiers of TIERS)
  t.test(`a service calls another, all four kinds of calls: ${named(tiers)}`, async (t) => {
    const { supervisor } = await startPair({}, ['back', 'front'], tiers)
    t.teardown(() => supervisor.close())
    t.match([supervisor.get('front')?.tier, supervisor.get('back')?.tier], [tiers.front ?? 'worker', tiers.back ?? 'worker'])
    t.same((await through(supervisor, { call: 'Add' })).answers, ['1.0.0 1'])
    t.same((await through(supervisor, { call: 'Sum', requests: Array.from({ length: 1_000 }, () => '2') })).answers, ['2000'])
    const numbers = (await through(supervisor, { call: 'Count', request: '1000' })).answers[0]?.split('\n')
    t.equal(numbers?.length, 1_000)
    t.equal(numbers?.at(-1), '1000')
    const words = Array.from({ length: 500 }, (_, index) => `w${index}`)
    t.same((await through(supervisor, { call: 'Echo', requests: words })).answers[0]?.split('\n'), words)
    t.same((await through(supervisor, { call: 'Count', take: 7 })).answers[0]?.split('\n').length, 7, 'a stream without end, left')
  })

t.test('the callee is told who calls, for whom and how deep', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  const { answers } = await through(supervisor, { call: 'Who' })
  const { principal, onBehalfOf, metadata } = JSON.parse(answers[0] ?? '')
  t.equal(principal, 'spiffe://lab/service/front')
  t.equal(onBehalfOf, 'spiffe://lab/operator/test')
  t.equal(metadata['offbox-call-depth'], '1')
})

t.test('an API that the manifest does not require cannot be called', async (t) => {
  const { supervisor, counted } = await startPair({}, ['back'])
  t.teardown(() => supervisor.close())
  await supervisor.install(await pairBundle('front', '1.0.0', { requires: {} }), {})
  t.equal((await through(supervisor, { call: 'Add' })).error, 'CAPABILITY_DENIED')
  t.match((await ask(supervisor, Back.Add)).answers, ['1.0.0 1'], 'it was not reached')
  await supervisor.close()
  t.match(counted, [{ principal: 'spiffe://lab/service/front', outcome: 'CAPABILITY_DENIED', calls: 1 }])
})

t.test('an API of another version than the one required is not called', async (t) => {
  const { supervisor } = await startPair({}, ['back'])
  t.teardown(() => supervisor.close())
  await supervisor.install(await pairBundle('front', '1.0.0', { requires: { apis: { 'test.Back': '^2.0.0' } } }), {})
  const { error, message } = await through(supervisor, { call: 'Add' })
  t.equal(error, 'DEPENDENCY_UNSATISFIED')
  t.match(message, /requires test\.Back \^2\.0\.0; back provides 1\.0\.0/)
})

t.test('the deadline of the call that is served goes on, and a shorter one of the caller counts', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  const left = async (asked: object, deadlineMs?: number) =>
    JSON.parse((await through(supervisor, { call: 'Who', ...asked }, { deadlineMs })).answers[0] ?? '{}').leftMs
  t.ok((await left({})) <= 30_000, 'the default')
  t.ok((await left({}, Date.now() + 20_000)) <= 20_000, "the client's")
  t.ok((await left({ timeoutMs: 5_000 }, Date.now() + 20_000)) <= 5_000, "the service's own")
  t.ok((await left({ timeoutMs: 60_000 }, Date.now() + 20_000)) <= 20_000, 'the earlier one')
  const late = await through(supervisor, { call: 'Slow', request: '60000', timeoutMs: 100 })
  t.equal(late.error, 'DEADLINE_PASSED')
  const cancelled = async () => Number((await ask(supervisor, Back.Cancelled)).answers[0])
  while ((await cancelled()) < 1);
  t.equal(await cancelled(), 1)
})

t.test('a client that cancels ends what is done for it, down to the last service', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  const asking = begin(supervisor, Front.Ask, JSON.stringify({ call: 'Slow', request: '60000' }))
  // Answered by the same worker after it: the slow call is on its way.
  await through(supervisor, { call: 'Add' })
  asking.handle.cancel()
  while ((await ask(supervisor, Back.Cancelled)).answers[0] !== '1');
  t.pass('the callee was told')
})

t.test('a call that nobody waits for ends with the one it was made for', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  t.same((await through(supervisor, { call: 'Slow', request: '60000', forget: true })).answers, ['not waiting'])
  while ((await ask(supervisor, Back.Cancelled)).answers[0] !== '1');
  t.pass('the callee was told')
})

t.test('a caller that is gone leaves nothing under way; a callee that is gone fails what it had, and the caller serves on', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  const lost = through(supervisor, { call: 'Slow', request: '60000' })
  await through(supervisor, { call: 'Add' })
  await supervisor.remove('front')
  t.match((await lost).error, /SERVICE_(CRASHED|DOWN)/)
  while ((await ask(supervisor, Back.Cancelled)).answers[0] !== '1');
  await supervisor.install(await pairBundle('front', '1.0.0'), {})
  const failed = through(supervisor, { call: 'Slow', request: '60000' })
  await through(supervisor, { call: 'Add' })
  await supervisor.remove('back')
  t.match((await failed).error, /SERVICE_(CRASHED|DOWN)/)
  t.match((await ask(supervisor, Front.Report)).answers, [/answered/])
})

t.test('a circle of calls ends with its own error, and both services serve on', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  const { error, message } = await ask(supervisor, Front.Circle)
  t.equal(error, 'CALL_DEPTH_EXCEEDED')
  t.match(message, /front > back > front/)
  t.same((await through(supervisor, { call: 'Add' })).answers, ['1.0.0 1'])
  t.same(supervisor.get('front')?.circuits, [{ api: 'test.Back', service: 'back', state: 'closed', failures: 0, retryAtMs: 0 }])
})

for (const tiers of TIERS)
  t.test(`the callee swaps while it is called all the time: no call lost, none twice: ${named(tiers)}`, async (t) => {
    const { supervisor } = await startPair({}, ['back', 'front'], tiers)
    t.teardown(() => supervisor.close())
    await ask(supervisor, Front.Begin)
    const report = async () => JSON.parse((await ask(supervisor, Front.Report)).answers[0] ?? '{}')
    while ((await report()).answered < 100);
    for (const version of ['1.1.0', '1.2.0']) {
      await supervisor.swap(await pairBundle('back', version, tierOf(tiers.back)), {})
      const { answered } = await report()
      while ((await report()).answered < answered + 100);
      await supervisor.commit('back')
    }
    await supervisor.swap(await pairBundle('back', '1.3.0', tierOf(tiers.back)), {})
    const { answered } = await report()
    while ((await report()).answered < answered + 100);
    await supervisor.revert('back', 'for the test')
    const last = await report()
    while ((await report()).answered < last.answered + 100);
    await endsWithNoneLost(t, supervisor)
  })

for (const tiers of TIERS)
  t.test(`the caller swaps while it calls all the time: what it began is finished before it hands over: ${named(tiers)}`, async (t) => {
    const { supervisor } = await startPair({}, ['back', 'front'], tiers)
    t.teardown(() => supervisor.close())
    await ask(supervisor, Front.Begin)
    const report = async () => JSON.parse((await ask(supervisor, Front.Report)).answers[0] ?? '{}')
    while ((await report()).answered < 100);
    for (const version of ['1.1.0', '1.2.0', '1.3.0']) {
      await supervisor.swap(await pairBundle('front', version, tierOf(tiers.front)), {})
      await supervisor.commit('front')
      const { answered } = await report()
      while ((await report()).answered < answered + 100);
    }
    await endsWithNoneLost(t, supervisor)
  })

t.test('both swap at once, again and again, while clients and Front itself call: no call lost, none twice', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  await ask(supervisor, Front.Begin)
  const outcomes: Outcome[] = []
  let going = true
  const client = async (number: number) => {
    for (let call = 0; going; call++) outcomes.push(await through(supervisor, { call: 'Add', request: `c${number}-${call}` }))
  }
  const clients = Array.from({ length: 8 }, async (_, number) => await client(number))
  for (let round = 1; round <= 5; round++) {
    const version = `1.${round}.0`
    await Promise.all(
      (['front', 'back'] as const).map(async (name) => {
        await supervisor.swap(await pairBundle(name, version), {})
        if (round % 2 === 0) await supervisor.revert(name, 'for the test')
        else await supervisor.commit(name)
      }),
    )
  }
  going = false
  await Promise.all(clients)
  t.same(
    outcomes.filter(({ error }) => error),
    [],
  )
  await ask(supervisor, Front.Begin, 'end')
  const { asked, failed } = JSON.parse((await ask(supervisor, Front.Report)).answers[0] ?? '{}')
  const { count, twice } = JSON.parse((await ask(supervisor, Back.Seen)).answers[0] ?? '{}')
  t.same({ failed, count, twice }, { failed: [], count: asked + outcomes.length, twice: 0 })
})

t.test('a call of the caller that takes longer than its hand-over ends with SWAP_IN_PROGRESS, and the swap goes on', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  const follow = begin(supervisor, Front.Follow)
  await until('numbers', () => follow.answers.length > 10)
  await supervisor.swap(await pairBundle('front', '1.1.0'), {})
  t.equal((await follow.outcome).error, 'SWAP_IN_PROGRESS')
  t.same((await through(supervisor, { call: 'Add' })).answers, ['1.0.0 1'])
})

t.test('a swap does not wait for a call that comes back to it by way of another service', async (t) => {
  const { supervisor } = await startPair({ holdTimeoutMs: 60_000 })
  t.teardown(() => supervisor.close())
  const bounce = through(supervisor, { call: 'Bounce', request: '300' })
  await through(supervisor, { call: 'Add' })
  const { heldMs } = await supervisor.swap(await pairBundle('front', '1.1.0'), {})
  t.match((await bounce).answers[0], /answered/)
  t.ok(heldMs < 60_000)
  t.equal(supervisor.get('front')?.version, '1.1.0')
})

t.test('a slow reader at the end of a chain holds the first sender back, and loses nothing', async (t) => {
  const { supervisor } = await startPair()
  t.teardown(() => supervisor.close())
  let room = 500
  const follow = begin(supervisor, Front.Follow, '5000', {
    send: (bytes) => {
      follow.answers.push(new TextDecoder().decode(bytes))
      return --room > 0
    },
  })
  await until('a full buffer', () => follow.answers.length >= 500)
  const before = follow.answers.length
  await through(supervisor, { call: 'Add' })
  t.ok(follow.answers.length < before + 300, `${follow.answers.length} at most a few windows past the end of the room`)
  room = Number.POSITIVE_INFINITY
  follow.handle.drained()
  await follow.outcome
  t.same(
    follow.answers,
    Array.from({ length: 5_000 }, (_, index) => `${index + 1}`),
  )
})

t.test('a method that changes the device is recorded before it is called; when that fails it is not called', async (t) => {
  const pair = await startPair({}, ['front'])
  const { supervisor, mutations } = pair
  t.teardown(() => supervisor.close())
  const methods = Object.values(Back).map(({ path, kind }) => (path === Back.Add.path ? { path, kind, mutates: true } : { path, kind }))
  await supervisor.install(await pairBundle('back', '1.0.0', { methods }), {})
  t.same((await through(supervisor, { call: 'Add' })).answers, ['1.0.0 1'])
  t.same(mutations, [{ principal: 'spiffe://lab/service/front', method: Back.Add.path, onBehalfOf: 'spiffe://lab/operator/test' }])
  pair.refuseMutations = true
  t.equal((await through(supervisor, { call: 'Add' })).error, 'STORE_FULL')
  t.same((await ask(supervisor, Back.Add)).answers, ['1.0.0 2'], 'it was not reached')
})

t.test('calls between services are counted for the audit log, not recorded one by one', async (t) => {
  const { supervisor, counted } = await startPair()
  t.teardown(() => supervisor.close())
  for (let call = 0; call < 5; call++) await through(supervisor, { call: 'Add' })
  await through(supervisor, { call: 'Fail', request: 'ARGUMENT_INVALID' })
  t.same(counted, [])
  await supervisor.close()
  t.match(counted, [
    { principal: 'spiffe://lab/service/front', method: '/test.Back/Add', outcome: 'OK', calls: 5 },
    { principal: 'spiffe://lab/service/front', method: '/test.Back/Fail', outcome: 'ARGUMENT_INVALID', calls: 1 },
  ])
})

/** Every call that Front began was answered, and reached Back once. */
async function endsWithNoneLost(t: Test, supervisor: Parameters<typeof ask>[0]): Promise<void> {
  await ask(supervisor, Front.Begin, 'end')
  const { asked, answered, failed } = JSON.parse((await ask(supervisor, Front.Report)).answers[0] ?? '{}')
  const { count, twice } = JSON.parse((await ask(supervisor, Back.Seen)).answers[0] ?? '{}')
  t.same({ failed, answered, count, twice }, { failed: [], answered: asked, count: asked, twice: 0 })
}
