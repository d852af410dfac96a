import { createHash } from 'node:crypto'
import t from 'tap'
import type { Supervisor, VerifiedBundle } from '../../../agent/supervisor/types.ts'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { harness, until } from './harness.ts'

/** A service that answers one method and nothing else. */
async function otherBundle(name: string): Promise<VerifiedBundle> {
  const path = `/test.${name}/Ask`
  const methods = `[{ path: '${path}', kind: 'unary', handle: async () => new Uint8Array([1]) }]`
  const service = `{ methods: ${methods}, check: (raw) => raw, start: async () => {}, stop: async () => {}, health: () => ({ status: 'healthy', evidence: {} }) }`
  const payload = new TextEncoder().encode(`var offboxService = { create: () => (${service}) }`)
  const about = { name, methods: [{ path, kind: 'unary' as const }], capabilities: [], snapshot: { writes: [], reads: [] } }
  const { manifest } = await counterBundle('1.0.0', {
    ...about,
    payload: { sha256: createHash('sha256').update(payload).digest('hex'), sizeBytes: payload.length },
  })
  return { manifest, manifestSha256: '', keyIds: [], payload }
}

async function answers(supervisor: Supervisor, name: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const handle = supervisor.call({
      ...{ method: `/test.${name}/Ask`, kind: 'unary', principal: 'spiffe://lab/operator/me', deadlineMs: undefined, metadata: {} },
      send: () => true,
      end: (error) => resolve(error === undefined),
    })
    handle.message(new Uint8Array(0))
    handle.halfClose()
  })
}

t.test('a service that crashes again and again delays no other: they answer, start and stop meanwhile', async (t) => {
  const { supervisor } = await harness({ backoffFirstMs: 1, backoffMaxMs: 1, restartsBurst: 10_000 })
  t.teardown(() => supervisor.close())
  await supervisor.install(await otherBundle('steady'), {})
  await supervisor.commit('steady')
  await supervisor.install(await counterBundle('1.0.0'), { misbehave: 'unhealthy' })
  await supervisor.commit('counter')
  let crashing = true
  const crashes = (async () => {
    while (crashing) {
      // As soon as it is back it crashes anew.
      await until('it is up', () => !crashing || supervisor.get('counter')?.state === 'ready')
      const handle = supervisor.call({
        ...{ method: '/test.Counter/Do', kind: 'unary', principal: 'spiffe://lab/operator/me', deadlineMs: undefined, metadata: {} },
        send: () => true,
        end: () => {},
      })
      handle.message(new TextEncoder().encode('crash'))
      handle.halfClose()
      const starts = supervisor.get('counter')?.starts ?? 0
      await until('it starts again', () => !crashing || (supervisor.get('counter')?.starts ?? 0) > starts)
    }
  })()
  let answered = 0
  let refused = 0
  while ((supervisor.get('counter')?.starts ?? 0) < 8) {
    if (await answers(supervisor, 'steady')) answered++
    else refused++
  }
  t.equal(refused, 0)
  t.ok(answered > 8, `${answered} calls answered during ${supervisor.get('counter')?.starts} starts of the other`)
  await supervisor.install(await otherBundle('late'), {})
  await supervisor.commit('late')
  t.ok(await answers(supervisor, 'late'))
  await supervisor.remove('late')
  t.match(supervisor.get('steady'), { state: 'ready', starts: 1 })
  crashing = false
  await crashes
})
