import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { IdentityStore, type Identity } from '../../../agent/boot/identity.ts'
import { Engine } from '../../../agent/change/engine.ts'
import { Journal } from '../../../agent/change/journal.ts'
import { KeystoreDriver } from '../../../agent/drivers/keystore.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import type { KeystoreCapability } from '../../../core/capabilities.ts'
import { systemClock } from '../../../core/clock.ts'
import { makeCa, makeCsr, readLeaf, signCsr, spiffeId } from '../../../core/x509.ts'

const DAY_MS = 86_400_000
const names = { fleet: 'lab', role: 'device', id: 'sw1', validMs: DAY_MS } as const
const ca = await makeCa('lab', { nowMs: Date.now(), validMs: 10 * DAY_MS })
const anchors = { fleet: 'lab', caPem: ca.certificatePem, bundleKeys: new Map() }
const sign = async (csrPem: string, other: object = {}) => await signCsr(ca, csrPem, { ...names, nowMs: Date.now(), ...other })
const install = { confirmTimeoutMs: 60_000, reason: 'test', author: 'spiffe://lab/operator/test' }

/** A keystore on a state directory of its own; `restart` is a new agent on the same directory. */
async function device(t: Test) {
  const stateDir = mkdtempSync(join(tmpdir(), 'obx-keys-'))
  t.teardown(() => rmSync(stateDir, { recursive: true, force: true }))
  const served: { keyPem: string; chainPem: string }[] = []
  const log = { debug() {}, info() {}, warn() {}, error() {} }
  const files = new AtomicFiles()
  const identities = new IdentityStore(files, stateDir)
  const start = async () => {
    const engine = new Engine({ journal: new Journal(files, join(stateDir, 'changes'), () => {}), clock: systemClock, log })
    const front = { rotate: (identity: { keyPem: string; chainPem: string }) => void served.push(identity) }
    const driver = new KeystoreDriver({ stateDir, files, identities, anchors, changes: engine, clock: systemClock, log, front })
    await driver.start()
    await engine.recover()
    const operations = driver.operations
    const keys = Object.fromEntries(Object.keys(operations).map((name) => [name, async (input?: unknown) => await operations[name]?.('secrets', input)]))
    return { engine, driver, keys: keys as unknown as KeystoreCapability }
  }
  const { keyPem, csrPem } = await makeCsr('sw1')
  const first: Identity = { deviceId: 'sw1', keyPem, chainPem: await sign(csrPem) }
  await identities.save(first)
  const self = { stateDir, served, identities, first, serial: readLeaf(first.chainPem).serial, ...(await start()), restart: async () => {} }
  self.restart = async () => {
    self.engine.close()
    Object.assign(self, await start())
  }
  t.teardown(() => self.engine.close())
  return self
}

const confirm = async (engine: Engine, id: string) => await engine.confirm(id, { principal: 'test', connectionOpenedAtMs: systemClock.monotonicMs() + 1 })

t.test('a rotation serves the new certificate, and keeps it once confirmed', async (t) => {
  const device1 = await device(t)
  const { keys, engine, served, identities } = device1
  t.match(await keys.status(), { serial: device1.serial, spiffeId: spiffeId('lab', 'device', 'sw1'), provisional: false, rotations: 0 })
  const { requestId, csrPem } = await keys.request()
  const chainPem = await sign(csrPem)
  const { changeId, serial } = await keys.install({ requestId, chainPem, ...install })
  t.equal(served.at(-1)?.chainPem, chainPem)
  t.match(await keys.status(), { serial, provisional: true, changeId, rotations: 0 })
  t.equal((await identities.load())?.chainPem, device1.first.chainPem, 'the stored identity is still the old one')
  await confirm(engine, changeId)
  t.match(await keys.status(), { serial, provisional: false, changeId: '', rotations: 1 })
  t.equal((await identities.load())?.chainPem, chainPem)
  await device1.restart()
  t.match(await device1.keys.status(), { serial, rotations: 1 })
})

t.test('a revert, by command or by silence, serves the old identity again', async (t) => {
  const { keys, engine, served, serial, first } = await device(t)
  for (const [confirmTimeoutMs, revert] of [
    [60_000, true],
    [5_000, false],
  ] as const) {
    const { requestId, csrPem } = await keys.request()
    const { changeId } = await keys.install({ requestId, chainPem: await sign(csrPem), ...install, confirmTimeoutMs })
    if (revert) await engine.revert(changeId, 'test')
    await t.resolves(
      new Promise<void>((resolve) => {
        if (engine.get(changeId)?.settled) resolve()
        else engine.watch(({ settled }) => settled && resolve())
      }),
    )
    t.equal(engine.get(changeId)?.state, 'reverted')
    t.match(await keys.status(), { serial, provisional: false, rotations: 0 })
    t.equal(served.at(-1)?.chainPem, first.chainPem)
  }
})

