import t, { type Test } from 'tap'
import type { Supervisor } from '../../../agent/supervisor/types.ts'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, stream, until, type Outcome } from './harness.ts'

/** Calls Next without pause, several at a time, until stopped. */
function caller(supervisor: Supervisor, lanes = 8) {
  const outcomes: Outcome[] = []
  let live = true
  const lane = async () => {
    while (live) {
      outcomes.push(await ask(supervisor, 'Next'))
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  const done = Promise.all(Array.from({ length: lanes }, lane))
  return {
    outcomes,
    numbers: () => outcomes.map(({ text }) => Number(text?.split(' ')[1])),
    versions: () => [...new Set(outcomes.map(({ text }) => text?.split(' ')[0]))],
    stop: async () => {
      live = false
      await done
    },
  }
}

/** No call failed, and every number from 1 on was given exactly once. */
function assertNoneLost(t: Test, calls: ReturnType<typeof caller>) {
  t.same(
    calls.outcomes.filter(({ error }) => error),
    [],
    'no call failed',
  )
  const numbers = calls.numbers().sort((a, b) => a - b)
  t.same(
    numbers,
    numbers.map((_, index) => index + 1),
    `${numbers.length} numbers, none missing, none twice`,
  )
}

t.test('calls go on through a swap: none fails, no number is given twice or left out', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  const calls = caller(supervisor)
  await until('calls', () => calls.outcomes.length > 200)
  const report = await supervisor.swap(await counterBundle('1.1.0'), {})
  const atFlip = calls.outcomes.length
  await until('calls after', () => calls.outcomes.length > atFlip + 200)
  t.match(supervisor.get('counter'), { version: '1.1.0', previousVersion: '1.0.0', state: 'ready' })
  await supervisor.commit('counter')
  t.match(supervisor.get('counter'), { version: '1.1.0', previousVersion: '' })
  await calls.stop()
  assertNoneLost(t, calls)
  t.same(calls.versions(), ['1.0.0', '1.1.0'])
  t.ok(report.heldMs > 0)
  t.comment(`held ${report.heldCalls} calls for ${report.heldMs.toFixed(1)} ms`)
})

t.test('many swaps, one after the other, under calls', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  const calls = caller(supervisor)
  for (let minor = 1; minor <= 10; minor++) {
    await supervisor.swap(await counterBundle(`1.${minor}.0`), {})
    if (minor % 2 === 0) await supervisor.revert('counter', 'as the test wants it')
    else await supervisor.commit('counter')
  }
  await calls.stop()
  assertNoneLost(t, calls)
  t.equal(supervisor.get('counter')?.version, '1.9.0')
})

for (const misbehave of ['throwAtStart', 'hangAtStart', 'exitAtStart', 'throwAtSelfTest', 'refuseInherited']) {
  t.test(`a candidate that does ${misbehave} leaves the old version serving, and no call fails`, async (t) => {
    const { supervisor } = await harness({ holdTimeoutMs: 500 })
    t.teardown(() => supervisor.close())
    await supervisor.install(await counterBundle('1.0.0'), {})
    await supervisor.commit('counter')
    const calls = caller(supervisor)
    await until('calls', () => calls.outcomes.length > 50)
    await t.rejects(supervisor.swap(await counterBundle('1.1.0'), { misbehave }), { code: 'SWAP_ROLLED_BACK' })
    const after = calls.outcomes.length
    await until('calls after', () => calls.outcomes.length > after + 50)
    await calls.stop()
    assertNoneLost(t, calls)
    t.same(calls.versions(), ['1.0.0'])
    t.match(supervisor.get('counter'), { version: '1.0.0', previousVersion: '', state: 'ready' })
    // And the slot is free again.
    await supervisor.swap(await counterBundle('1.2.0'), {})
    t.equal(supervisor.get('counter')?.version, '1.2.0')
  })
}

t.test('a configuration that the candidate refuses is found before a call is held', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  await t.rejects(supervisor.swap(await counterBundle('1.1.0'), 'no object'), { code: 'SWAP_ROLLED_BACK', message: /must be an object/ })
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
})

for (const misbehave of ['hangAtQuiesce', 'throwAtSnapshot']) {
  t.test(`an old version that does ${misbehave} stays, and keeps its count if it can`, async (t) => {
    const { supervisor } = await harness({ holdTimeoutMs: 500 })
    t.teardown(() => supervisor.close())
    await supervisor.install(await counterBundle('1.0.0'), { misbehave })
    await supervisor.commit('counter')
    t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
    const calls = caller(supervisor)
    await t.rejects(supervisor.swap(await counterBundle('1.1.0'), {}), { code: 'SWAP_ROLLED_BACK' })
    await calls.stop()
    t.same(
      calls.outcomes.filter(({ error }) => error),
      [],
    )
    t.same(calls.versions(), ['1.0.0'])
    t.equal(supervisor.get('counter')?.version, '1.0.0')
    if (misbehave === 'hangAtQuiesce') t.ok(Math.min(...calls.numbers()) > 1, 'the count went on')
  })
}

t.test('state that the candidate cannot read refuses the swap', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  await t.rejects(supervisor.swap(await counterBundle('2.0.0', { snapshot: { writes: [2], reads: [2] } }), {}), { code: 'SWAP_ROLLED_BACK' })
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
})

