import t from 'tap'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { admit, type Admission } from '../../../agent/trust/admit.ts'
import { FloorStore } from '../../../agent/trust/floors.ts'
import { BundleStore } from '../../../agent/trust/store.ts'
import { verifyBundle } from '../../../agent/trust/verify.ts'
import { joinBundle, splitBundle } from '../../../core/bundle-format.ts'
import { Cut, FakeFileSystem } from '../../fakes/file-system.ts'
import { flipBit, makeBundle, makeFloors, makeKey, signManifest, trust } from '../../fixtures/bundles.ts'

const key = makeKey()
const keys = trust(key)

t.test('a signed bundle is verified, parsed, and its code copied out', async (t) => {
  const file = makeBundle(key, { name: 'counter', version: '1.0.0' }, 'code')
  const bundle = verifyBundle(file, keys)
  t.match(bundle, { manifest: { name: 'counter', version: '1.0.0' }, manifestSha256: /^[0-9a-f]{64}$/ })
  t.equal(Buffer.from(bundle.payload).toString(), 'code')
  t.not(bundle.payload.buffer, file.buffer)
})

t.test('any flipped bit is found, before anything is parsed', async (t) => {
  const file = makeBundle(key, { name: 'counter', version: '1.0.0' }, 'some code that is long enough')
  const { manifest } = splitBundle(file)
  const cases: [string, number, string][] = [
    ['magic', 3, 'BUNDLE_MALFORMED'],
    ['length of the manifest', 8, 'BUNDLE_MALFORMED'],
    ['manifest, first byte', 12, 'BUNDLE_UNTRUSTED'],
    ['manifest, last byte', 12 + manifest.length - 1, 'BUNDLE_UNTRUSTED'],
    ['keyId', 12 + manifest.length + 4, 'BUNDLE_UNTRUSTED'],
    ['signature', 12 + manifest.length + 4 + 32 + 63, 'BUNDLE_UNTRUSTED'],
    ['payload', -1, 'BUNDLE_CORRUPT'],
  ]
  for (const [what, at, code] of cases) t.throws(() => verifyBundle(flipBit(file, at), keys), { code }, what)
})

t.test('what is signed and yet no manifest is malformed; what nobody trusted signed is untrusted, whatever it says', async (t) => {
  const payload = new Uint8Array(Buffer.from('x'))
  t.throws(() => verifyBundle(signManifest(key, 'not json', payload), keys), { code: 'BUNDLE_MALFORMED' })
  t.throws(() => verifyBundle(signManifest(key, '{"schema":2}', payload), keys), { code: 'BUNDLE_MALFORMED' })
  t.throws(() => verifyBundle(signManifest(makeKey(), 'not json', payload), keys), { code: 'BUNDLE_UNTRUSTED' })
  const { manifest, payload: code } = splitBundle(makeBundle(key, { name: 'counter', version: '1.0.0' }))
  t.throws(() => verifyBundle(joinBundle({ manifest, signatures: [], payload: code }), keys), { code: 'BUNDLE_UNTRUSTED' }, 'no signature at all')
})

t.test('admission: as ordered, not below the floor, not older unless asked, only what is lent, no method of another', async (t) => {
  const { manifest } = verifyBundle(
    makeBundle(key, { name: 'counter', version: '1.1.0', capabilities: ['proc'], methods: [{ path: '/test.Counter/Next', kind: 'unary' }] }),
    keys,
  )
  const fine: Admission = {
    ordered: { service: 'counter', version: '1.1.0', allowDowngrade: false },
    floor: '1.0.0',
    running: '1.0.0',
    granted: new Set(['proc'] as const),
    servedBy: () => undefined,
  }
  admit(manifest, fine)
  const refused = (over: Partial<Admission>, code: string) => t.throws(() => admit(manifest, { ...fine, ...over }), { code })
  refused({ ordered: { ...fine.ordered, version: '1.1.1' } }, 'ARGUMENT_INVALID')
  refused({ ordered: { ...fine.ordered, service: 'other' } }, 'ARGUMENT_INVALID')
  refused({ floor: '1.1.1' }, 'BUNDLE_ROLLBACK')
  refused({ floor: '1.1.1', ordered: { ...fine.ordered, allowDowngrade: true } }, 'BUNDLE_ROLLBACK')
  refused({ running: '1.2.0' }, 'BUNDLE_DOWNGRADE')
  admit(manifest, { ...fine, running: '1.2.0', ordered: { ...fine.ordered, allowDowngrade: true } })
  refused({ running: '1.1.0', floor: '1.1.1-rc.1' }, 'BUNDLE_ROLLBACK')
  refused({ granted: new Set() }, 'CAPABILITY_DENIED')
  refused({ servedBy: () => 'telemetry' }, 'METHOD_CONFLICT')
  admit(manifest, { ...fine, servedBy: () => 'counter' })
})

