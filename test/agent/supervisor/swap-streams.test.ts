import t from 'tap'
import type { Supervisor, VerifiedBundle } from '../../../agent/supervisor/types.ts'
import { counterBundle, payloadOf } from '../../fixtures/services/counter/bundle.ts'
import { harness, until } from './harness.ts'

const METHODS = [
  { path: '/bench.Ledger/Add', kind: 'unary' },
  { path: '/bench.Ledger/Updates', kind: 'serverStream', resumable: true },
] as const

/** Stands still as soon as it has answered that it is loaded, which takes a few turns of its promises. */
const HANGS = `
const hang = async () => { for (let turn = 0; turn < 100; turn++) await undefined; for (;;) {} }
const usual = offboxService.create
offboxService = { create: () => {
  const service = usual()
  return Object.assign(service, { check: (raw) => { void hang(); return raw } })
} }`

async function ledger(version: string, more = ''): Promise<VerifiedBundle> {
  const bundle = await counterBundle(version, { methods: METHODS, capabilities: [] })
  const code = Buffer.from(await payloadOf('bench/swap/service.ts')).toString()
  return { ...bundle, payload: Buffer.from(code + more) }
}

/** A stream of updates, and what came of it. */
function follow(supervisor: Supervisor) {
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
}

t.test('each of twenty streams gets every update exactly once, in order, through swaps and reverts of the service that feeds them', async (t) => {
  const { supervisor } = await harness({ holdTimeoutMs: 20_000 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await ledger('1.0.0'), {})
  await supervisor.commit('counter')
  const streams = Array.from({ length: 20 }, () => follow(supervisor))
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

t.test('a stream goes on with the version that fed it when its successor fails between its preparation and the hold', async (t) => {
  const { supervisor } = await harness({ quiesceTimeoutMs: 2_000 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await ledger('1.0.0'), {})
  await supervisor.commit('counter')
  const { received, ended, handle } = follow(supervisor)
  await until('an update', () => received.length > 0)
  await t.rejects(supervisor.swap(await ledger('1.1.0', HANGS), {}), { code: 'SWAP_ROLLED_BACK' })
  const count = received.length
  await until('two more updates', () => received.length > count + 1)
  t.same(ended, [])
  const first = received[0] ?? 0
  t.same(
    received,
    received.map((_, at) => first + at),
  )
  handle.cancel()
})
