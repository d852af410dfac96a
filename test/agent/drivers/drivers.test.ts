import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { IdentityStore } from '../../../agent/boot/identity.ts'
import { Engine } from '../../../agent/change/engine.ts'
import { Journal } from '../../../agent/change/journal.ts'
import { createDrivers } from '../../../agent/drivers/drivers.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { systemClock } from '../../../core/clock.ts'
import { CAPABILITIES } from '../../../core/manifest.ts'

function make(t: Test, over: { birdCommand?: string; runDir?: string } = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'obx-drivers-'))
  const files = new AtomicFiles()
  const logged: string[] = []
  const log = { debug() {}, info() {}, warn() {}, error: (_: object, message: string) => void logged.push(message) }
  const changes = new Engine({ journal: new Journal(files, join(directory, 'changes'), () => {}), clock: systemClock, log })
  const drivers = createDrivers({
    config: { stateDir: directory, runDir: join(directory, 'run'), birdCommand: '/nonexistent/bird', address: '10.77.0.11', ...over },
    files,
    identities: new IdentityStore(files, directory),
    anchors: { fleet: 'lab', caPem: '', bundleKeys: new Map() },
    changes,
    front: { rotate() {} },
    clock: systemClock,
    log,
  })
  t.teardown(async () => {
    changes.close()
    await drivers.close({ stopBird: true })
    rmSync(directory, { recursive: true, force: true })
  })
  return { drivers, logged, runDir: join(directory, 'run') }
}

t.test('what is not in the table does not exist', async (t) => {
  const { drivers } = make(t)
  for (const [capability, operation] of [
    ['shell', 'run'],
    ['bird', 'restart'],
    ['__proto__', 'toString'],
    ['link', 'constructor'],
    ['state', '__proto__'],
    ['', ''],
  ] as const) {
    await t.rejects(drivers.call('test', capability, operation, {}), { code: 'CAPABILITY_DENIED' }, `${capability}.${operation}`)
  }
})

t.test('every capability that a manifest may name is there', async (t) => {
  const { drivers } = make(t)
  const operations = { bird: 'current', link: 'interfaces', proc: 'read', keystore: 'status', state: 'get' }
  t.same(Object.keys(operations), [...CAPABILITIES])
  for (const capability of ['bird', 'link', 'proc'] as const) await t.resolves(drivers.call('test', capability, operations[capability], undefined))
  t.equal(await drivers.call('test', 'state', 'get', { key: 'k' }), null)
  await t.rejects(drivers.call('test', 'keystore', 'status', undefined), { code: 'STATE_REFUSED', message: /not enrolled/ })
})

t.test('input of another shape than agreed is refused', async (t) => {
  const { drivers } = make(t)
  const good = { text: '', document: new Uint8Array(), confirmTimeoutMs: 60_000, comment: '', author: '' }
  for (const bad of [
    undefined,
    7,
    {},
    { ...good, text: 7 },
    { ...good, document: 'x' },
    { ...good, confirmTimeoutMs: 4_999 },
    { ...good, confirmTimeoutMs: Number.NaN },
    { ...good, author: undefined },
  ]) {
    await t.rejects(drivers.call('test', 'bird', 'apply', bad), { code: 'ARGUMENT_INVALID' })
  }
  await t.rejects(drivers.call('test', 'bird', 'routes', { max: -1 }), { code: 'ARGUMENT_INVALID' })
  await t.rejects(drivers.call('test', 'bird', 'setDrained', { drained: 'yes' }), { code: 'ARGUMENT_INVALID' })
  await t.rejects(drivers.call('test', 'keystore', 'install', { requestId: 'x' }), { code: 'ARGUMENT_INVALID' })
})

t.test('a machine without BIRD starts all the same, says so in the log, and fails what needs it', async (t) => {
  const { drivers, logged } = make(t)
  await drivers.start()
  t.same(logged, ['BIRD did not start'])
  await t.rejects(drivers.call('test', 'bird', 'protocols', undefined), { code: 'DRIVER_FAILED', message: /not reachable/ })
  await t.rejects(drivers.call('test', 'bird', 'setDrained', { drained: true }), { code: 'DRIVER_FAILED' })
  t.equal(await drivers.call('test', 'bird', 'drained', undefined), false, 'a drain that failed is not on')
  t.type(await drivers.call('test', 'proc', 'read', undefined), Object)
})

t.test('what a killed agent left in the run directory is removed, and nothing else', async (t) => {
  const { drivers, runDir } = make(t)
  mkdirSync(runDir, { recursive: true })
  for (const name of ['bird-check-1.conf', 'bird-2.conf.new', 'bird.conf.new', 'bird.drained', 'other.conf']) writeFileSync(join(runDir, name), '')
  await drivers.start()
  t.same(
    readdirSync(runDir)
      .filter((name) => name !== 'bird.out')
      .sort(),
    ['bird.conf', 'bird.drained', 'other.conf'],
  )
  t.match(readFileSync(join(runDir, 'bird.conf'), 'utf8'), 'define DRAINED = true;', 'a drain outlives the agent')
})

t.test('a run directory that BIRD could not use is refused at the start, by name', async (t) => {
  await t.rejects(make(t, { runDir: '/tmp/with"quote' }).drivers.start(), { code: 'ARGUMENT_INVALID', message: /run directory/ })
  await t.rejects(make(t, { runDir: `/tmp/${'x'.repeat(100)}` }).drivers.start(), { code: 'ARGUMENT_INVALID', message: /socket name/ })
})
