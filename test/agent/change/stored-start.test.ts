import t from 'tap'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { OffboxError } from '../../../core/errors.ts'
import { boot, bundleOf, confirm, orderOf } from './device.ts'

t.test('a stored version that rotted does not start, and says that it rotted', async (t) => {
  const disk = new FakeFileSystem()
  const device = await boot(disk)
  await confirm(device, (await device.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))).id)
  disk.rot('/state/bundles/counter/1.0.0.offbox')
  const again = await boot(disk)
  t.same(again.supervisor.list(), [])
  t.match(await again.services.down(), [{ service: 'counter', version: '1.0.0', reason: /^STORE_CORRUPT: / }])
})

t.test('an upgrade that brings the policy replaces the version that this policy lets start', async (t) => {
  const disk = new FakeFileSystem()
  const before = await boot(disk)
  await confirm(before, (await before.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))).id)
  let denied = true
  const admitStored = () => {
    if (denied) throw new OffboxError('POLICY_DENIED', 'there is no policy')
  }
  const device = await boot(disk, { admitStored })
  t.match(await device.services.down(), [{ reason: /^POLICY_DENIED: / }])
  denied = false
  const started = device.services.reconsider()
  const change = await device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  await started
  t.match(change, { from: '1.0.0', to: '1.1.0', state: 'provisional' })
  t.match(device.supervisor.list(), [{ version: '1.1.0' }])
})
