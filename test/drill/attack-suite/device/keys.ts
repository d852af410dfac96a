/** Keys that were stolen or taken back, orders that are played again, and the last timestamp for ever. */
import { fileName } from '../../../../core/tuf/metadata.ts'
import { TrustMethods } from '../../../../proto/gen/trust.ts'
import { type Loose, makeKey } from '../../../agent/trust/tuf/repository.ts'
import { SERVICE } from '../attack.ts'
import { makeFloors } from '../../../fixtures/bundles.ts'
import type { DeviceAttack } from './judge.ts'
import { carried, type DeviceScene } from './scene.ts'

const DAY_MS = 86_400_000
/** Time for an order before what it rests on expires. */
const FRESH_MS = 25_000
const ROLE = `service-${SERVICE}`
const COUNTED_MAX = 999_999_990

/** Keys of `roles` are stolen and count to the end; their owners replace them, and the device goes on with the new ones. Then the thief again. */
const fastForward = (roles: readonly string[], replaced: readonly string[]): DeviceAttack => ({
  name: `fast-forward: ${roles.join(', ')} counted to the end with stolen keys, after their owners replaced them`,
  refused: ['TRUST_THRESHOLD'],
  run: async (scene) => {
    const { repository } = scene
    const path = repository.release(SERVICE, '1.0.0')
    for (const role of roles) repository.roles[role].version = COUNTED_MAX
    repository.publish('targets', 'snapshot', 'timestamp')
    await scene.honestOrder(path)
    const stolen = repository.push()
    for (const role of replaced) repository.rotate(role)
    for (const role of replaced) repository.roles[role].version = 0
    repository.publish('targets', 'snapshot', 'timestamp')
    await scene.honestOrder(repository.release(SERVICE, '1.1.0'))
    return await scene.order(path, stolen)
  },
})

const replacedKey = (role: 'targets' | 'snapshot' | 'timestamp'): DeviceAttack => ({
  name: `key compromise: ${role} signed with the key from before the rotation`,
  refused: ['TRUST_THRESHOLD'],
  heldBy: 'signatures',
  keeps: role === 'timestamp' ? [] : role === 'snapshot' ? ['timestamp'] : ['snapshot'],
  run: async (scene) => {
    const { repository } = scene
    const old = repository.rotate(role)
    await scene.honestOrder(repository.release(SERVICE, '1.0.0'))
    repository.signers[role] = old
    return await scene.order(repository.release(SERVICE, '1.1.0'))
  },
})

async function revoked(scene: DeviceScene): Promise<{ path: string; recorded: ReturnType<DeviceScene['repository']['push']> }> {
  const { repository } = scene
  const path = repository.release(SERVICE, '1.0.0')
  await scene.honestOrder(path)
  const recorded = repository.push()
  await scene.honestOrder(repository.release(SERVICE, '1.1.0'))
  delete repository.roles[ROLE].targets[path]
  repository.publish(ROLE, 'snapshot', 'timestamp')
  return { path, recorded }
}

