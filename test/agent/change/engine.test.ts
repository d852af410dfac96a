import t from 'tap'
import { OffboxError } from '../../../core/errors.ts'
import { settled } from '../../fakes/clock.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { boot, bundleOf, confirm, key, orderOf } from './device.ts'
import { makeBundle, makeFloors } from '../../fixtures/bundles.ts'

async function withCounter(version = '1.0.0') {
  const device = await boot(new FakeFileSystem())
  const { id } = await device.services.order(orderOf('install', version), bundleOf(version))
  await confirm(device, id)
  return device
}
const running = (device: Awaited<ReturnType<typeof boot>>) => device.supervisor.get('counter')?.version

t.test('silence reverts, at the deadline and not before', async (t) => {
  const device = await withCounter()
  const { id } = await device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  await device.clock.advance(59_999)
  t.equal(running(device), '1.1.0')
  await device.clock.advance(1)
  t.equal(running(device), '1.0.0')
  t.match(device.engine.get(id), { state: 'reverted', error: 'DEADLINE_PASSED', settled: true })
  await t.rejects(confirm(device, id), { code: 'STATE_REFUSED' })
})

t.test('the bake has to pass before a confirm, and an unhealthy version reverts itself during it', async (t) => {
  const device = await withCounter()
  const first = await device.services.order(orderOf('upgrade', '1.1.0', { bakeMs: 10_000 }), bundleOf('1.1.0'))
  await t.rejects(confirm(device, first.id), { code: 'STATE_REFUSED' })
  device.supervisor.onProvisionalFailure('counter', 'it said unhealthy')
  await settled()
  t.equal(running(device), '1.0.0')
  t.match(device.engine.get(first.id), { state: 'reverted', error: 'SWAP_ROLLED_BACK', reason: 'it said unhealthy' })
  const second = await device.services.order(orderOf('upgrade', '1.1.0', { bakeMs: 10_000 }), bundleOf('1.1.0'))
  await device.clock.advance(10_000)
  await confirm(device, second.id)
  t.equal(running(device), '1.1.0')
  device.supervisor.onProvisionalFailure('counter', 'too late')
  await settled()
  t.equal(running(device), '1.1.0', 'what is confirmed stays')
})

t.test('a connection opened before the change went live cannot confirm it', async (t) => {
  const device = await withCounter()
  await device.clock.advance(5)
  const openedAtMs = device.clock.monotonicMs()
  const { id } = await device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  await device.clock.advance(100)
  await t.rejects(device.engine.confirm(id, { principal: 'me', connectionOpenedAtMs: openedAtMs }), { code: 'CONFIRM_NOT_FRESH' })
  await confirm(device, id)
})

t.test('a version that does not start leaves what runs alone, and is told with its reason', async (t) => {
  const device = await withCounter()
  device.supervisor.onStart = async () => {
    throw new OffboxError('SWAP_ROLLED_BACK', 'it threw at start')
  }
  await t.rejects(device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0')), { code: 'SWAP_ROLLED_BACK', message: 'it threw at start' })
  t.equal(running(device), '1.0.0')
  t.match(device.engine.all()[0], { state: 'reverted', error: 'SWAP_ROLLED_BACK', reason: 'it threw at start', settled: true })
})

t.test('one change a slot: a second order and a removal wait their turn, and a revert during a start is honoured', async (t) => {
  const device = await withCounter()
  let release = () => {}
  device.supervisor.onStart = async () =>
    await new Promise<void>((resolve) => {
      release = resolve
    })
  const upgrading = device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  upgrading.catch(() => {})
  await settled()
  const id = device.engine.current('counter')?.id ?? ''
  await t.rejects(device.services.order(orderOf('upgrade', '1.2.0'), bundleOf('1.2.0')), { code: 'SWAP_IN_PROGRESS' })
  await t.rejects(device.services.remove('counter', { author: 'me', reason: '' }), { code: 'SWAP_IN_PROGRESS' })
  await t.rejects(confirm(device, id), { code: 'STATE_REFUSED' }, 'nothing to confirm yet')
  const reverted = device.engine.revert(id, 'stop it')
  release()
  t.match(await reverted, { state: 'reverted', reason: 'stop it' })
  await t.rejects(upgrading, { code: 'SWAP_ROLLED_BACK' })
  t.equal(running(device), '1.0.0')
})

t.test('a repeated order is answered with its change, and another bundle of the same version is refused', async (t) => {
  const device = await withCounter()
  const first = device.engine.all()[0]
  t.equal((await device.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))).id, first?.id)
  t.equal((await device.services.order(orderOf('upgrade', '1.0.0'), bundleOf('1.0.0'))).id, first?.id)
  const other = makeBundle(key, { name: 'counter', version: '1.0.0' }, 'other code')
  await t.rejects(device.services.order(orderOf('upgrade', '1.0.0'), other), { code: 'BUNDLE_EXISTS' })
  const config = { interval: 5 }
  const changed = await device.services.order(orderOf('upgrade', '1.0.0', { config }), bundleOf('1.0.0'))
  t.not(changed.id, first?.id, 'the same version with another configuration is a change')
  t.equal((await device.services.order(orderOf('upgrade', '1.0.0', { config }), bundleOf('1.0.0'))).id, changed.id)
  await confirm(device, changed.id)
  t.same((await device.bundles.active('counter'))?.config, config)
  const upgraded = await device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  t.same(device.supervisor.configOf('counter'), config, 'an order without configuration keeps it')
  await confirm(device, upgraded.id)
})