t.test('a revert carries back what the new version accepted', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  const calls = caller(supervisor)
  await until('calls', () => calls.outcomes.length > 50)
  await supervisor.swap(await counterBundle('1.1.0'), {})
  await until('calls to the new one', () => calls.outcomes.some(({ text }) => text?.startsWith('1.1.0')))
  await supervisor.revert('counter', 'for the test')
  const after = calls.outcomes.length
  await until('calls to the old one', () => calls.outcomes.length > after + 50)
  await calls.stop()
  assertNoneLost(t, calls)
  t.ok(calls.outcomes.at(-1)?.text?.startsWith('1.0.0'))
})

t.test('a provisional version that crashes is reported once; the revert uses the kept state and calls are held meanwhile', async (t) => {
  const { supervisor, failures } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  await ask(supervisor, 'Next')
  await supervisor.swap(await counterBundle('1.1.0'), {})
  await ask(supervisor, 'Do', 'crash')
  await until('the report', () => failures.length > 0)
  const held = ask(supervisor, 'Next')
  await supervisor.revert('counter', 'it crashed')
  t.same(await held, { text: '1.0.0 2' })
  t.equal(failures.length, 1)
  t.match(failures[0], /crashed on purpose/)
})

t.test('a provisional version that turns unhealthy is reported once, and its state survives the revert', async (t) => {
  const { supervisor, failures } = await harness({ healthIntervalMs: 20 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  await supervisor.swap(await counterBundle('1.1.0'), { misbehave: 'unhealthy', afterMs: 50 })
  const calls = caller(supervisor)
  await until('the report', () => failures.length > 0)
  await supervisor.revert('counter', failures[0] ?? '')
  await calls.stop()
  assertNoneLost(t, calls)
  t.equal(failures.length, 1)
  t.match(failures[0], /unhealthy: as configured/)
})

t.test('a provisional version that stops answering its heartbeat is reported, and the revert does not wait for it', async (t) => {
  const { supervisor, failures } = await harness({ healthIntervalMs: 20, heartbeatTimeoutMs: 300 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  await supervisor.swap(await counterBundle('1.1.0'), { misbehave: 'hangAtHealth', afterMs: 50 })
  await until('the report', () => failures.length > 0)
  await supervisor.revert('counter', 'silent')
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
  t.same(failures, ['it does not answer its heartbeat'])
})

t.test('the old version is started anew when its warm worker has died', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  // It is stopped once the other serves, and ends with its worker.
  await ask(supervisor, 'Do', 'crashWhenStopped')
  await ask(supervisor, 'Next')
  await supervisor.swap(await counterBundle('1.1.0'), {})
  await until('the warm worker to die', () => supervisor.get('counter')?.history.at(-1)?.to === 'failed')
  await ask(supervisor, 'Next')
  await supervisor.revert('counter', 'for the test')
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 3' })
})

t.test('a swap with calls that do not finish gives up, and they finish', async (t) => {
  const { supervisor } = await harness({ holdTimeoutMs: 300 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), { slowMs: 1_000 })
  await supervisor.commit('counter')
  const slow = ask(supervisor, 'Slow')
  await t.rejects(supervisor.swap(await counterBundle('1.1.0'), {}), { code: 'SWAP_ROLLED_BACK', message: /held for 300 ms/ })
  t.same(await slow, { text: '1.0.0 1' })
})

t.test('a swap that has to hold too many calls gives up, and every held call is answered', async (t) => {
  const { supervisor } = await harness({ heldCallsMax: 20 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), { slowMs: 500 })
  await supervisor.commit('counter')
  const slow = ask(supervisor, 'Slow')
  const swap = t.rejects(supervisor.swap(await counterBundle('1.1.0'), {}), { code: 'SWAP_ROLLED_BACK', message: /20 calls were held/ })
  const calls = caller(supervisor, 30)
  await swap
  await slow
  await calls.stop()
  t.same(
    calls.outcomes.filter(({ error }) => error),
    [],
  )
})

t.test('a resumable stream goes on in the successor, unseen by its client; others end with SWAP_IN_PROGRESS', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  const tail = stream(supervisor, 'Tail', 'serverStream', '')
  const watch = stream(supervisor, 'Watch', 'serverStream', '0')
  const echo = stream(supervisor, 'Echo', 'bidi')
  await until('numbers', () => tail.received.length > 20)
  await supervisor.swap(await counterBundle('1.1.0'), {})
  t.equal(await watch.ended, 'SWAP_IN_PROGRESS')
  t.equal(await echo.ended, 'SWAP_IN_PROGRESS')
  await until('numbers of 1.1.0', () => tail.received.some((one) => one.startsWith('1.1.0')))
  await supervisor.revert('counter', 'for the test')
  const after = tail.received.length
  await until('numbers after the revert', () => tail.received.length > after + 5)
  tail.handle.cancel()
  const numbers = [...tail.received, ...watch.received].map((one) => Number(one.split(' ')[1]))
  t.equal(new Set(numbers).size, numbers.length, 'no number twice')
  t.same([...new Set(tail.received.map((one) => one.split(' ')[0]))], ['1.0.0', '1.1.0'])
})

t.test('a second swap while one is provisional is refused', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await t.rejects(supervisor.swap(await counterBundle('1.1.0'), {}), { code: 'SWAP_IN_PROGRESS' })
  await supervisor.commit('counter')
  await supervisor.swap(await counterBundle('1.1.0'), {})
  await t.rejects(supervisor.swap(await counterBundle('1.2.0'), {}), { code: 'SWAP_IN_PROGRESS' })
  await supervisor.revert('counter', 'first')
  await supervisor.revert('counter', 'again')
  await supervisor.commit('counter')
  t.equal(supervisor.get('counter')?.version, '1.0.0')
})
