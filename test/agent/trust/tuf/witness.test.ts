import t, { type Test } from 'tap'
import { AtomicFiles } from '../../../../agent/store/atomic.ts'
import { COPY_NAMES } from '../../../../agent/trust/tuf/copies.ts'
import { EMPTY_RECORD, packRecord } from '../../../../agent/trust/tuf/record.ts'
import { type TufTrust, challengeLifetimeMs } from '../../../../agent/trust/tuf/tuf-trust.ts'
import { NO_DOCUMENTS } from '../../../../core/trust/documents.ts'
import type { SignedStatement } from '../../../../core/trust/statement.ts'
import { Witness } from '../../../../fleet/witness/witness.ts'
import { keyIdOf } from '../../../../core/signing.ts'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { FakeClock } from '../../../fakes/clock.ts'
import { FakeFileSystem } from '../../../fakes/file-system.ts'
import { FLEET, TrustingDevice } from './device.ts'
import { DAY_MS, makeKey, Repository } from './repository.ts'

const witnessKey = () => {
  const { publicKey, sign } = makeKey()
  return { keyId: keyIdOf(publicKey), publicKey, sign }
}

/** A repository with two releases, a witness that has seen both, and a device that has not started yet. */
async function setUp(t: Test) {
  const repository = new Repository()
  const oldPath = repository.release('telemetry', '1.1.0')
  const old = repository.push()
  const path = repository.release('telemetry', '1.2.0')
  const key = witnessKey()
  const directory = t.testdir({})
  await writeFile(join(directory, 'root.json'), repository.anchor)
  const clock = new FakeClock()
  // The witness's clock says what time it is at the repository.
  await clock.advance(repository.nowMs - clock.nowMs())
  const options = { directory, fleet: FLEET, key, clock }
  const witness = await Witness.open(options)
  const keys = new Map([[key.keyId, key.publicKey]])
  const device = new TrustingDevice(repository, { witness: { keys, need: 'without-store' } })
  return { repository, old: { push: old, path: oldPath }, next: { push: repository.push(), path }, witness, options, clock, device }
}

t.test('a device without a store runs nothing before the witness has spoken, and then nothing older than it has seen', async (t) => {
  const { old, next, witness, device } = await setUp(t)
  await witness.attest(new Uint8Array(32), next.push)
  const trust = await device.start()
  await t.rejects(trust.update(old.push, [old.path]), { code: 'TRUST_UNAVAILABLE' })
  await trust.acceptStatement(await witness.attest(trust.challenge()))
  await t.rejects(trust.update(old.push, [old.path]), { code: 'TRUST_ROLLBACK' }, 'a controller from an old backup')
  await trust.update(next.push, [next.path])
  device.disk = new FakeFileSystem()
  const again = await device.start()
  await t.rejects(again.update(old.push, [old.path]), { code: 'TRUST_UNAVAILABLE' }, 'nor does a reboot of a diskless device help')
})

t.test('a device with its store goes on without the witness, unless it was told not to', async (t) => {
  const { next, witness, device } = await setUp(t)
  const trust = await device.start()
  await trust.acceptStatement(await witness.attest(trust.challenge()))
  await trust.update(next.push, [next.path])
  await (await device.start()).update(next.push, [next.path])
  const strict = await device.start({ witness: { keys: new Map(), need: 'always' } })
  await t.rejects(strict.update(next.push, [next.path]), { code: 'TRUST_UNAVAILABLE' })
})

t.test('a store that is whole and says nothing of how far the repository had come is as good as none', async (t) => {
  const { old, next, device } = await setUp(t)
  const stranger = new Repository()
  const strange = { ...EMPTY_RECORD, documents: { ...NO_DOCUMENTS, timestamp: stranger.file('timestamp.json') } }
  for (const record of [EMPTY_RECORD, strange]) {
    device.disk = new FakeFileSystem()
    for (const name of COPY_NAMES) await new AtomicFiles(device.disk).write(`/state/trust/tuf/${name}`, packRecord(record))
    const trust = await device.start()
    t.equal(trust.needsWitness, true)
    await t.rejects(trust.update(old.push, [old.path]), { code: 'TRUST_UNAVAILABLE' })
    await t.rejects(trust.update(next.push, [next.path]), { code: 'TRUST_UNAVAILABLE' })
  }
})

