/** The policy as a device keeps it: with the metadata that names it, and never an older one than it has seen. */
import t from 'tap'
import { formatPolicy, POLICY_PATH, type Policy } from '../../../../core/policy.ts'
import { Cut } from '../../../fakes/file-system.ts'
import { TrustingDevice } from './device.ts'
import { Repository } from './repository.ts'

const rule = { keys: ['a1'.repeat(32)], capabilities: ['proc'], tiers: ['worker'] } as const
const versioned = (version: number, services: Policy['services'] = { telemetry: rule }) => formatPolicy({ version, services })
const none = new Uint8Array()

/** Publishes a policy in the next targets. */
function publish(repository: Repository, file: Uint8Array, role = 'targets'): void {
  repository.list(role, POLICY_PATH, file)
  repository.publish(...(role === 'targets' ? [] : [role]), 'targets', 'snapshot', 'timestamp')
}

async function withPolicy(version = 1) {
  const repository = new Repository()
  publish(repository, versioned(version))
  const device = new TrustingDevice(repository)
  const trust = await device.start()
  await trust.update(repository.push(), [], versioned(version))
  return { repository, device, trust }
}

t.test('a policy is in force once its metadata is, over restarts, and need not be sent again', async (t) => {
  const { repository, device, trust } = await withPolicy()
  t.match(trust.policy, { policy: { version: 1, services: { telemetry: rule } }, sha256: /^[0-9a-f]{64}$/ })
  repository.publish('timestamp')
  await trust.update(repository.push(), [])
  t.equal(trust.policy?.policy.version, 1)
  const again = await device.start()
  t.same(again.policy, trust.policy)
  t.same(again.problems, [])
})

t.test('metadata whose policy is not there counts as not having come, but for its roots', async (t) => {
  const { repository, device, trust } = await withPolicy()
  const before = repository.push()
  publish(repository, versioned(2))
  repository.rotate('root')
  await t.rejects(trust.update(repository.push(), []), { code: 'TRUST_UNAVAILABLE', message: /policy\/device\.json/ })
  t.equal(trust.policy?.policy.version, 1)
  t.equal(trust.rootVersion, 2)
  const again = await device.start()
  t.equal(again.policy?.policy.version, 1, 'and the next start has a policy')
  t.equal(again.rootVersion, 2)
  await again.update(before, [], versioned(1))
  await again.update(repository.push(), [], versioned(2))
  t.equal(again.policy?.policy.version, 2)
})

t.test('another file than the named one is refused, whoever sends it', async (t) => {
  const { repository, trust } = await withPolicy()
  publish(repository, versioned(2))
  await t.rejects(trust.update(repository.push(), [], versioned(3)), { code: 'TRUST_MISMATCH' })
  await t.rejects(trust.update(repository.push(), [], versioned(1)), { code: 'TRUST_MISMATCH' })
  const nonsense = new TextEncoder().encode('{"version": 2}')
  publish(repository, nonsense)
  await t.rejects(trust.update(repository.push(), [], nonsense), { code: 'TRUST_MALFORMED' })
  t.equal(trust.policy?.policy.version, 1)
})

t.test('no older policy, and no other one of the same version, unless the keys were replaced after a theft', async (t) => {
  const { repository, device, trust } = await withPolicy(5)
  publish(repository, versioned(4))
  await t.rejects(trust.update(repository.push(), [], versioned(4)), { code: 'TRUST_ROLLBACK', message: /policy version 4 is older than version 5/ })
  const other = versioned(5, {})
  publish(repository, other)
  await t.rejects(trust.update(repository.push(), [], other), { code: 'TRUST_MISMATCH', message: /another policy of version 5/ })
  const again = await device.start()
  publish(repository, versioned(4))
  await t.rejects(again.update(repository.push(), [], versioned(4)), { code: 'TRUST_ROLLBACK' }, 'also after a restart')
  for (const role of ['timestamp', 'snapshot', 'targets']) repository.rotate(role)
  publish(repository, versioned(1))
  await again.update(repository.push(), [], versioned(1))
  t.equal(again.policy?.policy.version, 1)
})

t.test('a policy that the targets no longer name is none, and one that another role names is none', async (t) => {
  const { repository, device, trust } = await withPolicy()
  delete repository.roles['targets'].targets[POLICY_PATH]
  repository.publish('targets', 'snapshot', 'timestamp')
  await trust.update(repository.push(), [])
  t.equal(trust.policy, null)
  t.equal((await device.start()).policy, null)
  repository.delegate('service-telemetry', ['policy/*'])
  publish(repository, versioned(2), 'service-telemetry')
  await trust.update(repository.push(), [], versioned(2))
  t.equal(trust.policy, null, "a service's key has no say in it")
  t.equal((await device.start()).policy, null)
})

t.test('cut at any operation the policy that is found again is the old or the new one, never none', { timeout: 250_000 }, async (t) => {
  const { repository, device } = await withPolicy()
  publish(repository, versioned(2))
  const before = device.disk
  for (let at = 1; ; at++) {
    device.disk = before.restarted('kill')
    const trust = await device.start()
    device.disk.cutAt(at)
    const done = await trust.update(repository.push(), [], versioned(2)).then(
      () => true,
      (error) => t.ok(error instanceof Cut) && false,
    )
    device.disk = device.disk.restarted('power')
    const found = (await device.start()).policy?.policy.version
    t.ok(found === 2 || (found === 1 && !done), `cut at ${at}: version ${found}`)
    if (done) break
  }
})

t.test('an empty push asks what is stored, while it has not expired', async (t) => {
  const { repository, device, trust } = await withPolicy()
  const path = repository.release('telemetry', '1.1.0')
  await t.rejects(trust.update({ files: [] }, [path]), { code: 'TRUST_UNLISTED' })
  await trust.update(repository.push(), [])
  t.match(await trust.update(repository.push(), [path]), [{ path }])
  const again = await device.start()
  t.match(await again.update({ files: [] }, [path], none), [{ path }])
  await device.clock.advance(8 * 24 * 3600_000)
  await t.rejects(again.update({ files: [] }, [path]), { code: 'TRUST_EXPIRED' })
  await t.rejects((await new TrustingDevice(repository).start()).update({ files: [] }, [path]), { code: 'TRUST_UNAVAILABLE' })
})
