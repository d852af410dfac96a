import { generateKeyPairSync, sign as nodeSign } from 'node:crypto'
import t from 'tap'
import { Receipts } from '../../../agent/change/receipts.ts'
import { receiptsMax } from '../../../agent/limits.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { makeCa, makeIdentity } from '../../../core/x509.ts'
import { readReceipt } from '../../../core/receipt.ts'
import { checkReceipts, type SignedReceipt } from '../../../fleet/device/receipts.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { failure, FakeFileSystem } from '../../fakes/file-system.ts'
import { boot, bundleOf, confirm, orderOf } from './device.ts'
import { record } from './record.ts'

const dayMs = 86_400_000
const nowMs = new FakeClock().nowMs()
const ca = await makeCa('lab', { nowMs, validMs: 10 * dayMs })
const own = await makeIdentity(ca, { fleet: 'lab', role: 'device', id: 'sw1', nowMs, validMs: dayMs })
const trust = { fleet: 'lab', caPem: ca.certificatePem, deviceId: 'sw1' }
const sign = (bytesFor: (deviceId: string) => Uint8Array) => ({
  signature: nodeSign('sha256', bytesFor('sw1'), { key: own.keyPem, dsaEncoding: 'ieee-p1363' }),
  chainPem: own.certificatePem,
})

async function receiptsOn(disk: FakeFileSystem, signing = sign): Promise<Receipts> {
  const options = {
    files: new AtomicFiles(disk),
    directory: '/state/receipts',
    clock: new FakeClock(),
    bootId: 'boot',
    sign: signing,
    log: { error: () => {} },
  }
  const receipts = new Receipts(options)
  await receipts.load()
  return receipts
}
const all = async (receipts: Receipts) => await receipts.list({ service: '', before: 0, most: 1_000 })
const numbers = (signed: readonly SignedReceipt[]) => signed.map(({ body }) => readReceipt(body).sequence)

t.test('a receipt says what was ordered and how it ended, and anybody with the CA can check it', async (t) => {
  const receipts = await receiptsOn(new FakeFileSystem())
  const facts = { from: '1.0.0', to: '1.1.0', provisionalAtMs: 5, heldMs: 2.5, heldCalls: 3, plan: { manifests: { from: 'aa', to: 'bb' } } }
  const digest = await receipts.give(
    record({ ...facts, state: 'reverted', reason: 'unhealthy', error: 'SWAP_ROLLED_BACK', steps: [{ step: 'flip', atMs: 7.5 }] }),
  )
  t.match(digest, /^[0-9a-f]{64}$/)
  const { receipts: read, gaps } = checkReceipts(await all(receipts), trust)
  t.same(gaps, [])
  t.match(read, [
    {
      ...{ deviceId: 'sw1', sequence: 1, previous: '', changeId: 'c-0000000001', service: 'a', from: '1.0.0', to: '1.1.0', bootId: 'boot' },
      ...{ outcome: 'reverted', reason: 'unhealthy', error: 'SWAP_ROLLED_BACK', heldMs: 2.5, heldCalls: 3, manifests: { from: 'aa', to: 'bb' } },
      steps: [{ step: 'flip', atMs: 7.5 }],
    },
  ])
  t.equal(await receipts.give(record({ kind: 'config' })), '', 'a configuration has none')
})

t.test('a changed byte, another device, another CA, a receipt taken out: each is found', async (t) => {
  const receipts = await receiptsOn(new FakeFileSystem())
  for (let at = 1; at <= 4; at++) await receipts.give(record({ id: `c-000000000${at}` }))
  const signed = await all(receipts)
  t.same(checkReceipts(signed.toReversed(), trust).gaps, [], 'in any order')
  const [first, second, third, fourth] = signed as [SignedReceipt, SignedReceipt, SignedReceipt, SignedReceipt]
  const changed = { ...second, body: Buffer.from(Buffer.from(second.body).toString().replace('"confirmed"', '"reverted"')) }
  t.throws(() => checkReceipts([first, changed], trust), { code: 'CERTIFICATE_INVALID', message: /signature/ })
  t.throws(() => checkReceipts(signed, { ...trust, deviceId: 'sw2' }), { message: /that of spiffe:\/\/lab\/device\/sw1/ })
  const stranger = await makeCa('lab', { nowMs, validMs: dayMs })
  t.throws(() => checkReceipts(signed, { ...trust, caPem: stranger.certificatePem }), { message: /did not issue/ })
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const forged = { ...second, signature: nodeSign('sha256', second.body, { key: privateKey, dsaEncoding: 'ieee-p1363' }) }
  t.throws(() => checkReceipts([forged], trust), { message: /signature/ })
  t.match(checkReceipts([first, second, fourth], trust).gaps, [/between number 2 and 4/])
  // A device that was wound back and signed another number 3 cannot fit both into one chain.
  const twin = await receiptsOn(new FakeFileSystem())
  for (let at = 5; at <= 7; at++) await twin.give(record({ id: `c-000000000${at}` }))
  const other = (await all(twin)).at(-1) as SignedReceipt
  t.throws(() => checkReceipts([first, second, other], trust), { message: /does not follow/ })
  t.throws(() => checkReceipts([third, other], trust), { message: /two receipts bear number 3/ })
  t.throws(() => checkReceipts([{ ...first, chainPem: 'none' }], trust), { message: /cannot be read/ })
})

