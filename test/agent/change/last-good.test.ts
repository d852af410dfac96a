import t from 'tap'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { settled } from '../../fakes/clock.ts'
import { boot, bundleOf, confirm, orderOf, type Device } from './device.ts'

/** 1.1.0 runs, confirmed, with a configuration of its own; 1.0.0 is the last good version. */
async function upgraded(disk = new FakeFileSystem()): Promise<Device> {
  const device = await boot(disk)
  const install = await device.services.order(orderOf('install', '1.0.0', { config: { of: 1 } }), bundleOf('1.0.0'))
  await confirm(device, install.id)
  const upgrade = await device.services.order(orderOf('upgrade', '1.1.0', { config: { of: 2 } }), bundleOf('1.1.0'))
  await confirm(device, upgrade.id)
  return device
}

const running = (device: Device) => device.supervisor.list().map(({ version }) => version)

async function spend(device: Device): Promise<void> {
  const before = device.engine.all().length
  device.supervisor.onSpent('counter', 'it crashed')
  for (let turn = 0; turn < 20; turn++) {
    await settled()
    const [last, ...others] = device.engine.all()
    if (others.length === before && last?.settled) return
  }
}

t.test('a confirmed version that crashed too often gives way to the last good one, with its configuration, as a change like any other', async (t) => {
  const device = await upgraded()
  await spend(device)
  t.same(running(device), ['1.0.0'])
  t.same(device.supervisor.configOf('counter'), { of: 1 })
  t.match(device.engine.all()[0], {
    kind: 'upgrade',
    from: '1.1.0',
    to: '1.0.0',
    state: 'confirmed',
    settled: true,
    author: 'agent',
    reason: /crashed too often/,
  })
  const again = await boot(device.disk.restarted('power'))
  t.same(running(again), ['1.0.0'], 'and stays after a restart')
})

t.test('the last good version is tried once: it has none before it', async (t) => {
  const device = await upgraded()
  await spend(device)
  await spend(device)
  t.same(running(device), ['1.0.0'])
  t.equal(device.engine.all().length, 3)
  t.equal(await device.bundles.lastGood('counter'), null)
})

t.test('a first version has nothing to fall back to', async (t) => {
  const device = await boot(new FakeFileSystem())
  const { id } = await device.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))
  await confirm(device, id)
  await spend(device)
  t.same(running(device), ['1.0.0'])
  t.equal(device.engine.all().length, 1)
  t.same(device.errors, [])
})

t.test('a last good version below the floor stays where it is, and that is said', async (t) => {
  const device = await upgraded()
  Object.assign(device.floors, { of: () => '1.1.0' })
  await spend(device)
  t.same(running(device), ['1.1.0'])
  t.match(device.errors, [/change failed/, /stays down/])
})

t.test('a last good version that does not start leaves the record as it was', async (t) => {
  const device = await upgraded()
  device.supervisor.onStart = async () => {
    throw new Error('it does not start')
  }
  await spend(device)
  t.equal((await device.bundles.active('counter'))?.version, '1.1.0')
  t.match(device.engine.all()[0], { state: 'reverted', settled: true })
})

t.test('a cut at any operation of the way back leaves one of the two, whole', async (t) => {
  for (let at = 1, ends = false; !ends; at++) {
    const disk = new FakeFileSystem()
    const device = await upgraded(disk)
    disk.cutAt(at)
    await spend(device)
    ends = device.engine.all().length === 3 && device.engine.all()[0]?.settled === true
    const again = await boot(disk.restarted('power'))
    const [version] = running(again)
    t.ok(version === '1.0.0' || version === '1.1.0', `cut at ${at}: ${version} runs`)
    t.equal((await again.bundles.active('counter'))?.version, version)
    t.equal((await again.bundles.load('counter', version ?? '')).manifest.version, version)
    if (at > 60) throw new Error('it never ends')
  }
})
