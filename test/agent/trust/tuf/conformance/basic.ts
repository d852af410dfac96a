/** The cases of test_basic.py and test_expiration.py. */
import { COPY_NAMES } from '../../../../../agent/trust/tuf/copies.ts'
import { unpackRecord } from '../../../../../agent/trust/tuf/record.ts'
import { AtomicFiles } from '../../../../../agent/store/atomic.ts'
import { tufKeyId } from '../../../../../core/tuf/keys.ts'
import { STORE, TrustingDevice } from '../device.ts'
import { DAY_MS, type Loose, makeKey, Repository, seal, tampered, timeText } from '../repository.ts'
import type { Case, Scene } from './scene.ts'

const stored = async (scene: Scene) => {
  const bytes = await new AtomicFiles(scene.device.disk).read(`${STORE}/${COPY_NAMES[0]}`)
  return unpackRecord(bytes ?? new Uint8Array()).documents
}
const later = (scene: Scene, days: number) => timeText(scene.repository.nowMs + days * DAY_MS)

export const BASIC: Readonly<Record<string, Case>> = {
  test_basic_refresh_requests: async (scene, t) => {
    t.same((await scene.asked([])).names, ['root 2', 'timestamp', 'snapshot 1', 'targets 1'])
  },
  test_basic_refresh_trusted_data: async (scene, t) => {
    await scene.refresh()
    const { timestamp, snapshot, targets } = await stored(scene)
    t.same(
      [timestamp, snapshot, targets.get('targets')],
      ['timestamp.json', '1.snapshot.json', '1.targets.json'].map((name) => scene.repository.file(name)),
    )
  },
  test_implicit_refresh: async (scene) => {
    await scene.refused('TRUST_UNLISTED', ['services/none/1.0.0.offbox'])
    await scene.seen({ root: 1, timestamp: 1, snapshot: 1, targets: { targets: 1 } })
  },
  test_invalid_initial_root: async (scene, t) => {
    const anchor = tampered(scene.repository.anchor, (file) => delete file.signed.version)
    await t.rejects(scene.device.start({ anchor }), { code: 'TRUST_MALFORMED' })
  },
  test_unsigned_initial_root: async (scene, t) => {
    const anchor = tampered(scene.repository.anchor, (file) => {
      for (const one of file.signatures as Loose[]) one.sig = '0'.repeat(128)
    })
    await t.rejects(scene.device.start({ anchor }), { code: 'TRUST_THRESHOLD' })
  },
  test_unsigned_metadata: async (_, t) => {
    const cases = {
      root: { root: 1, timestamp: 0 },
      timestamp: { root: 2, timestamp: 0 },
      snapshot: { root: 2, timestamp: 2 },
      targets: { root: 2, timestamp: 2, snapshot: 2 },
    }
    for (const [role, seen] of Object.entries(cases)) {
      const repository = new Repository()
      repository.signers[role] = (repository.signers[role] ?? []).slice(0, role === 'root' ? 1 : 0)
      repository.publish('root', 'targets', 'snapshot', 'timestamp')
      const trust = await new TrustingDevice(repository).start()
      await t.rejects(trust.update(repository.push(), []), { code: 'TRUST_THRESHOLD' }, role)
      t.match(trust.heights ?? { root: 1, timestamp: 0 }, seen)
    }
  },
  test_url_and_metadata_version_mismatch: async (_, t) => {
    for (const role of ['root', 'snapshot', 'targets']) {
      const repository = new Repository()
      repository.publish('root', 'targets', 'snapshot', 'timestamp')
      const wrong = seal({ ...repository.roles[role], version: 3 }, repository.signers[role] ?? [])
      repository.put(role, wrong)
      if (role === 'targets') repository.write('snapshot')
      if (role !== 'root') repository.write('timestamp')
      await t.rejects((await new TrustingDevice(repository).start()).update(repository.push(), []), { code: 'TRUST_MISMATCH' }, role)
    }
  },
  test_timestamp_content_changes: async (scene, t) => {
    await scene.refresh()
    const first = scene.repository.file('timestamp.json')
    scene.repository.roles['timestamp'].meta['snapshot.json'].version = 100
    scene.repository.write('timestamp')
    await scene.refresh()
    t.same((await stored(scene)).timestamp, first)
  },
  test_basic_metadata_hash_support: async (scene) => {
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refresh()
  },
  test_targets_hash_mismatch: async (scene) => {
    await scene.refresh()
    scene.repository.publish('targets')
    scene.repository.roles['snapshot'].meta['targets.json'].hashes.sha256 = '0'.repeat(64)
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refused('TRUST_MISMATCH')
    await scene.seen({ snapshot: 2, timestamp: 2 })
  },
  test_snapshot_hash_mismatch: async (scene, t) => {
    await scene.refresh()
    scene.repository.publish('snapshot')
    scene.repository.roles['timestamp'].meta['snapshot.json'].hashes.sha256 = '0'.repeat(64)
    scene.repository.publish('timestamp')
    await scene.refused('TRUST_MISMATCH')
    t.same((await stored(scene)).snapshot, scene.repository.file('1.snapshot.json'))
    await scene.seen({ timestamp: 2 })
  },
  test_metadata_bytes_match: async (scene, t) => {
    const odd = Buffer.concat([scene.repository.file('timestamp.json'), Buffer.from(' \n')])
    await scene.refresh([], scene.repository.push({ 'timestamp.json': new Uint8Array(odd) }))
    t.same((await stored(scene)).timestamp, new Uint8Array(odd))
  },
  test_custom_fields: async (scene) => {
    await scene.refresh()
    Object.assign(scene.repository.roles['root'], { 'custom-field': 'value' })
    scene.repository.roles['root'].roles.root['another-field'] = 'value'
    scene.repository.publish('root')
    await scene.refresh()
    await scene.seen({ root: 2 })
  },
  // A key of ours carries no fields but its own: its name would no longer be the one that everybody computes.
  test_deprecated_keyid_hash_algorithms: async (scene) => {
    const key = makeKey()
    const odd = { ...key.key, keyid_hash_algorithms: 'md5' }
    scene.repository.setKeys('snapshot', [{ ...key, key: odd, keyid: tufKeyId(odd as never) }], 1)
    scene.repository.publish('root', 'snapshot', 'timestamp')
    await scene.refused('TRUST_MALFORMED')
  },
  test_snapshot_404: async (scene) => {
    await scene.refresh()
    scene.repository.roles['timestamp'].meta['snapshot.json'].version = 2
    scene.repository.publish('timestamp')
    await scene.refused('TRUST_UNAVAILABLE')
    await scene.seen({ timestamp: 2, targets: { targets: 1 } })
  },
  test_targets_404: async (scene) => {
    await scene.refresh()
    scene.repository.roles['snapshot'].meta['targets.json'].version = 2
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refused('TRUST_UNAVAILABLE')
    await scene.seen({ timestamp: 2, snapshot: 2 })
  },
  test_timestamp_404: async (scene) => {
    await scene.refresh()
    await scene.refused('TRUST_UNAVAILABLE', ['services/a/1.0.0.offbox'], scene.repository.push({ 'timestamp.json': null }))
  },
  test_incorrect_metadata_type: async (scene) => {
    const [key] = scene.repository.signers['timestamp'] ?? []
    scene.repository.setKeys('snapshot', key ? [key] : [], 1)
    scene.repository.publish('root')
    const { repository } = scene
    const snapshot = { ...repository.roles['snapshot'], version: 2, meta: repository.roles['timestamp'].meta }
    await scene.refused('TRUST_MALFORMED', [], repository.push({ 'timestamp.json': seal(snapshot, key ? [key] : []) }))
    await scene.seen({ root: 2, timestamp: 0 })
  },
  // The device's time is its trusted time: moved by the monotonic clock, never by the wall.
  test_faketime: async (scene) => {
    scene.repository.roles['root'].expires = later(scene, 7)
    scene.repository.publish('root')
    await scene.refresh()
    await scene.device.clock.advance(8 * DAY_MS)
    await scene.refused('TRUST_EXPIRED')
  },
}

