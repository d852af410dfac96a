import t from 'tap'
import { OffboxError } from '../../../core/errors.ts'
import type { Manifest } from '../../../core/manifest.ts'
import { makeBundle } from '../../fixtures/bundles.ts'
import { FakeClock, settled } from '../../fakes/clock.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { FakeSupervisor } from '../../fakes/supervisor.ts'
import { boot, confirm, type Device, key, orderOf } from './device.ts'

const file = (name: string, version: string, requires: Manifest['requires'] = {}) =>
  makeBundle(key, { name, version, methods: [{ path: `/test.${name}/Do`, kind: 'unary' }], requires })

async function have(device: Device, name: string, version: string, requires?: Manifest['requires']): Promise<void> {
  const kind = device.supervisor.get(name) ? 'upgrade' : 'install'
  const { id } = await device.services.order(orderOf(kind, version, { service: name }), file(name, version, requires))
  await confirm(device, id)
}
const order = async (device: Device, kind: 'install' | 'upgrade', name: string, version: string, requires?: Manifest['requires']) =>
  await device.services.order(orderOf(kind, version, { service: name }), file(name, version, requires))
const requiresA = { apis: { 'test.a': '^1.0.0' } }
const refused = (message: RegExp) => ({ code: 'DEPENDENCY_UNSATISFIED', message })

t.test('a refused install touches nothing: no journal, no store, no worker', async (t) => {
  const device = await boot(new FakeFileSystem())
  let starts = 0
  device.supervisor.onStart = async () => void starts++
  await t.rejects(order(device, 'install', 'b', '1.0.0', requiresA), refused(/b 1\.0\.0 requires test\.a \^1\.0\.0; nothing here provides it/))
  await t.rejects(order(device, 'install', 'b', '1.0.0', { kernel: '^2.0.0' }), refused(/requires kernel \^2\.0\.0; this agent's kernel is/))
  t.same(device.engine.all(), [])
  t.same(await device.bundles.services(), [])
  t.equal(starts, 0)
})

t.test('an upgrade and a removal that would break a running service are refused, and it is named', async (t) => {
  const device = await boot(new FakeFileSystem())
  await have(device, 'a', '1.0.0')
  await have(device, 'b', '1.0.0', requiresA)
  const changes = device.engine.all().length
  await t.rejects(order(device, 'upgrade', 'a', '2.0.0'), refused(/b 1\.0\.0 requires test\.a \^1\.0\.0; a 2\.0\.0 provides 2\.0\.0/))
  await t.rejects(device.services.remove('a', { author: 'me', reason: '' }), refused(/b 1\.0\.0 requires test\.a \^1\.0\.0; nothing here provides it/))
  t.equal(device.engine.all().length, changes)
  t.equal(device.supervisor.get('a')?.version, '1.0.0')
  await have(device, 'a', '1.1.0')
  await device.services.remove('b', { author: 'me', reason: '' })
  await have(device, 'a', '2.0.0')
  t.equal(device.supervisor.get('a')?.version, '2.0.0', 'nobody minds any more')
})

t.test('while a change is not confirmed, both versions count', async (t) => {
  const device = await boot(new FakeFileSystem())
  const { id: install } = await order(device, 'install', 'a', '1.0.0')
  await t.rejects(order(device, 'install', 'b', '1.0.0', requiresA), refused(/may go: its change is not confirmed/))
  await confirm(device, install)
  const { id } = await order(device, 'upgrade', 'a', '2.0.0')
  await t.rejects(order(device, 'install', 'b', '1.0.0', requiresA), refused(/a 2\.0\.0 provides 2\.0\.0/))
  await t.rejects(order(device, 'install', 'b', '1.0.0', { apis: { 'test.a': '^2.0.0' } }), refused(/a 1\.0\.0 provides 1\.0\.0/))
  await device.engine.revert(id, 'for the test')
  await have(device, 'b', '1.0.0', requiresA)
  t.equal(device.supervisor.get('b')?.version, '1.0.0')
})

t.test('of two orders at once that exclude one another, one is refused', async (t) => {
  const device = await boot(new FakeFileSystem())
  await have(device, 'a', '1.0.0')
  const outcomes = await Promise.allSettled([order(device, 'upgrade', 'a', '2.0.0'), order(device, 'install', 'b', '1.0.0', requiresA)])
  t.same(outcomes.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  const [failure] = outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []))
  t.match(failure, { code: 'DEPENDENCY_UNSATISFIED' })
  const both = await Promise.allSettled([
    order(device, 'install', 'c', '1.0.0', { apis: { 'test.a': '>=1.0.0' } }),
    device.services.remove('a', { author: 'me', reason: '' }),
  ])
  t.ok(both.some(({ status }) => status === 'rejected'))
})

t.test('at boot services start after those whose APIs they call', async (t) => {
  const disk = new FakeFileSystem()
  const device = await boot(disk)
  await have(device, 'z', '1.0.0')
  await have(device, 'm', '1.0.0', { apis: { 'test.z': '*' } })
  await have(device, 'a', '1.0.0', { apis: { 'test.m': '*' } })
  const started: string[] = []
  const supervisor = new FakeSupervisor()
  supervisor.onStart = async ({ manifest }) => {
    // Those that do not wait for it would come before it.
    await settled()
    started.push(manifest.name)
  }
  await boot(disk, { supervisor })
  t.same(started, ['z', 'm', 'a'])
})

t.test('at boot a stored service whose kernel is not here does not start, and is not tried again', async (t) => {
  const disk = new FakeFileSystem()
  const device = await boot(disk)
  await device.bundles.stage('a', file('a', '1.0.0', { kernel: '^2.0.0' }), { version: '1.0.0', config: {}, changeId: 'c-0000000001' })
  await device.bundles.commit('a', 'c-0000000001')
  const { supervisor, errors, clock } = await boot(disk)
  t.same(supervisor.list(), [])
  t.same(errors, ['a stored service does not start'])
  t.equal(clock.waiting, 0)
})

t.test('at boot a service starts although the one it depends on fails, hangs, or waits for it in turn', async (t) => {
  const disk = new FakeFileSystem()
  const device = await boot(disk)
  await have(device, 'z', '1.0.0')
  await have(device, 'y', '1.0.0')
  await have(device, 'a', '1.0.0', { apis: { 'test.z': '*', 'test.y': '*' } })
  await have(device, 'y', '1.1.0', { apis: { 'test.a': '*' } })
  const supervisor = new FakeSupervisor()
  const clock = new FakeClock()
  supervisor.onStart = async ({ manifest }) => {
    if (manifest.name === 'z') throw new OffboxError('SWAP_ROLLED_BACK', 'it threw at start')
  }
  const second = await boot(disk, { supervisor, clock })
  t.same(
    supervisor.list().map(({ service }) => service),
    ['a', 'y'],
  )
  await t.rejects(second.services.remove('z', { author: 'me', reason: '' }), { code: 'DEPENDENCY_UNSATISFIED' }, 'it is still depended upon')
  const third = new FakeSupervisor()
  third.onStart = async ({ manifest }) => {
    if (manifest.name === 'z') await new Promise(() => {})
  }
  void boot(disk, { supervisor: third, clock })
  await settled()
  t.same(
    third.list().map(({ service }) => service),
    ['y'],
  )
  await clock.advance(2_000)
  t.same(
    third.list().map(({ service }) => service),
    ['a', 'y'],
  )
})
