/** The cases of test_rollback.py and test_updater_key_rotations.py. */
import { makeKey, Repository } from '../repository.ts'
import { TrustingDevice } from '../device.ts'
import type { Case } from './scene.ts'

export const ROLLBACK: Readonly<Record<string, Case>> = {
  test_new_timestamp_version_rollback: async (scene) => {
    scene.repository.publish('timestamp')
    await scene.refresh()
    scene.repository.roles['timestamp'].version = 1
    scene.repository.write('timestamp')
    await scene.refused('TRUST_ROLLBACK')
    await scene.seen({ timestamp: 2 })
  },
  test_snapshot_rollback: async (scene) => {
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refresh()
    scene.repository.roles['snapshot'].version = 1
    scene.repository.write('snapshot')
    scene.repository.publish('timestamp')
    await scene.refused('TRUST_ROLLBACK')
    await scene.seen({ timestamp: 2, snapshot: 2 })
  },
  test_targets_role_removal: async (scene) => {
    scene.repository.release('telemetry', '1.0.0')
    await scene.refresh()
    delete scene.repository.roles['snapshot'].meta['service-telemetry.json']
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refused('TRUST_ROLLBACK')
    await scene.seen({ targets: { 'service-telemetry': 1 } })
  },
  test_targets_fast_forward_recovery: async (scene) => {
    scene.repository.release('telemetry', '1.0.0')
    scene.repository.roles['targets'].version = 99
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refresh()
    await scene.seen({ targets: { targets: 100 } })
    scene.repository.rotate('snapshot')
    scene.repository.roles['targets'].version = 0
    delete scene.repository.roles['snapshot'].meta['service-telemetry.json']
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refresh()
    await scene.seen({ targets: { targets: 1 } })
  },
  test_new_snapshot_fast_forward_recovery: async (scene) => {
    scene.repository.roles['snapshot'].version = 99
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refresh()
    await scene.seen({ snapshot: 100 })
    scene.repository.rotate('snapshot')
    scene.repository.rotate('timestamp')
    scene.repository.roles['snapshot'].version = 0
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refresh()
    await scene.seen({ snapshot: 1 })
    scene.restart()
    await scene.seen({ snapshot: 1 })
  },
  test_new_timestamp_fast_forward_recovery: async (scene) => {
    scene.repository.roles['timestamp'].version = 99
    scene.repository.publish('timestamp')
    await scene.refresh()
    await scene.seen({ timestamp: 100 })
    scene.repository.rotate('timestamp')
    scene.repository.roles['timestamp'].version = 0
    scene.repository.publish('timestamp')
    await scene.refresh()
    await scene.seen({ timestamp: 1 })
  },
  test_targets_rollback: async (scene) => {
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refresh()
    scene.repository.roles['targets'].version = 1
    scene.repository.write('targets')
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refused('TRUST_ROLLBACK')
    await scene.seen({ targets: { targets: 2 } })
  },
}