t.test('an agent killed with an unconfirmed certificate comes back with the old one and leaves no key behind', async (t) => {
  const sw = await device(t)
  const { requestId, csrPem } = await sw.keys.request()
  const { changeId } = await sw.keys.install({ requestId, chainPem: await sign(csrPem), ...install })
  await sw.restart()
  t.match(sw.engine.get(changeId), { state: 'reverted', settled: true })
  t.match(await sw.keys.status(), { serial: sw.serial, provisional: false })
  t.equal(sw.served.at(-1)?.chainPem, sw.first.chainPem)
  t.same(readdirSync(join(sw.stateDir, 'identity')), ['identity.json'])
})

t.test('no secret is in the journal, and key files are 0600', async (t) => {
  const { keys, stateDir } = await device(t)
  const { requestId, csrPem } = await keys.request()
  await keys.install({ requestId, chainPem: await sign(csrPem), ...install })
  for (const name of readdirSync(join(stateDir, 'changes'))) t.notMatch(readFileSync(join(stateDir, 'changes', name), 'latin1'), /PRIVATE KEY/)
  const staged = readdirSync(join(stateDir, 'identity')).filter((name) => name.startsWith('staged-'))
  t.equal(staged.length, 1)
  for (const name of [...staged, 'identity.json']) t.equal(statSync(join(stateDir, 'identity', name)).mode & 0o777, 0o600)
})

t.test('certificates that are not for this key, this device or this fleet are refused, and nothing changes', async (t) => {
  const { keys, served, serial, engine } = await device(t)
  const { requestId, csrPem } = await keys.request()
  const stranger = await makeCa('lab', { nowMs: Date.now(), validMs: DAY_MS })
  const bad = {
    'another key': await sign((await makeCsr('sw1')).csrPem),
    'another device': await sign(csrPem, { id: 'sw2' }),
    'another role': await sign(csrPem, { role: 'controller' }),
    'another CA': await signCsr(stranger, csrPem, { ...names, nowMs: Date.now() }),
    expired: await sign(csrPem, { nowMs: Date.now() - 3 * DAY_MS }),
    'no certificate': 'nonsense',
  }
  for (const [what, chainPem] of Object.entries(bad)) {
    await t.rejects(keys.install({ requestId, chainPem, ...install }), { code: 'CERTIFICATE_INVALID' }, what)
  }
  t.same(served, [])
  t.match(await keys.status(), { serial, provisional: false })
  t.equal(engine.current('secrets'), undefined)
  await t.resolves(keys.install({ requestId, chainPem: await sign(csrPem), ...install }), 'the same request can still be answered rightly')
})

t.test('one request and one change at a time', async (t) => {
  const { keys } = await device(t)
  const early = await keys.request()
  const late = await keys.request()
  await t.rejects(keys.install({ requestId: early.requestId, chainPem: await sign(early.csrPem), ...install }), { code: 'STATE_REFUSED' })
  await keys.install({ requestId: late.requestId, chainPem: await sign(late.csrPem), ...install })
  const third = await keys.request()
  await t.rejects(keys.install({ requestId: third.requestId, chainPem: await sign(third.csrPem), ...install }), { code: 'SWAP_IN_PROGRESS' })
})

t.test("enrolment's certificate is stored and served at once, but does not displace an unconfirmed one", async (t) => {
  const { keys, driver, engine, served, first } = await device(t)
  const renewed = async () => ({ ...first, chainPem: await sign((await makeCsr('sw1', first.keyPem)).csrPem) })
  const before = await renewed()
  await driver.adopt(before)
  t.equal(served.at(-1)?.chainPem, before.chainPem)
  const { requestId, csrPem } = await keys.request()
  const chainPem = await sign(csrPem)
  const { changeId } = await keys.install({ requestId, chainPem, ...install })
  const during = await renewed()
  await driver.adopt(during)
  t.equal(served.at(-1)?.chainPem, chainPem)
  await engine.revert(changeId, 'test')
  t.equal(served.at(-1)?.chainPem, during.chainPem, 'a revert goes back to what enrolment gave')
  await t.rejects(driver.adopt({ ...during, deviceId: 'sw2' }), { code: 'CERTIFICATE_INVALID' })
})

t.test('a removed service takes its count of rotations along', async (t) => {
  const { keys, engine, driver } = await device(t)
  const { requestId, csrPem } = await keys.request()
  const { changeId } = await keys.install({ requestId, chainPem: await sign(csrPem), ...install })
  await confirm(engine, changeId)
  await driver.forget('secrets')
  t.match(await keys.status(), { rotations: 0 })
})