export const KEYS: readonly DeviceAttack[] = [
  fastForward(['snapshot', 'timestamp'], ['snapshot', 'timestamp']),
  fastForward(['targets', 'snapshot', 'timestamp'], ['targets', 'snapshot', 'timestamp']),
  replacedKey('targets'),
  replacedKey('snapshot'),
  replacedKey('timestamp'),
  {
    name: 'key compromise: a root signed by new owners alone',
    refused: ['TRUST_THRESHOLD'],
    heldBy: 'signatures',
    run: async (scene) => {
      const { repository } = scene
      repository.setKeys('root', [makeKey(), makeKey(), makeKey()], 2)
      repository.publish('root')
      return await scene.order(repository.release(SERVICE, '1.0.0'))
    },
  },
  {
    name: 'key compromise: a root of the right owners with a version left out',
    refused: ['TRUST_MISMATCH'],
    run: async (scene) => {
      const { repository } = scene
      const next = fileName('root', repository.roles['root'].version + 1)
      repository.rotate('timestamp')
      repository.rotate('timestamp')
      const path = repository.release(SERVICE, '1.0.0')
      return await scene.order(path, repository.push({ [next]: repository.file(fileName('root', repository.roles['root'].version)) }))
    },
  },
  {
    name: 'revoked key: a team whose delegation was taken away signs on',
    refused: ['TRUST_UNLISTED'],
    keeps: ['snapshot'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      const { delegations } = repository.roles['targets']
      delegations.roles = delegations.roles.filter(({ name }: Loose) => name !== ROLE)
      repository.publish('targets', 'snapshot', 'timestamp')
      return await scene.order(path)
    },
  },
  {
    name: 'revoked key: a bundle key that the policy no longer names',
    refused: ['POLICY_DENIED'],
    why: /none of them signed it/,
    keeps: ['snapshot', 'policy'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      repository.setPolicy((before) => ({ ...before, [SERVICE]: { keys: ['ab'.repeat(32)], capabilities: [], tiers: ['worker'] } }))
      return await scene.order(path)
    },
  },
  {
    name: 'revoked bundle: it was taken off the list, and is signed as well as ever',
    refused: ['TRUST_UNLISTED'],
    keeps: ['snapshot'],
    run: async (scene) => await scene.order((await revoked(scene)).path),
  },
  {
    name: 'revoked bundle: it lies below the floor, and is listed as well as ever',
    refused: ['BUNDLE_ROLLBACK'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      await scene.honestOrder(path)
      const floors = makeFloors(scene.fleet.key, repository.major, { [SERVICE]: repository.mapped('1.1.0') })
      await scene.honestOrder(repository.release(SERVICE, '1.1.0'), repository.push(), { order: { floors } })
      return await scene.order(path)
    },
  },
  {
    name: 'rollback: an older version that is listed, without leave to go back',
    refused: ['BUNDLE_DOWNGRADE'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      await scene.honestOrder(path)
      await scene.honestOrder(repository.release(SERVICE, '1.1.0'))
      return await scene.order(path, repository.push(), { order: { allowDowngrade: false } })
    },
  },
  {
    name: "replay: another device's order, recorded before what it orders was revoked",
    refused: ['TRUST_ROLLBACK'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      await scene.honestOrder(path)
      const recorded = repository.pushSince(1)
      const other = await scene.beside()
      try {
        await other.honestOrder(path, recorded)
        await scene.honestOrder(repository.release(SERVICE, '1.1.0'))
        delete repository.roles[ROLE].targets[path]
        repository.publish(ROLE, 'snapshot', 'timestamp')
        await scene.setUp(async () => await scene.client.unary(TrustMethods.Update, carried(repository.push())))
        await scene.mark()
        return await scene.order(path, recorded)
      } finally {
        await other.close()
      }
    },
  },
  {
    name: 'replay: the word of the witness to another device',
    refused: ['WITNESS_UNTRUSTED'],
    why: /another question/,
    run: async (scene) => {
      const other = await scene.beside()
      try {
        const answer = await other.forged({})
        await scene.setUp(async () => await other.attest(answer))
        await scene.forged({})
        return await scene.attest(answer)
      } finally {
        await other.close()
      }
    },
  },
  {
    name: 'replay: the word of the witness a second time',
    refused: ['WITNESS_UNTRUSTED'],
    why: /unasked/,
    run: async (scene) => {
      const answer = await scene.forged({})
      await scene.setUp(async () => await scene.attest(answer))
      await scene.mark()
      return await scene.attest(answer)
    },
  },
  {
    name: 'replay: its own order, after what it ordered was revoked',
    refused: ['TRUST_ROLLBACK'],
    run: async (scene) => {
      const { repository } = scene
      const { path, recorded } = await revoked(scene)
      await scene.setUp(async () => await scene.client.unary(TrustMethods.Update, carried(repository.push())))
      await scene.mark()
      return await scene.order(path, recorded)
    },
  },
  {
    name: 'freeze: the last timestamp, for ever',
    refused: ['TRUST_EXPIRED'],
    heldBy: 'expiry',
    run: async (scene) => {
      const { repository } = scene
      const paths = [repository.release(SERVICE, '1.0.0'), repository.release(SERVICE, '1.1.0')]
      // It lives for seven days, of which these seconds are left.
      repository.madeAtMs = Date.now() - 7 * DAY_MS + FRESH_MS
      repository.publish('timestamp')
      await scene.honestOrder(paths[0] ?? '')
      const { expiresMs } = await scene.status()
      while (Date.now() <= expiresMs + 1_000) await new Promise((resolve) => setTimeout(resolve, 500))
      return await scene.order(paths[1] ?? '')
    },
  },
]
