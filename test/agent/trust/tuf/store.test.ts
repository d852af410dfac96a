import t from 'tap'
import { COPY_NAMES } from '../../../../agent/trust/tuf/copies.ts'
import { documentsBytesMax, packRecord, pruned, recordBytesMax, unpackRecord } from '../../../../agent/trust/tuf/record.ts'
import { NO_DOCUMENTS, sizeOf } from '../../../../core/trust/documents.ts'
import { Cut, failure } from '../../../fakes/file-system.ts'
import { STORE, TrustingDevice } from './device.ts'
import { Repository } from './repository.ts'

/** A device that has taken one release, and the push of the next. */
async function twoReleases() {
  const repository = new Repository()
  const device = new TrustingDevice(repository)
  const path = repository.release('telemetry', '1.1.0')
  await (await device.start()).update(repository.push(), [path])
  const first = repository.push()
  const next = repository.release('telemetry', '1.2.0')
  return { device, first, next: { path: next, push: repository.push() } }
}

t.test('cut at any operation, by a kill or by the power, a device believes the old or the new, and never goes back', { timeout: 250_000 }, async (t) => {
  const { device, first, next } = await twoReleases()
  const before = device.disk
  for (const after of ['kill', 'power'] as const) {
    for (let at = 1; ; at++) {
      device.disk = before.restarted('kill')
      const trust = await device.start()
      device.disk.cutAt(at)
      const done = await trust.update(next.push, [next.path]).then(
        () => true,
        (error) => t.ok(error instanceof Cut) && false,
      )
      device.disk = device.disk.restarted(after)
      const again = await device.start()
      const found = again.heights?.timestamp
      t.ok(found === 3 || (found === 2 && !done), `${after} at ${at}: timestamp ${found}`)
      t.same(again.problems, [], 'neither copy is damaged')
      if (found === 3) await t.rejects(again.update(first, []), { code: 'TRUST_ROLLBACK' })
      await again.update(next.push, [next.path])
      if (!done) continue
      t.ok(at > 8, `all ${at - 1} operations were cut`)
      break
    }
  }
})

t.test('a copy that rotted, was cut short, emptied or removed is made good from the other one', { timeout: 250_000 }, async (t) => {
  const { device, first, next } = await twoReleases()
  await (await device.start()).update(next.push, [next.path])
  const undamaged = device.disk
  for (const name of COPY_NAMES) {
    for (const harm of ['rot', 'cut', 'empty', 'gone'] as const) {
      device.disk = undamaged.restarted('kill')
      const path = `${STORE}/${name}`
      const bytes = await device.disk.read(path)
      if (harm === 'rot') device.disk.rot(path, 1000)
      else {
        await device.disk.remove(path)
        if (harm !== 'gone') await device.disk.append(path, harm === 'cut' ? (bytes ?? new Uint8Array()).subarray(0, 700) : new Uint8Array())
      }
      const trust = await device.start()
      t.equal(trust.heights?.timestamp, 3, `${name} ${harm}`)
      t.equal(trust.problems.length, harm === 'gone' ? 0 : 1)
      await t.rejects(trust.update(first, []), { code: 'TRUST_ROLLBACK' })
      t.same(await device.disk.read(path), bytes, 'it is whole again')
      t.same((await device.start()).problems, [])
    }
  }
})

t.test('both copies damaged is a store that was lost: the device says so, and asks its witness', async (t) => {
  const { device, next } = await twoReleases()
  for (const name of COPY_NAMES) device.disk.rot(`${STORE}/${name}`)
  const trust = await device.start({ witness: { keys: new Map(), need: 'without-store' } })
  t.equal(trust.problems.length, 2)
  t.equal(trust.heights, null)
  await t.rejects(trust.update(next.push, [next.path]), { code: 'TRUST_UNAVAILABLE' })
})

t.test('a full disk fails the update, and the one after it succeeds', async (t) => {
  const { device, next } = await twoReleases()
  const trust = await device.start()
  device.disk.before = (_, name) => {
    if (name === 'create') throw failure('ENOSPC')
  }
  await t.rejects(trust.update(next.push, [next.path]), { code: 'STORE_FULL' })
  device.disk.before = () => {}
  await trust.update(next.push, [next.path])
})

t.test('a push that is refused says why, also when what was accepted of it cannot be stored', async (t) => {
  const { device, next } = await twoReleases()
  const trust = await device.start()
  device.disk.before = (_, name) => {
    if (name === 'create') throw failure('ENOSPC')
  }
  await t.rejects(trust.update(next.push, ['services/telemetry/9.9.9.offbox']), { code: 'TRUST_UNLISTED' })
  device.disk.before = () => {}
  await trust.update(next.push, [next.path])
  t.equal((await device.start()).heights?.timestamp, 3)
})

t.test('a disk that cannot be read counts as none: the device starts, and asks the witness', async (t) => {
  const { device, next } = await twoReleases()
  device.disk.before = (_, name, path) => {
    if (name === 'read' && path.startsWith(STORE)) throw failure('EIO')
  }
  const trust = await device.start({ witness: { keys: new Map(), need: 'without-store' } })
  t.match(trust.problems, [/copy a .* cannot be read/, /copy b .* cannot be read/])
  t.ok(trust.needsWitness)
  await t.rejects(trust.update(next.push, [next.path]), { code: 'TRUST_UNAVAILABLE' })
  device.disk.before = (_, name, path) => {
    if (name === 'read' && path === `${STORE}/a`) throw failure('EIO')
  }
  t.notOk((await device.start({ witness: { keys: new Map(), need: 'without-store' } })).needsWitness, 'one copy is enough')
})

t.test('nothing is stored that could not be read again', async (t) => {
  const record = (rootBytes: number) => ({ documents: { ...NO_DOCUMENTS, roots: [new Uint8Array(rootBytes)] }, statement: null })
  const around = packRecord(record(3)).length - 4
  const most = Math.floor((recordBytesMax - around) / 4) * 3
  t.equal(unpackRecord(packRecord(record(most))).documents.roots[0]?.length, most)
  t.throws(() => packRecord(record(most + 3)), { code: 'STORE_FULL' })
})

t.test('two updates at once are taken one after the other', async (t) => {
  const { device, first, next } = await twoReleases()
  const trust = await device.start()
  const [one, two] = await Promise.allSettled([trust.update(next.push, [next.path]), trust.update(first, [])])
  t.equal(one.status, 'fulfilled')
  t.match(two, { status: 'rejected', reason: { code: 'TRUST_ROLLBACK' } })
})

t.test('what is kept is bounded: roles unused for longest go, top-level ones never', async (t) => {
  const big = new Uint8Array(documentsBytesMax / 4)
  const targets = new Map([...['targets', 'service-a', 'service-b', 'service-c', 'service-d']].map((role) => [role, big]))
  const kept = pruned({ roots: [], timestamp: null, snapshot: new Uint8Array(10), targets })
  t.same([...kept.targets.keys()], ['targets', 'service-c', 'service-d'])
  t.ok(sizeOf(kept) <= documentsBytesMax)
})