/** keys, threshold, who signs */
type Version = readonly [keys: readonly number[], threshold: number, signers: readonly number[]]
const ROOTS: readonly (readonly [name: string, versions: readonly Version[], accepted: boolean])[] = [
  [
    'one key replaced',
    [
      [[1], 1, [1]],
      [[2], 1, [2, 1]],
      [[2], 1, [2]],
    ],
    true,
  ],
  [
    'unused signatures',
    [
      [[1], 1, [3, 1, 4]],
      [[2], 1, [3, 2, 1, 4]],
      [[2], 1, [3, 2, 4]],
    ],
    true,
  ],
  [
    '3 of 5, signed by others each time',
    [
      [[0, 1, 2, 3, 4], 3, [0, 2, 4]],
      [[0, 1, 2, 3, 4], 3, [0, 4, 1]],
      [[0, 1, 2, 3, 4], 3, [0, 1, 3]],
    ],
    true,
  ],
  [
    '3 of 5, all replaced',
    [
      [[0, 1, 2, 3, 4], 3, [0, 2, 4]],
      [[5, 6, 7, 8, 9], 3, [0, 2, 4, 5, 6, 7]],
      [[5, 6, 7, 8, 9], 3, [5, 6, 7]],
    ],
    true,
  ],
  [
    'threshold raised',
    [
      [[1, 2, 3], 1, [1]],
      [[1, 2, 3], 2, [1, 2]],
    ],
    true,
  ],
  [
    'threshold lowered',
    [
      [[1, 2, 3], 2, [1, 2]],
      [[1, 2, 3], 1, [1, 2]],
      [[1, 2, 3], 1, [1]],
    ],
    true,
  ],
  [
    'not signed with the old key',
    [
      [[1], 1, [1]],
      [[2], 1, [2, 3, 4]],
    ],
    false,
  ],
  [
    'not signed with the new key',
    [
      [[1], 1, [1]],
      [[2], 1, [1, 3, 4]],
    ],
    false,
  ],
  [
    '3 of 5, too few of the new',
    [
      [[0, 1, 2, 3, 4], 3, [0, 2, 4]],
      [[0, 1, 3, 4, 5], 3, [0, 2, 4]],
    ],
    false,
  ],
  [
    '3 of 5, too few of the old',
    [
      [[0, 1, 2, 3, 4], 3, [0, 2, 4]],
      [[0, 1, 3, 4, 5], 3, [0, 4, 5]],
    ],
    false,
  ],
  [
    'threshold raised, not reached',
    [
      [[1, 2, 3], 1, [1]],
      [[1, 2, 3], 2, [2]],
    ],
    false,
  ],
  [
    'threshold lowered, the old one not reached',
    [
      [[1, 2, 3], 2, [1, 2]],
      [[1, 2, 3], 1, [1]],
    ],
    false,
  ],
]
const OTHERS: readonly (readonly [name: string, version: Version, accepted: boolean])[] = [
  ['replaced', [[2], 1, [2]], true],
  ['unused signatures', [[1], 1, [3, 1, 4]], true],
  ['not signed with the new key', [[2], 1, [1, 3, 4]], false],
  ['3 of 5, one signature of a stranger', [[0, 1, 3, 4, 5], 3, [0, 2, 4]], false],
  ['3 of 5, two signatures', [[0, 1, 3, 4, 5], 3, [0, 4]], false],
  ['3 of 5', [[0, 1, 2, 3, 4], 3, [1, 2, 3]], true],
]

export const ROTATIONS: Readonly<Record<string, Case>> = {
  test_root_rotation: async (_, t) => {
    for (const [name, versions, accepted] of ROOTS) {
      const repository = new Repository()
      const keys = Array.from({ length: 10 }, makeKey)
      repository.roles['root'].version = 0
      for (const [members, threshold, signers] of versions) {
        repository.setKeys(
          'root',
          members.map((at) => keys[at] as never),
          threshold,
        )
        repository.roles['root'].version += 1
        repository.write(
          'root',
          signers.map((at) => keys[at] as never),
        )
      }
      const trust = await new TrustingDevice(repository).start()
      if (accepted) await trust.update(repository.push(), [])
      else await t.rejects(trust.update(repository.push(), []), { code: 'TRUST_THRESHOLD' }, name)
      t.equal(trust.heights?.root ?? 1, accepted ? versions.length : versions.length - 1, name)
    }
  },
  test_non_root_rotations: async (_, t) => {
    for (const role of ['timestamp', 'snapshot', 'targets']) {
      for (const [name, [members, threshold, signers], accepted] of OTHERS) {
        const repository = new Repository()
        const keys = Array.from({ length: 10 }, makeKey)
        repository.setKeys(
          role,
          members.map((at) => keys[at] as never),
          threshold,
        )
        repository.signers[role] = signers.map((at) => keys[at] as never)
        repository.publish('root', 'targets', 'snapshot', 'timestamp')
        const updated = (await new TrustingDevice(repository).start()).update(repository.push(), [])
        if (accepted) await t.resolves(updated, `${role} ${name}`)
        else await t.rejects(updated, { code: 'TRUST_THRESHOLD' }, `${role} ${name}`)
      }
    }
  },
}
