import t from 'tap'
import { TufTrust } from '../../../agent/trust/tuf/tuf-trust.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { targetPath } from '../../../core/tuf/metadata.ts'
import { makePush } from '../../../fleet/trust/make-push.ts'
import { publish } from '../../../fleet/trust/publish.ts'
import { sha256 } from '../../../fleet/trust/repository.ts'
import { delegate, revoke, rotate } from '../../../fleet/trust/trust.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { firstRoot, rootVersionOf, testTrust } from './fixtures.ts'

t.test('the verifier of a device follows the repository that the fleet keeps, through rotations and revocations', async (t) => {
  const trust = await testTrust()
  t.teardown(() => trust.remove())
  await delegate(trust.context(), 'telemetry')
  await publish(trust.context(), [trust.bundle('telemetry', '1.0.0')], { anchors: trust.anchors })
  const anchor = firstRoot(await trust.read())
  const witness = { keys: new Map<string, Uint8Array>(), need: 'never' as const }
  const files = new AtomicFiles(new FakeFileSystem())
  const buildTimeMs = Date.now() - 3_600_000
  const device = await TufTrust.open({ files, stateDir: '/state', fleet: 'lab', anchor, clock: new FakeClock(), buildTimeMs, witness })

  let rootVersion = 1
  const update = async (version: string) => {
    const repository = await trust.read()
    const { push } = makePush(repository, { rootVersion, services: ['telemetry'] })
    const found = await device.update(push, [targetPath('telemetry', version)])
    rootVersion = rootVersionOf(repository)
    return found
  }
  const bundle = trust.bundle('telemetry', '1.0.0')
  const custom = { service: 'telemetry', version: '1.0.0', manifestSha256: /^[0-9a-f]{64}$/ }
  t.match(await update('1.0.0'), [{ length: bundle.length, hashes: { sha256: sha256(bundle) }, custom, role: 'service-telemetry' }])
  t.ok(device.time.nowMs(device.heights?.keys) > Date.now() - 600_000, 'its clock is years behind, and the timestamp tells it the time')

  const stale = makePush(await trust.read(), { rootVersion, services: ['telemetry'] }).push
  for (const role of ['root', 'timestamp', 'snapshot', 'targets', 'service-telemetry']) {
    await rotate(trust.context(), role)
    t.equal((await update('1.0.0')).length, 1, `after a new ${role}`)
  }
  await t.rejects(device.update(stale, [targetPath('telemetry', '1.0.0')]), { code: /^TRUST_/ }, 'what was true before is not taken back')
  await publish(trust.context(), [trust.bundle('telemetry', '1.1.0')], { anchors: trust.anchors })
  await update('1.1.0')
  await revoke(trust.context(), 'services/telemetry/1.0.0.offbox')
  await t.rejects(update('1.0.0'), { code: 'TRUST_UNLISTED' })
  await revoke(trust.context(), 'service-telemetry')
  await t.rejects(update('1.1.0'), { code: 'TRUST_UNLISTED' })

  const again = await TufTrust.open({ files, stateDir: '/state', fleet: 'lab', anchor, clock: new FakeClock(), buildTimeMs, witness })
  t.same(again.problems, [])
  t.same(again.heights, device.heights, 'and it remembers')
})
