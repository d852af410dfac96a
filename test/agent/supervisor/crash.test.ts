import t from 'tap'
import { counterBundle, siblingBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, stream, until } from './harness.ts'

const hops = (history: readonly { from: string; event: string; to: string }[] | undefined) => history?.map(({ from, event, to }) => `${from} ${event} ${to}`)

t.test('a crash ends the calls under way, holds those that come, and starts again after a pause', async (t) => {
  const { supervisor } = await harness({ backoffFirstMs: 50 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), { slowMs: 10_000 })
  await supervisor.commit('counter')
  const slow = ask(supervisor, 'Slow')
  const tail = stream(supervisor, 'Tail', 'serverStream', '')
  await until('a number', () => tail.received.length > 0)
  await ask(supervisor, 'Do', 'crash')
  t.match(await slow, { error: 'SERVICE_CRASHED' })
  t.equal(await tail.ended, 'SERVICE_CRASHED')
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' }, 'held until it was back, its count lost with the worker')
  t.same(hops(supervisor.get('counter')?.history), [
    'loaded start starting',
    'starting ready ready',
    'ready exit backoff',
    'backoff timeout starting',
    'starting ready ready',
  ])
  t.equal(supervisor.get('counter')?.starts, 2)
  t.match(supervisor.get('counter')?.history[2]?.reason, /crashed on purpose/)
})

t.test('a service that crashes too often stays down, and its sibling is untouched', async (t) => {
  const { supervisor } = await harness({ backoffFirstMs: 1, restartsBurst: 3 })
  t.teardown(() => supervisor.close())
  const spent: string[] = []
  supervisor.onSpent = (service, reason) => spent.push(`${service}: ${reason}`)
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  const methods = [{ path: '/test.Counter/Next', kind: 'unary' as const }]
  await t.rejects(supervisor.install(await counterBundle('1.0.0', { name: 'other', methods }), {}), { code: 'METHOD_CONFLICT' })
  await supervisor.install(await siblingBundle(), {})
  await supervisor.commit('sibling')
  for (let crash = 1; crash <= 4; crash++) {
    await ask(supervisor, 'Do', 'crash')
    await until(`crash ${crash}`, () => {
      const history = supervisor.get('counter')?.history ?? []
      const crashes = history.filter(({ from, event }) => from === 'ready' && event.startsWith('exit')).length
      return crashes === crash && (history.at(-1)?.to === 'ready' || history.at(-1)?.to === 'failed')
    })
  }
  t.equal(supervisor.get('counter')?.state, 'failed')
  t.match(spent, [/^counter: .*crashed on purpose/], 'told once')
  t.match(await ask(supervisor, 'Next'), { error: 'SERVICE_DOWN' })
  t.match(supervisor.get('sibling'), { state: 'ready', starts: 1 })
  // And a new version may still replace it.
  await supervisor.swap(await counterBundle('1.1.0'), {})
  t.same(await ask(supervisor, 'Next'), { text: '1.1.0 1' })
})

t.test('a worker that hangs is ended after its heartbeat is missed', async (t) => {
  const { supervisor } = await harness({ healthIntervalMs: 20, heartbeatTimeoutMs: 300, backoffFirstMs: 1 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  t.match(await ask(supervisor, 'Do', 'loop'), { error: 'SERVICE_CRASHED' })
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
})

t.test('calls to a service that does not come back in time are told so', async (t) => {
  const { supervisor } = await harness({ backoffFirstMs: 60_000, backoffMaxMs: 60_000, downHoldTimeoutMs: 50 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  await ask(supervisor, 'Do', 'crash')
  await until('the crash', () => supervisor.get('counter')?.state === 'backoff')
  t.match(await ask(supervisor, 'Next'), { error: 'SERVICE_DOWN', message: /backoff/ })
})

t.test('an install that does not start leaves nothing', async (t) => {
  const { supervisor } = await harness({ startTimeoutMs: 500 })
  t.teardown(() => supervisor.close())
  for (const misbehave of ['throwAtStart', 'hangAtStart', 'exitAtStart', 'throwAtSelfTest']) {
    await t.rejects(supervisor.install(await counterBundle('1.0.0'), { misbehave }), { code: 'SWAP_ROLLED_BACK' }, misbehave)
    t.equal(supervisor.get('counter'), undefined)
    t.match(await ask(supervisor, 'Next'), { error: 'METHOD_NOT_FOUND' })
  }
})

t.test('an install that is reverted leaves nothing', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.revert('counter', 'not wanted')
  t.equal(supervisor.get('counter'), undefined)
})

t.test('an uncommitted install that crashes is reported, not restarted', async (t) => {
  const { supervisor, failures } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await ask(supervisor, 'Do', 'crash')
  await until('the report', () => failures.length === 1)
  t.match(supervisor.get('counter'), { state: 'failed', starts: 1 })
})

t.test('memory over the heap limit ends the worker and nothing else', async (t) => {
  const { supervisor } = await harness({ backoffFirstMs: 1 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0', { heapMbMax: 16 }), {})
  await supervisor.commit('counter')
  t.match(await ask(supervisor, 'Do', 'eval const kept = []; for (;;) kept.push({ more: kept.length, and: [1, 2, 3] })'), { error: 'SERVICE_CRASHED' })
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
})

t.test('close stops everything, and nothing is accepted afterwards', async (t) => {
  const { supervisor } = await harness()
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  const swap = t.rejects(supervisor.swap(await counterBundle('1.1.0'), { misbehave: 'hangAtStart' }), { code: 'SWAP_ROLLED_BACK' })
  await until('the candidate', () => supervisor.get('counter')?.history.at(-1)?.version === '1.1.0')
  await supervisor.close()
  await swap
  t.same(supervisor.list(), [])
  await t.rejects(supervisor.install(await counterBundle('1.0.0'), {}), { code: 'STATE_REFUSED' })
})
