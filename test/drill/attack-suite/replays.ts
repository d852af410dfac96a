/** Attacks with what was once right: old versions, old answers, old disks. */
import { COPY_NAMES } from '../../../agent/trust/tuf/copies.ts'
import { requireTargetFile } from '../../../agent/trust/tuf/tuf-trust.ts'
import { bundleOf, DAY_MS, makeKey, seal, timeText } from '../../agent/trust/tuf/repository.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { fileName } from '../../../core/tuf/metadata.ts'
import { type Attack, keptBefore, SERVICE, type Stage, type StagedAttack } from './attack.ts'
import { targetOf } from './excesses.ts'

const STORE = '/state/trust/tuf'

/** The device takes a first release, then a second one; the answer is what was right before the second. */
async function movedOn(scene: Stage, between: () => void = () => {}) {
  const { repository } = scene
  const oldPath = repository.release(SERVICE, '1.0.0')
  await scene.honestOrder(oldPath)
  const old = repository.push()
  between()
  const path = repository.release(SERVICE, '1.1.0')
  await scene.honestOrder(path)
  return { old, oldPath, path }
}

const rolledBack = (role: string): StagedAttack => ({
  name: `rollback: ${role} of a lower version, freshly signed`,
  refused: ['TRUST_ROLLBACK'],
  keeps: role === 'snapshot' || role === 'timestamp' ? [] : ['timestamp'],
  heldBy: 'memory',
  run: async (scene) => {
    const { path } = await movedOn(scene)
    const { repository } = scene
    repository.roles[role].version -= 1
    repository.write(role)
    if (role !== 'timestamp' && role !== 'snapshot') repository.publish('snapshot')
    if (role !== 'timestamp') repository.publish('timestamp')
    return await scene.order(path)
  },
})

/** Of the repository alone. */
export const REPLAYS: readonly StagedAttack[] = [
  ...['timestamp', 'snapshot', 'targets', `service-${SERVICE}`].map(rolledBack),
  {
    name: 'rollback: the whole repository as it was',
    refused: ['TRUST_ROLLBACK'],
    heldBy: 'memory',
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene)
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'rollback: a root from before the rotation, with its timestamp',
    refused: ['TRUST_THRESHOLD', 'TRUST_ROLLBACK'],
    heldBy: 'memory',
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene, () => void scene.repository.rotate('timestamp'))
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'rollback: a role vanishes from the snapshot',
    refused: ['TRUST_ROLLBACK'],
    keeps: ['timestamp'],
    heldBy: 'memory',
    run: async (scene) => {
      const { repository } = scene
      const { path } = await movedOn(scene)
      repository.roles['targets'].targets[path] = repository.roles[`service-${SERVICE}`].targets[path]
      repository.publish('targets')
      delete repository.roles['snapshot'].meta[`service-${SERVICE}.json`]
      repository.publish('snapshot', 'timestamp')
      return await scene.order(path)
    },
  },
  ...['root', 'snapshot', 'targets', `service-${SERVICE}`].map(
    (role): StagedAttack => ({
      name: `freeze: ${role} expired under a fresh timestamp`,
      refused: ['TRUST_EXPIRED'],
      keeps: role === 'root' ? ['root'] : ['snapshot'],
      heldBy: 'expiry',
      run: async (scene) => {
        const { repository } = scene
        const path = repository.release(SERVICE, '1.0.0')
        repository.roles[role].expires = timeText(repository.nowMs - DAY_MS)
        repository.publish(role, 'snapshot', 'timestamp')
        return await scene.order(path)
      },
    }),
  ),
  {
    name: 'mix and match: an old snapshot under the new name',
    refused: ['TRUST_MISMATCH'],
    keeps: ['timestamp'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      const old = repository.file(`${repository.roles['snapshot'].version}.snapshot.json`)
      repository.release(SERVICE, '1.1.0')
      return await scene.order(path, repository.push({ [`${repository.roles['snapshot'].version}.snapshot.json`]: old }))
    },
  },
  ...['targets', `service-${SERVICE}`].map(
    (role): StagedAttack => ({
      name: `mix and match: an old ${role} under the new name`,
      refused: ['TRUST_MISMATCH'],
      keeps: ['snapshot'],
      run: async (scene) => {
        const { repository } = scene
        const path = repository.release(SERVICE, '1.0.0')
        const old = repository.file(`${repository.roles[role].version}.${role}.json`)
        repository.release(SERVICE, '1.1.0')
        return await scene.order(path, repository.push({ [`${repository.roles[role].version}.${role}.json`]: old }))
      },
    }),
  ),
  {
    name: 'mix and match: the same version with other content, signed with the right key',
    refused: ['TRUST_MISMATCH'],
    keeps: ['snapshot'],
    heldBy: 'digests',
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      const role = `service-${SERVICE}`
      const other = seal({ ...repository.roles[role], expires: timeText(repository.nowMs + 9 * DAY_MS) }, repository.signers[role] ?? [])
      return await scene.order(path, repository.push({ [fileName(role, repository.roles[role].version)]: other }))
    },
  },
  ...['timestamp', 'snapshot', 'targets', `service-${SERVICE}`].map(
    (role): StagedAttack => ({
      name: `withheld: ${role}`,
      refused: ['TRUST_UNAVAILABLE'],
      keeps: keptBefore(role),
      run: async (scene) => {
        const { repository } = scene
        const path = repository.release(SERVICE, '1.0.0')
        return await scene.order(path, repository.push({ [fileName(role, repository.roles[role].version)]: null }))
      },
    }),
  ),
  {
    name: 'key compromise: the stolen timestamp key that counted to the end, after its owners replaced it',
    refused: ['TRUST_THRESHOLD'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      repository.roles['timestamp'].version = 999_999_998
      repository.publish('timestamp')
      await scene.honestOrder(path)
      const stolen = repository.file('timestamp.json')
      repository.rotate('timestamp')
      repository.roles['timestamp'].version = 0
      repository.publish('timestamp')
      // The recovery has to work: version 1 of the new key counts.
      await scene.honestOrder(path)
      return await scene.order(path, repository.push({ 'timestamp.json': stolen }))
    },
  },
  {
    name: 'revoked key: a service signs on with the key that was taken from it',
    refused: ['TRUST_THRESHOLD'],
    keeps: ['snapshot'],
    heldBy: 'signatures',
    run: async (scene) => {
      const { repository } = scene
      const role = `service-${SERVICE}`
      const path = repository.release(SERVICE, '1.0.0')
      const old = repository.signers[role] ?? []
      repository.setKeys(role, [makeKey()], 1)
      repository.signers[role] = old
      repository.publish(role, 'targets', 'snapshot', 'timestamp')
      return await scene.order(path)
    },
  },
]

