import t from 'tap'
import { formatPolicy, POLICY_PATH } from '../../../../core/policy.ts'
import { requireTargetFile } from '../../../../agent/trust/tuf/tuf-trust.ts'
import { TrustingDevice } from './device.ts'
import { bundleOf, DAY_MS, Repository } from './repository.ts'

t.test('a target that its service signed is verified, and names the file, the role and its keys', async (t) => {
  const repository = new Repository()
  const path = repository.release('telemetry', '1.1.0')
  const trust = await new TrustingDevice(repository).start()
  const [target] = await trust.update(repository.push(), [path])
  t.match(target, { path, length: 300, role: 'service-telemetry', custom: { service: 'telemetry', version: '1.1.0' } })
  t.same(target?.keyIds, [repository.signers['service-telemetry']?.[0]?.keyid])
  if (!target) return
  requireTargetFile(target, bundleOf('telemetry', '1.1.0'))
  t.throws(() => requireTargetFile(target, bundleOf('telemetry', '1.1.1')), { code: 'BUNDLE_CORRUPT' })
})

t.test('what was accepted is believed again after a start, without the push', async (t) => {
  const repository = new Repository()
  const device = new TrustingDevice(repository)
  const path = repository.release('telemetry', '1.1.0')
  await (await device.start()).update(repository.push(), [path])
  repository.rotate('root')
  repository.publish('timestamp')
  const trust = await device.start()
  t.match(trust.heights, { root: 1, timestamp: 2, snapshot: 2, targets: { targets: 2, 'service-telemetry': 1 } })
  t.same(trust.problems, [])
  const unchanged = Object.fromEntries(['2.snapshot.json', '2.targets.json', '1.service-telemetry.json'].map((name) => [name, null]))
  await trust.update(repository.push(unchanged), [path])
  t.match(trust.heights, { root: 2, timestamp: 3, snapshot: 2 })
})

t.test('a device far behind takes roots alone first', async (t) => {
  const repository = new Repository()
  const path = repository.release('telemetry', '1.1.0')
  for (let turn = 0; turn < 20; turn++) repository.rotate('root')
  repository.publish('timestamp')
  const all = repository.push().files
  const trust = await new TrustingDevice(repository).start()
  await t.rejects(trust.update({ files: all }, [path]), { code: 'TRUST_MALFORMED' }, 'too many at once')
  t.same(await trust.update({ files: all.slice(0, 12) }, []), [])
  t.equal(trust.heights?.root, 13)
  const [target] = await trust.update({ files: all.slice(12) }, [path])
  t.equal(target?.path, path)
  t.equal(trust.heights?.root, 21)
})

t.test('time goes on by the monotonic clock from what the repository signed, and expires what nobody renews', async (t) => {
  const repository = new Repository()
  const device = new TrustingDevice(repository)
  const trust = await device.start()
  await trust.update(repository.push(), [])
  t.equal(trust.time.nowMs(), repository.nowMs)
  await device.clock.advance(6 * DAY_MS)
  await trust.update(repository.push(), [])
  await device.clock.advance(1.5 * DAY_MS)
  await t.rejects(trust.update(repository.push(), []), { code: 'TRUST_EXPIRED' })
  repository.nowMs += 8 * DAY_MS
  repository.publish('timestamp')
  await trust.update(repository.push(), [])
})

t.test('newer metadata that comes alone takes away nothing that was believed, also over a restart', async (t) => {
  const repository = new Repository()
  const device = new TrustingDevice(repository)
  const policy = formatPolicy({ version: 1, services: {} })
  repository.list('targets', POLICY_PATH, policy)
  const path = repository.release('telemetry', '1.1.0')
  await (await device.start()).update(repository.push(), [path], policy)
  const whole = repository.push()
  repository.publish('targets', 'snapshot', 'timestamp')
  const alone = (...names: string[]) => ({ files: repository.push().files.filter(({ name }) => names.includes(name)) })
  for (const names of [['timestamp.json'], ['timestamp.json', '4.snapshot.json'], ['timestamp.json', '4.targets.json']]) {
    const trust = await device.start()
    await t.rejects(trust.update(alone(...names), [path]), { code: 'TRUST_UNAVAILABLE' }, names.join())
    const after = await device.start()
    t.match(after.policy, { policy: { version: 1 } }, `the policy stays after ${names.join()}`)
    t.equal(after.serviceKeys('telemetry').size, 1)
    t.same(after.problems, [])
    await t.rejects(after.update(whole, [path], policy), { code: 'TRUST_ROLLBACK' }, 'and yet the old metadata vouches for nothing new')
  }
  const trust = await device.start()
  t.equal((await trust.update(repository.push(), [path], policy)).length, 1, 'the whole push is taken')
})

t.test('what keys signed that the root has replaced counts no more after a start', async (t) => {
  const repository = new Repository()
  const device = new TrustingDevice(repository)
  const policy = formatPolicy({ version: 1, services: {} })
  repository.list('targets', POLICY_PATH, policy)
  const path = repository.release('telemetry', '1.1.0')
  await (await device.start()).update(repository.push(), [path], policy)
  repository.rotate('targets')
  await (await device.start()).update({ files: repository.push().files.filter(({ name }) => name.endsWith('.root.json')) }, [])
  const after = await device.start()
  t.equal(after.policy, null)
  t.match(after.problems, [/there is no policy/])
})