t.test('an answer counts once, in time, for its own question, from the right witness and for the right fleet', async (t) => {
  const { witness, options, device } = await setUp(t)
  const trust = await device.start()
  const refused = async (statement: SignedStatement, why: string) => await t.rejects(trust.acceptStatement(statement), { code: 'WITNESS_UNTRUSTED' }, why)
  await refused(await witness.attest(new Uint8Array(32)), 'nobody asked')
  const recorded = await witness.attest(trust.challenge())
  trust.challenge()
  await refused(recorded, 'an answer to the question before')
  const late = await witness.attest(trust.challenge())
  await device.clock.advance(challengeLifetimeMs + 1)
  await refused(late, 'too late')
  const nonce = trust.challenge()
  const other = await Witness.open({ ...options, key: witnessKey() })
  await refused(await other.attest(nonce), 'another key')
  await refused({ ...(await other.attest(nonce)), keyId: options.key.keyId }, "another key under the witness's name")
  await refused(await (await Witness.open({ ...options, fleet: 'other' })).attest(nonce), 'another fleet')
  const right = await witness.attest(nonce)
  const flipped = new Uint8Array(right.statement)
  flipped[20] = (flipped[20] ?? 0) ^ 1
  await refused({ ...right, statement: flipped }, 'a changed byte')
  await refused({ ...right, statement: new Uint8Array(64 * 1024) }, 'too long')
  await trust.acceptStatement(right)
  await refused(right, 'a replay')
})

t.test('a witness that was set back is found out by a device that remembers it', async (t) => {
  const { next, witness, options, device } = await setUp(t)
  await witness.attest(new Uint8Array(32), next.push)
  const trust = await device.start()
  await trust.acceptStatement(await witness.attest(trust.challenge()))
  await writeFile(join(options.directory, 'seen.json'), '')
  await t.rejects(Witness.open(options), { code: 'STORE_CORRUPT' }, 'it does not start anew by itself')
  await (await import('node:fs/promises')).rm(join(options.directory, 'seen.json'))
  const again = await device.start()
  const statement = await (await Witness.open(options)).attest(again.challenge())
  await t.rejects(again.acceptStatement(statement), { code: 'TRUST_ROLLBACK' }, 'and the device knows after a restart, too')
})

t.test('a witness believes only metadata that it verified, and remembers it over a restart', async (t) => {
  const { repository, old, next, witness, options } = await setUp(t)
  const stranger = new Repository()
  await t.rejects(witness.attest(new Uint8Array(32), stranger.push()), { code: 'TRUST_THRESHOLD' })
  await t.rejects(witness.attest(new Uint8Array(31)), { code: 'ARGUMENT_INVALID' })
  t.equal(witness.heights, null)
  await witness.attest(new Uint8Array(32), next.push)
  const again = await Witness.open(options)
  t.match(again.heights, { root: 1, timestamp: 3, snapshot: 3, targets: { 'service-telemetry': 2 } })
  await t.rejects(again.attest(new Uint8Array(32), old.push), { code: 'TRUST_ROLLBACK' })
  repository.rotate('timestamp')
  repository.roles['timestamp'].version = 0
  repository.publish('timestamp')
  await again.attest(new Uint8Array(32), repository.push())
  t.match(again.heights, { root: 2, timestamp: 1 }, 'after a rotation of its keys a role counts anew')
})

t.test('the witness tells the time: what expired while a device was off is refused', async (t) => {
  const { repository, next, witness, clock, device } = await setUp(t)
  await clock.advance(8 * DAY_MS)
  const trust = await device.start()
  await trust.acceptStatement(await witness.attest(trust.challenge()))
  await t.rejects(trust.update(next.push, [next.path]), { code: 'TRUST_EXPIRED' })
  repository.nowMs += 8 * DAY_MS
  repository.publish('timestamp')
  await trust.update(repository.push(), [next.path])
  const restarted: TufTrust = await device.start()
  t.ok(restarted.time.nowMs() >= repository.nowMs, 'and a restart does not set it back')
})
