import { MessagePort } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { copiedStateBytesMax } from '../../../agent/supervisor/hand-over.ts'
import type { VerifiedBundle } from '../../../agent/supervisor/types.ts'
import { counterBundle, payloadOf } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness } from './harness.ts'

const LARGE_BYTES = copiedStateBytesMax * 3
const NEXT = [{ path: '/test.Counter/Next', kind: 'unary' }] as const

async function bundleOf(version: string, schemas: readonly number[] = [1]): Promise<VerifiedBundle> {
  const bundle = await counterBundle(version, { methods: NEXT, capabilities: [], snapshot: { writes: schemas, reads: schemas }, heapMbMax: 64 })
  return { ...bundle, payload: await payloadOf('test/fixtures/services/stateful/service.ts') }
}

async function running(t: Test, config: object, schemas?: readonly number[]) {
  const made = await harness({ holdTimeoutMs: 20_000 })
  t.teardown(() => made.supervisor.close())
  await made.supervisor.install(await bundleOf('1.0.0', schemas), config)
  await made.supervisor.commit('counter')
  const next = async () => {
    const { text, error } = await ask(made.supervisor, 'Next')
    return text ?? error
  }
  return { ...made, next }
}

/** Flips one bit of the first state on its way from the agent to a version that starts. What comes later passes whole. */
function damageFirst(t: Test): () => number {
  const prototype = MessagePort.prototype as { postMessage: (...given: unknown[]) => void }
  const real = prototype.postMessage
  t.teardown(() => {
    prototype.postMessage = real
  })
  let seen = 0
  prototype.postMessage = function (this: unknown, batch: unknown, ...rest: unknown[]) {
    const { list = [] } = (batch ?? {}) as { list?: readonly unknown[] }
    for (const item of list) {
      const { inherited } = (item ?? {}) as { inherited?: { bytes: Uint8Array } }
      if (!inherited || seen++ > 0) continue
      const at = inherited.bytes.length >> 1
      inherited.bytes[at] = (inherited.bytes[at] ?? 0) ^ 4
    }
    Reflect.apply(real, this, [batch, ...rest])
  }
  return () => seen
}

for (const [what, sizeBytes] of [
  ['small', 0],
  ['large', LARGE_BYTES],
] as const) {
  t.test(`one bit flipped in ${what} state on its way is found before the new version sees it; the old one serves on with its own`, async (t) => {
    const { supervisor, next } = await running(t, { sizeBytes })
    t.equal(await next(), '1.0.0 1 after 1 by schema 0')
    const seen = damageFirst(t)
    const calls = [next(), next()]
    await t.rejects(supervisor.swap(await bundleOf('1.1.0'), { sizeBytes }), { code: 'SNAPSHOT_CORRUPT', message: /bytes of state in schema 1 do not match/ })
    t.ok(seen() >= 2, 'and what the old version came back with passed')
    const answers = await Promise.all(calls)
    t.ok(
      answers.every((answer) => answer?.startsWith('1.0.0')),
      answers.join(),
    )
    t.match(await next(), /^1\.0\.0 4 after [12] by schema [01]$/, 'no number is lost or given twice')
    t.match(supervisor.get('counter'), { version: '1.0.0', previousVersion: '' })
    await supervisor.swap(await bundleOf('1.2.0'), { sizeBytes })
    t.match(await next(), /^1\.2\.0 5 /)
  })
}

for (const shared of [false, true]) {
  t.test(`large state goes over and back, ${shared ? 'shared' : 'moved'}, and a revert keeps what the new version accepted`, async (t) => {
    const config = { sizeBytes: LARGE_BYTES, shared }
    const { supervisor, next, logs } = await running(t, config)
    await next()
    for (const version of ['1.1.0', '1.2.0', '1.3.0']) {
      await supervisor.swap(await bundleOf(version), config)
      t.match(await next(), new RegExp(`^${version} `))
      if (version === '1.2.0') await supervisor.revert('counter', 'for the test')
      else await supervisor.commit('counter')
    }
    t.match(await next(), /^1\.3\.0 5 /)
    t.same(
      logs.filter(({ level }) => level === 'error' || level === 'warn'),
      [],
    )
  })
}

t.test('a version that writes to shared memory it was given is found out, and its change must be reverted; nothing accepted is lost', async (t) => {
  const config = { sizeBytes: LARGE_BYTES, shared: true }
  const { supervisor, next } = await running(t, config)
  await next()
  const swap = t.rejects(supervisor.swap(await bundleOf('1.1.0'), { ...config, scribbles: true }), { code: 'SNAPSHOT_CORRUPT', message: /shared state/ })
  await swap
  t.match(await next(), /^1\.1\.0 2 /, 'it serves until then')
  await supervisor.revert('counter', 'as the change engine does')
  t.match(await next(), /^1\.0\.0 3 /)
  await supervisor.swap(await bundleOf('1.2.0'), config)
  t.match(await next(), /^1\.2\.0 4 /)
})

t.test('large state that went with a candidate that crashed is given again', async (t) => {
  const config = { sizeBytes: LARGE_BYTES }
  const { supervisor, next } = await running(t, config)
  await next()
  await t.rejects(supervisor.swap(await bundleOf('1.1.0'), { ...config, crashes: true }), { code: 'SWAP_ROLLED_BACK', message: /crashed on purpose/ })
  t.match(await next(), /^1\.0\.0 2 /)
})

t.test('a version that can give its large state only once has no way of its own back, and the log says so; the hand-back still works', async (t) => {
  const config = { sizeBytes: LARGE_BYTES }
  const { supervisor, next, logs } = await running(t, { ...config, once: true })
  await next()
  await supervisor.swap(await bundleOf('1.1.0'), config)
  t.match(logs.at(-1), { level: 'error', message: 'the version before has no state of its own to come back with' })
  t.match(await next(), /^1\.1\.0 2 /)
  await supervisor.revert('counter', 'for the test')
  t.match(await next(), /^1\.0\.0 3 /)
})

t.test('state migrates over three versions, skipping one as well, and back again after each has served', async (t) => {
  const [one, two, three] = [await bundleOf('1.0.0', [1]), await bundleOf('2.0.0', [1, 2]), await bundleOf('3.0.0', [1, 2, 3])]
  const { supervisor, next } = await running(t, {}, [1])
  const to = async (bundle: VerifiedBundle) => {
    await supervisor.swap(bundle, {})
    return await next()
  }
  await next()
  t.equal(await to(two), '2.0.0 2 after 2 by schema 1')
  await supervisor.commit('counter')
  t.equal(await to(three), '3.0.0 3 after 3 by schema 2', 'in the newest format both know')
  await supervisor.revert('counter', 'after it has served')
  t.equal(await next(), '2.0.0 4 after 4 by schema 2')
  t.equal(await to(three), '3.0.0 5 after 5 by schema 2')
  await supervisor.commit('counter')
  t.equal(await to(one), '1.0.0 6 after 2 by schema 1', 'down again, to what the oldest knows')
  await supervisor.revert('counter', 'and up')
  t.match(await next(), /^3\.0\.0 7 /)
  await supervisor.swap(two, {})
  await supervisor.commit('counter')
  t.match(await to(await bundleOf('4.0.0', [2])), /^4\.0\.0 8 /)
  await supervisor.commit('counter')
  await t.rejects(supervisor.swap(one, {}), { code: 'SWAP_ROLLED_BACK', message: /reads no state/ }, 'one that knows none of its formats is refused')
})