t.test('a change has one receipt however often it is asked for, and the chain goes on after a restart', async (t) => {
  const disk = new FakeFileSystem()
  const receipts = await receiptsOn(disk)
  const digests = await Promise.all([1, 2, 3].map(async () => await receipts.give(record({ id: 'c-0000000007' }))))
  t.equal(new Set(digests).size, 1)
  const again = await receiptsOn(disk.restarted('power'))
  t.equal(await again.give(record({ id: 'c-0000000007' })), digests[0])
  await again.give(record({ id: 'c-0000000008' }))
  t.same(numbers(await all(again)), [1, 2])
  t.same(checkReceipts(await all(again), trust).gaps, [])
  await t.rejects(again.of('c-0000000009'), { code: 'RECEIPT_NOT_FOUND' })
})

t.test('the oldest go, pages are read backwards, and one that rotted shows as a gap', async (t) => {
  const disk = new FakeFileSystem()
  const receipts = await receiptsOn(disk)
  const id = (at: number) => `c-${String(at).padStart(10, '0')}`
  for (let at = 1; at <= receiptsMax + 5; at++) await receipts.give(record({ id: id(at), service: at % 2 ? 'a' : 'b' }))
  t.same(numbers(await all(receipts)).length, receiptsMax)
  t.same(numbers(await receipts.list({ service: '', before: 100, most: 3 })), [97, 98, 99])
  t.same(numbers(await receipts.list({ service: 'b', before: 100, most: 2 })), [96, 98])
  disk.rot(`/state/receipts/r-${String(receiptsMax + 5).padStart(10, '0')}-${id(receiptsMax + 5)}`)
  const again = await receiptsOn(disk.restarted('kill'))
  await again.give(record({ id: id(900) }))
  t.match(checkReceipts(await again.list({ service: '', before: 0, most: 3 }), trust).gaps, [/between/])
})

t.test('a process killed, or a device without power, at any operation leaves exactly one receipt for each change that ended', async (t) => {
  for (const after of ['kill', 'power'] as const) {
    let ends = false
    for (let at = 1; !ends; at++) {
      const disk = new FakeFileSystem()
      const device = await boot(disk)
      disk.cutAt(at)
      const story = async () => {
        const first = await device.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))
        await confirm(device, first.id)
        const second = await device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
        await device.engine.revert(second.id, 'by hand')
        await device.services.remove('counter', { author: 'me', reason: '' })
      }
      ends = await story().then(
        () => device.engine.all().every(({ settled, receipt }) => settled && receipt !== 'owed') && disk.operations < at + 10_000,
        () => false,
      )
      const again = await boot(disk.restarted(after))
      const signed = await again.receipts.list({ service: '', before: 0, most: 100 })
      const bodies = signed.map(({ body }) => readReceipt(body))
      t.same(
        bodies.map(({ changeId }) => changeId).sort(),
        again.engine
          .all()
          .map(({ id }) => id)
          .sort(),
        `${after} at ${at}: one for each change`,
      )
      t.same(
        bodies.map(({ sequence }) => sequence),
        bodies.map((_, index) => index + 1),
        `${after} at ${at}: in one chain`,
      )
      for (const { changeId, outcome } of bodies) {
        const state = again.engine.get(changeId)?.state
        t.ok(outcome === 'confirmed' ? state === 'confirmed' : state === 'reverted', `${after} at ${at}: ${changeId} is ${state} and ${outcome}`)
      }
    }
  }
})

t.test('a receipt that cannot be written is owed, does not keep the slot, and comes later, also after a restart', async (t) => {
  const disk = new FakeFileSystem()
  const device = await boot(disk)
  disk.before = (_, name, path) => {
    if (name === 'create' && path.includes('/receipts/')) throw failure('ENOSPC')
  }
  const { id } = await device.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))
  await confirm(device, id)
  t.match(device.engine.get(id), { settled: true, receipt: 'owed' })
  await device.services.remove('counter', { author: 'me', reason: 'the next change finds the slot free' })
  const copy = disk.restarted('power')
  disk.before = () => {}
  await device.clock.advance(61_000)
  t.match(device.engine.get(id)?.receipt, /^[0-9a-f]{64}$/)
  const again = await boot(copy)
  t.match(again.engine.get(id)?.receipt, /^[0-9a-f]{64}$/)
  t.equal((await again.receipts.list({ service: '', before: 0, most: 9 }))?.length, 2)
})

t.test('a device that has no identity yet owes its receipts until it has', async (t) => {
  const disk = new FakeFileSystem()
  const device = await boot(disk, { enrolled: false })
  const { id } = await device.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))
  await confirm(device, id)
  t.equal(device.engine.get(id)?.receipt, 'owed')
  const again = await boot(disk.restarted('kill'))
  t.match(again.engine.get(id)?.receipt, /^[0-9a-f]{64}$/)
})