/** With the verifier's own disk, clock and witness. */
export const VERIFIER_REPLAYS: readonly Attack[] = [
  {
    name: 'rollback: the whole repository as it was, after a restart of the agent',
    refused: ['TRUST_ROLLBACK'],
    heldBy: 'memory',
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene)
      await scene.restart()
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'freeze: the last timestamp, for ever',
    refused: ['TRUST_EXPIRED'],
    heldBy: 'expiry',
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      await scene.honestOrder(path)
      await scene.clock.advance(8 * DAY_MS)
      return await scene.order(path)
    },
  },
  {
    name: 'clock: a year back, to revive what expired',
    refused: ['TRUST_EXPIRED'],
    heldBy: 'expiry',
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      await scene.honestOrder(path)
      await scene.clock.advance(8 * DAY_MS)
      const { clock } = scene
      const real = clock.nowMs.bind(clock)
      clock.nowMs = () => real() - 365 * DAY_MS
      return await scene.order(path)
    },
  },
  {
    name: 'substituted file: another bundle than the target means',
    refused: ['BUNDLE_CORRUPT'],
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      requireTargetFile(await targetOf(scene, path), bundleOf(SERVICE, '6.6.6'))
    },
  },
  {
    name: 'tampered store: other metadata written into both copies, checksums and all',
    refused: ['TRUST_THRESHOLD'],
    run: async (scene) => {
      const stranger = new (await import('./attack.ts')).AttackScene()
      const path = stranger.repository.release(SERVICE, '6.6.6')
      await stranger.honestOrder(path)
      scene.disk = stranger.disk
      await scene.restart()
      return await scene.order(path, stranger.repository.push())
    },
  },
  {
    name: 'tampered store: both copies rotted, then an old repository',
    refused: ['TRUST_UNAVAILABLE'],
    heldBy: 'witness',
    run: async (scene) => {
      const { options } = await scene.witness()
      const { old, oldPath } = await movedOn(scene)
      for (const name of COPY_NAMES) scene.disk.rot(`${STORE}/${name}`)
      await scene.restart({ witness: options })
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'tampered store: one copy rotted, then an old repository',
    refused: ['TRUST_ROLLBACK'],
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene)
      scene.disk.rot(`${STORE}/a`)
      await scene.restart()
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'tampered store: one copy set back to an older one',
    refused: ['TRUST_ROLLBACK'],
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      await scene.honestOrder(path)
      const [push, older] = [scene.repository.push(), await scene.disk.read(`${STORE}/a`)]
      await scene.honestOrder(scene.repository.release(SERVICE, '1.1.0'))
      await scene.disk.remove(`${STORE}/a`)
      if (older) await scene.disk.append(`${STORE}/a`, older)
      await scene.restart()
      return await scene.order(path, push)
    },
  },
  {
    name: 'wiped store: an old repository, without a word of the witness',
    refused: ['TRUST_UNAVAILABLE'],
    heldBy: 'witness',
    run: async (scene) => {
      const { options } = await scene.witness()
      const { old, oldPath } = await movedOn(scene)
      scene.disk = new FakeFileSystem()
      await scene.restart({ witness: options })
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'reboot of a diskless device: an old repository, with the word of the witness',
    refused: ['TRUST_ROLLBACK'],
    heldBy: 'witness',
    run: async (scene) => {
      const { witness, options } = await scene.witness()
      const { old, oldPath } = await movedOn(scene)
      await scene.setUp(async () => await witness.attest(new Uint8Array(32), scene.repository.push()))
      scene.disk = new FakeFileSystem()
      const trust = await scene.restart({ witness: options })
      if (trust.needsWitness) await scene.setUp(async () => await trust.acceptStatement(await witness.attest(trust.challenge())))
      return await scene.order(oldPath, old)
    },
  },
  {
    name: "replay: another device's answer of the witness",
    refused: ['WITNESS_UNTRUSTED'],
    run: async (scene) => {
      const { witness, options } = await scene.witness()
      const other = new (await import('./attack.ts')).AttackScene({ witness: options })
      const answer = await scene.setUp(async () => await witness.attest((await other.trust()).challenge()))
      const trust = await scene.restart({ witness: options })
      trust.challenge()
      return await trust.acceptStatement(answer)
    },
  },
  {
    name: 'stolen controller: it says what the witness would say',
    refused: ['WITNESS_UNTRUSTED'],
    run: async (scene) => {
      const { options } = await scene.witness()
      const thief = await scene.witness()
      const trust = await scene.restart({ witness: options })
      const answer = await scene.setUp(async () => await thief.witness.attest(trust.challenge()))
      return await trust.acceptStatement(answer)
    },
  },
]