t.test('floors: only a signature raises them, nothing lowers them, and they outlive a restart', async (t) => {
  const disk = new FakeFileSystem()
  const make = () => new FloorStore(new AtomicFiles(disk), '/state', keys)
  const floors = make()
  await floors.raise(new Uint8Array())
  t.equal(floors.of('counter'), undefined)
  const two = makeFloors(key, 2, { counter: '1.0.0' })
  await floors.raise(two)
  await floors.raise(two)
  t.equal(floors.of('counter'), '1.0.0')
  t.equal(floors.of('toString'), undefined)
  await t.rejects(floors.raise(makeFloors(key, 1, {})), { code: 'FLOORS_UNTRUSTED' }, 'older')
  await t.rejects(floors.raise(makeFloors(key, 2, { counter: '0.1.0' })), { code: 'FLOORS_UNTRUSTED' }, 'another of the same version')
  await t.rejects(floors.raise(makeFloors(makeKey(), 3, {})), { code: 'FLOORS_UNTRUSTED' }, 'an unknown key')
  await t.rejects(floors.raise(flipBit(makeFloors(key, 3, {}), -3)), { code: 'FLOORS_UNTRUSTED' })
  const again = make()
  await again.load()
  t.equal(again.of('counter'), '1.0.0')
  await t.rejects(again.raise(makeFloors(key, 1, {})), { code: 'FLOORS_UNTRUSTED' })
  disk.rot('/state/trust/floors.bin')
  await t.rejects(make().load(), { code: 'STORE_CORRUPT' })
})

t.test('a stored bundle is verified again at every load', async (t) => {
  const disk = new FakeFileSystem()
  const files = new AtomicFiles(disk)
  const store = new BundleStore(files, '/state', () => keys)
  const file = makeBundle(key, { name: 'counter', version: '1.0.0' })
  await store.stage('counter', file, { version: '1.0.0', config: {}, changeId: 'c-1' })
  t.match(await store.load('counter', '1.0.0'), { manifest: { version: '1.0.0' } })
  await t.rejects(new BundleStore(files, '/state', () => trust(makeKey())).load('counter', '1.0.0'), { code: 'BUNDLE_UNTRUSTED' }, 'the keys changed')
  await t.rejects(store.load('counter', '2.0.0'), { code: 'BUNDLE_NOT_FOUND' })
  disk.rot('/state/bundles/counter/1.0.0.offbox')
  await t.rejects(store.load('counter', '1.0.0'), { code: 'STORE_CORRUPT' })
  await t.rejects(store.load('../../etc', '1.0.0'), { code: 'ARGUMENT_INVALID' })
})

t.test('a fall-back that is cut anywhere and made again leaves no last good version, least of all the one that is active', async (t) => {
  const disk = new FakeFileSystem()
  const on = (disk: FakeFileSystem) => new BundleStore(new AtomicFiles(disk), '/state', () => keys)
  for (const [version, changeId] of [
    ['1.0.0', 'one'],
    ['1.1.0', 'two'],
  ] as const) {
    await on(disk).stage('counter', makeBundle(key, { name: 'counter', version }), { version, config: {}, changeId })
    await on(disk).commit('counter', changeId)
  }
  t.match(await on(disk).lastGood('counter'), { version: '1.0.0' })
  await on(disk).stage('counter', null, { version: '1.0.0', config: {}, changeId: 'back' })
  for (const after of ['kill', 'power'] as const) {
    for (let at = 1; ; at++) {
      const cut = disk.restarted('kill')
      cut.cutAt(at)
      const done = await on(cut)
        .commit('counter', 'back', { fallenBack: true })
        .then(
          () => true,
          (error) => t.ok(error instanceof Cut) && false,
        )
      const found = cut.restarted(after)
      await new AtomicFiles(found).sweep('/state')
      const again = on(found)
      await again.commit('counter', 'back', { fallenBack: true })
      t.match(await again.active('counter'), { version: '1.0.0', changeId: 'back' }, `${after} at ${at}`)
      t.equal(await again.lastGood('counter'), null, `${after} at ${at}`)
      t.equal(await again.candidate('counter', 'back'), null, `${after} at ${at}`)
      if (!done) continue
      t.ok(at > 5, `all ${at - 1} operations were cut`)
      break
    }
  }
})
