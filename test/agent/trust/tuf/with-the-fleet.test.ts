/** Both sides as they ship: the repository that `offbox trust` keeps, and the trust of a device. */
import t from 'tap'
import { requireTargetFile, TufTrust } from '../../../../agent/trust/tuf/tuf-trust.ts'
import { AtomicFiles } from '../../../../agent/store/atomic.ts'
import { makePush } from '../../../../fleet/trust/make-push.ts'
import { publish } from '../../../../fleet/trust/publish.ts'
import { delegate, revoke, rotate } from '../../../../fleet/trust/trust.ts'
import { FakeClock } from '../../../fakes/clock.ts'
import { FakeFileSystem } from '../../../fakes/file-system.ts'
import { firstRoot, testTrust } from '../../../fleet/trust/fixtures.ts'
import { FLEET } from './device.ts'

t.test('a device follows what the fleet publishes, rotates and revokes, and takes the time from its timestamps', { timeout: 250_000 }, async (t) => {
  const bornMs = Date.now()
  const fleet = await testTrust({ nowMs: bornMs })
  t.teardown(() => fleet.remove())
  const { anchors } = fleet
  await delegate(fleet.context(), 'telemetry')
  await publish(fleet.context(), [fleet.bundle('telemetry', '1.0.0')], { anchors })
  const trust = await TufTrust.open({
    files: new AtomicFiles(new FakeFileSystem()),
    stateDir: '/state',
    fleet: FLEET,
    anchor: firstRoot(await fleet.read()),
    clock: new FakeClock(),
    buildTimeMs: bornMs - 1000,
    witness: { keys: new Map(), need: 'never' },
  })
  const update = async (version: string) => {
    const { push } = makePush(await fleet.read(), { rootVersion: trust.heights?.root ?? 0, services: ['telemetry'] })
    return await trust.update(push, [`services/telemetry/${version}.offbox`])
  }
  const [target] = await update('1.0.0')
  if (target) requireTargetFile(target, fleet.bundle('telemetry', '1.0.0'))
  t.match(target, { role: 'service-telemetry', custom: { service: 'telemetry', version: '1.0.0', manifestSha256: /^[0-9a-f]{64}$/ } })
  t.equal(trust.time.nowMs(), Math.floor(bornMs / 1000) * 1000)
  const old = makePush(await fleet.read(), { rootVersion: 0, services: ['telemetry'] }).push
  for (const role of ['root', 'timestamp', 'snapshot', 'service-telemetry']) await rotate(fleet.context(), role)
  await publish(fleet.context(), [fleet.bundle('telemetry', '1.1.0')], { anchors })
  t.equal((await update('1.1.0'))[0]?.path, 'services/telemetry/1.1.0.offbox')
  await t.rejects(trust.update(old, ['services/telemetry/1.0.0.offbox']), /TRUST_|signed|older/)
  await revoke(fleet.context(), 'services/telemetry/1.0.0.offbox')
  await t.rejects(update('1.0.0'), { code: 'TRUST_UNLISTED' })
})