t.test('a stored version below a floor raised meanwhile does not start', async (t) => {
  const device = await withCounter()
  await device.floors.raise(makeFloors(key, 1, { counter: '1.0.1' }))
  const again = await boot(device.disk.restarted('power'))
  t.same(again.supervisor.list(), [])
  t.match(await again.services.down(), [{ service: 'counter', version: '1.0.0', reason: /^BUNDLE_ROLLBACK: / }])
  const { id } = await again.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  await confirm(again, id)
  t.equal(running(again), '1.1.0', 'an upgrade from a version that is down')
})

t.test('a stored version that does not start is tried again until it does', async (t) => {
  const device = await withCounter()
  const disk = device.disk.restarted('kill')
  const again = await boot(disk)
  await again.supervisor.remove('counter')
  again.supervisor.onStart = async () => {
    throw new OffboxError('SWAP_ROLLED_BACK', 'not yet')
  }
  await again.services.startActive()
  t.same(again.supervisor.list(), [])
  again.supervisor.onStart = async () => {}
  await again.clock.advance(1_000)
  t.equal(running(again), '1.0.0')
})

t.test('ids rise across restarts, and history stays bounded', async (t) => {
  const device = await withCounter()
  for (let at = 0; at < 70; at++) {
    const { id } = await device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
    await device.engine.revert(id, 'again')
  }
  const again = await boot(device.disk.restarted('power'))
  t.ok(again.engine.all().length <= 66)
  const { id } = await again.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  t.equal(id, 'c-0000000072')
})

t.test('a removal forgets the service, its bundles and its state', async (t) => {
  const device = await withCounter()
  t.match(await device.services.remove('counter', { author: 'me', reason: 'done' }), { kind: 'remove', state: 'confirmed', settled: true })
  t.same(device.forgotten, ['counter'])
  t.same(
    device.disk.paths().filter((path) => path.includes('bundles')),
    [],
  )
  await t.rejects(device.services.remove('counter', { author: 'me', reason: '' }), { code: 'SERVICE_NOT_FOUND' })
})

t.test('a version that this device cannot confine is refused before anything of it is recorded, stored or started', async (t) => {
  const device = await withCounter()
  const before = device.disk.operations
  device.supervisor.onCheckTier = ({ name, version }) => {
    throw new OffboxError('TIER_UNAVAILABLE', `${name} ${version} needs a process of its own`)
  }
  await t.rejects(device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0')), { code: 'TIER_UNAVAILABLE' })
  t.equal(device.disk.operations, before)
  t.equal(running(device), '1.0.0')
})

t.test('a version for which there is no room is refused before anything of it is recorded, stored or started', async (t) => {
  const device = await withCounter()
  const before = device.disk.operations
  device.room = { memoryAvailableBytes: 1, stateAvailableBytes: 1 }
  await t.rejects(device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0')), { code: 'PREFLIGHT_REFUSED', message: /memory: .* disk: / })
  t.equal(device.disk.operations, before)
  t.equal(running(device), '1.0.0')
  t.equal((await device.services.order(orderOf('upgrade', '1.0.0'), bundleOf('1.0.0'))).to, '1.0.0', 'a repeated order needs none')
  await device.services.remove('counter', { author: 'me', reason: 'to make room' })
})