export const EXPIRATION: Readonly<Record<string, Case>> = {
  test_root_expired: async (scene) => {
    await scene.refresh()
    scene.repository.roles['root'].expires = later(scene, -5)
    scene.repository.publish('root')
    await scene.refused('TRUST_EXPIRED')
    await scene.seen({ root: 2 })
  },
  test_timestamp_expired: async (scene, t) => {
    await scene.refresh()
    const before = (await stored(scene)).timestamp
    scene.repository.roles['timestamp'].version = 2
    const old = seal(
      { ...scene.repository.roles['timestamp'], issued: later(scene, -20), expires: later(scene, -5) },
      scene.repository.signers['timestamp'] ?? [],
    )
    await scene.refused('TRUST_EXPIRED', [], scene.repository.push({ 'timestamp.json': old }))
    t.same((await stored(scene)).timestamp, before)
  },
  test_snapshot_expired: async (scene, t) => {
    await scene.refresh()
    scene.repository.roles['snapshot'].expires = later(scene, -5)
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refused('TRUST_EXPIRED')
    t.same((await stored(scene)).snapshot, scene.repository.file('1.snapshot.json'))
    await scene.seen({ timestamp: 2 })
  },
  test_targets_expired: async (scene, t) => {
    await scene.refresh()
    scene.repository.roles['targets'].expires = later(scene, -5)
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refused('TRUST_EXPIRED')
    t.same((await stored(scene)).targets.get('targets'), scene.repository.file('1.targets.json'))
    await scene.seen({ timestamp: 2, snapshot: 2 })
  },
  test_expired_local_root: async (scene) => {
    scene.repository.roles['root'].expires = later(scene, 7)
    scene.repository.publish('root')
    await scene.refresh()
    await scene.device.clock.advance(18 * DAY_MS)
    scene.repository.nowMs += 18 * DAY_MS
    scene.repository.roles['root'].expires = later(scene, 21)
    scene.repository.publish('root', 'timestamp')
    await scene.refresh()
    await scene.seen({ root: 3 })
  },
  test_expired_local_timestamp: async (scene) => {
    await scene.refresh()
    await scene.device.clock.advance(18 * DAY_MS)
    scene.repository.nowMs += 18 * DAY_MS
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refresh()
    await scene.seen({ root: 1, timestamp: 2, snapshot: 2, targets: { targets: 2 } })
  },
}
