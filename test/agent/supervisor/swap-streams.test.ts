import t from 'tap'
import type { VerifiedBundle } from '../../../agent/supervisor/types.ts'
import { counterBundle, payloadOf } from '../../fixtures/services/counter/bundle.ts'
import { harness, until } from './harness.ts'

const METHODS = [
  { path: '/bench.Ledger/Add', kind: 'unary' },
  { path: '/bench.Ledger/Updates', kind: 'serverStream', resumable: true },
] as const

async function ledger(version: string): Promise<VerifiedBundle> {
  const bundle = await counterBundle(version, { methods: METHODS, capabilities: [] })
  return { ...bundle, payload: await payloadOf('bench/swap/service.ts') }
}

t.test('each of twenty streams gets every update exactly once, in order, through swaps and reverts of the service that feeds them', async (t) => {
  const { supervisor } = await harness({ holdTimeoutMs: 20_000 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await ledger('1.0.0'), {})
  await supervisor.commit('counter')
  const streams = Array.from({ length: 20 }, () => {
    const received: number[] = []
    const ended: unknown[] = []
    const handle = supervisor.call({
      ...{ method: '/bench.Ledger/Updates', kind: 'serverStream', principal: 'spiffe://lab/operator/test', deadlineMs: undefined, metadata: {} },
      send: (bytes) => received.push(Number(Buffer.from(bytes).toString())) > 0,
      end: (error) => void ended.push(error),
    })
    handle.message(new Uint8Array())
    handle.halfClose()
    return { received, ended, handle }
  })
  for (let swap = 1; swap <= 12; swap++) {
    // The first one comes before any stream has had a message: where it began is all there is to go on from.
    if (swap > 1) {
      const counts = streams.map(({ received }) => received.length)
      await until('an update', () => streams.every(({ received }, at) => received.length > (counts[at] ?? 0)))
    }
    await supervisor.swap(await ledger(`1.${swap}.0`), {})
    if (swap % 3 === 0) await supervisor.revert('counter', 'as the test wants it')
    else await supervisor.commit('counter')
  }
  const counts = streams.map(({ received }) => received.length)
  await until('two more updates', () => streams.every(({ received }, at) => received.length > (counts[at] ?? 0) + 1))
  for (const { received, ended, handle } of streams) {
    t.same(ended, [])
    const first = received[0] ?? 0
    t.same(
      received,
      received.map((_, at) => first + at),
      `${received.length} updates from ${first} on`,
    )
    handle.cancel()
  }
})
