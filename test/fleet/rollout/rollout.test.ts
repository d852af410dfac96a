import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { FleetMethods, type Rollout } from '../../../proto/gen/fleet.ts'
import type { FakeDevice } from '../../fakes/device.ts'
import { type TestFleet, testFleet, until } from '../harness.ts'

// Two of the tests wait for limits of the product itself (ATTEMPT_LIMITS).
t.setTimeout(240_000)

/** Three devices that run telemetry 1.0.0; 1.1.0 is in the registry. */
async function withFleet(run: (fleet: TestFleet, devices: FakeDevice[]) => Promise<void>): Promise<void> {
  const fleet = await testFleet()
  try {
    await fleet.push('telemetry', '1.0.0')
    await fleet.push('telemetry', '1.1.0')
    const devices: FakeDevice[] = []
    for (const id of ['sw1', 'sw2', 'sw3']) {
      const device = await fleet.device(id)
      await fleet.desire(id, { telemetry: '1.0.0' })
      devices.push(device)
    }
    for (const device of devices)
      await until(
        'it runs 1.0.0',
        async () => device.services.get('telemetry')?.change,
        (change) => change === null,
      )
    for (const device of devices) device.orders.length = 0
    await run(fleet, devices)
  } finally {
    await fleet.close()
  }
}

const states = (rollout: Rollout) => rollout.devices.map((device) => `${device.deviceId} ${device.state}${device.error ? ` ${device.error}` : ''}`)
const desired = async (fleet: TestFleet, id: string) => (await fleet.get(id)).desired?.services.map((one) => one.version)

t.test('a rollout upgrades the canary, then the rest one by one, and makes the version the desired one', async (t) => {
  await withFleet(async (fleet, devices) => {
    const started = await fleet.rollout({ version: '1.1.0', canary: 'sw2' })
    t.equal(started.rolloutId, 'r-0001')
    const seen: string[] = []
    let last: Rollout | undefined
    for await (const rollout of fleet.client.serverStream(FleetMethods.WatchRollout, { rolloutId: '' })) {
      const busy = rollout.devices.filter((one) => ['upgrading', 'baking', 'confirming'].includes(one.state))
      t.ok(busy.length <= 1, 'one device at a time')
      for (const one of rollout.devices) if (one.state === 'done' && !seen.includes(one.deviceId)) seen.push(one.deviceId)
      last = rollout
    }
    t.same(seen, ['sw2', 'sw1', 'sw3'])
    t.equal(last?.state, 'succeeded')
    t.ok(last?.devices.every((one) => one.fromVersion === '1.0.0' && one.attempt === 1 && one.heldMs > 0 && one.changeId !== ''))
    for (const { evidence } of last?.devices ?? []) {
      t.match(evidence, { healthBefore: 'healthy', health: 'healthy' }, 'what the gate saw stays with its decision')
      t.ok((evidence?.liveMs ?? 0) >= 200 && (evidence?.atMs ?? 0) > 0, JSON.stringify(evidence))
    }
    for (const device of devices) t.same(device.orders, ['Upgrade telemetry 1.1.0 (rollout r-0001 attempt 1)', 'Confirm telemetry 1.1.0'])
    t.same(await desired(fleet, 'sw3'), ['1.1.0'])
    t.match((await fleet.get('sw3')).desiredBy, { telemetry: { principal: /^spiffe:\/\/lab\/operator\// } }, 'whoever started it wants it so')
  })
})

t.test('a version whose range does not hold on the canary stops the rollout there, with the range', async (t) => {
  await withFleet(async (fleet, [canary, second]) => {
    canary?.behaviours.set('telemetry@1.1.0', { kind: 'requires', service: 'nowhere' })
    await fleet.rollout({ version: '1.1.0' })
    const ended = await fleet.ended('')
    t.equal(ended.state, 'stopped')
    t.same(states(ended), ['sw1 failed DEPENDENCY_UNSATISFIED', 'sw2 skipped', 'sw3 skipped'])
    t.match(ended.reason, /stopped at the canary sw1 .*telemetry 1\.1\.0 requires test\.nowhere \^1\.0\.0; nothing here provides it/)
    t.same(second?.orders, [])
    t.same(await desired(fleet, 'sw1'), ['1.0.0'])
  })
})

t.test('a version that does not start on the canary stops the rollout there', async (t) => {
  await withFleet(async (fleet, [canary, second, third]) => {
    canary?.behaviours.set('telemetry@1.1.0', { kind: 'throwsAtStart' })
    await fleet.rollout({ version: '1.1.0' })
    const ended = await fleet.ended('')
    t.equal(ended.state, 'stopped')
    t.same(states(ended), ['sw1 reverted SWAP_ROLLED_BACK', 'sw2 skipped', 'sw3 skipped'])
    t.match(ended.reason, /stopped at the canary sw1 \(reverted\), 0 of 3 done: SWAP_ROLLED_BACK: .*did not start/)
    t.equal((second?.orders.length ?? 0) + (third?.orders.length ?? 0), 0, 'nobody else was touched')
    t.same(await desired(fleet, 'sw1'), ['1.0.0'])
    t.equal((await fleet.phase('sw1', 'in-sync')).phase, 'in-sync', 'the version before is still what is desired')
  })
})

t.test('a version that turns unhealthy during its bake is reverted by the device, and the rollout says why', async (t) => {
  await withFleet(async (fleet, [canary]) => {
    canary?.behaviours.set('telemetry@1.1.0', { kind: 'unhealthyAfter', ms: 300 })
    await fleet.rollout({ version: '1.1.0', bakeMs: 5_000, confirmTimeoutMs: 20_000 })
    const ended = await fleet.ended('')
    t.equal(ended.state, 'stopped')
    t.same(states(ended), ['sw1 reverted SWAP_ROLLED_BACK', 'sw2 skipped', 'sw3 skipped'])
    t.match(ended.reason, /1\.1\.0 turned unhealthy/)
    t.equal(canary?.services.get('telemetry')?.version, '1.0.0')
  })
})

t.test('a version that is worse than the one before is taken back before the device’s deadline', async (t) => {
  await withFleet(async (fleet, [canary]) => {
    canary?.behaviours.set('telemetry@1.1.0', { kind: 'degraded' })
    await fleet.rollout({ version: '1.1.0', bakeMs: 100, confirmTimeoutMs: 5_100 })
    const ended = await fleet.ended('')
    t.same(states(ended), ['sw1 reverted SWAP_ROLLED_BACK', 'sw2 skipped', 'sw3 skipped'])
    t.match(ended.reason, /1\.1\.0 is degraded, the version before was healthy/)
    t.equal(canary?.services.get('telemetry')?.version, '1.0.0')
  })
})

t.test('a device that is down before it is touched fails, and stops the rollout', async (t) => {
  await withFleet(async (fleet, [, second]) => {
    await second?.unplug()
    await fleet.rollout({ version: '1.1.0' })
    const ended = await fleet.ended('')
    t.equal(ended.state, 'stopped')
    t.same(states(ended), ['sw1 done', 'sw2 failed DEVICE_UNREACHABLE', 'sw3 skipped'])
    t.match(ended.devices[1]?.reason, /not reachable, and not touched/)
  })
})

t.test('a connection that breaks after the version went live does not make a second upgrade', async (t) => {
  await withFleet(async (fleet, [canary]) => {
    canary?.behaviours.set('telemetry@1.1.0', { kind: 'cutsConnection' })
    await fleet.rollout({ version: '1.1.0' })
    const ended = await fleet.ended('')
    t.equal(ended.state, 'succeeded', ended.reason)
    t.equal(canary?.orders.filter((order) => order.startsWith('Upgrade')).length, 1)
  })
})

t.test('a controller that restarts during a bake goes on where it was', async (t) => {
  await withFleet(async (fleet, devices) => {
    await fleet.rollout({ version: '1.1.0', bakeMs: 2_000, confirmTimeoutMs: 30_000 })
    const look = async () => await fleet.client.unary(FleetMethods.GetRollout, {})
    await until('the canary bakes', look, (rollout) => rollout.devices[0]?.state === 'baking')
    await fleet.restart()
    const ended = await fleet.ended('r-0001')
    t.equal(ended.state, 'succeeded', ended.reason)
    for (const device of devices) t.equal(device.orders.filter((order) => order.startsWith('Upgrade')).length, 1, 'no step was repeated')
  })
})

t.test('a controller that dies during the upload finds its own change again', async (t) => {
  await withFleet(async (fleet, devices) => {
    devices[0]?.behaviours.set('telemetry@1.1.0', { kind: 'slow', ms: 1_500 })
    await fleet.rollout({ version: '1.1.0', confirmTimeoutMs: 30_000 })
    await until(
      'the order has arrived',
      async () => devices[0]?.orders ?? [],
      (orders) => orders.length > 0,
    )
    await fleet.restart()
    const ended = await fleet.ended('r-0001')
    t.equal(ended.state, 'succeeded', ended.reason)
    t.equal(devices[0]?.services.get('telemetry')?.version, '1.1.0')
    for (const device of devices.slice(1)) t.equal(device.orders.filter((order) => order.startsWith('Upgrade')).length, 1)
  })
})

t.test('an abort takes back the device under way and touches no other', async (t) => {
  await withFleet(async (fleet, [canary, second]) => {
    await fleet.rollout({ version: '1.1.0', bakeMs: 60_000, confirmTimeoutMs: 90_000 })
    const look = async () => await fleet.client.unary(FleetMethods.GetRollout, {})
    await until('the canary bakes', look, (rollout) => rollout.devices[0]?.state === 'baking')
    const ended = await fleet.client.unary(FleetMethods.AbortRollout, { reason: 'changed my mind' }, { deadlineMs: 60_000 })
    t.equal(ended.state, 'aborted')
    t.match(ended.reason, /aborted by spiffe:\/\/lab\/operator\/admin: changed my mind/)
    t.same(states(ended), ['sw1 reverted', 'sw2 skipped', 'sw3 skipped'])
    t.equal(canary?.services.get('telemetry')?.version, '1.0.0')
    t.equal(second?.orders.length, 0)
    t.equal((await fleet.client.unary(FleetMethods.AbortRollout, {})).state, 'aborted', 'again answers the same')
  })
})

t.test('an abort ends in bounded time when the device under way is gone', async (t) => {
  await withFleet(async (fleet, [canary]) => {
    await fleet.rollout({ version: '1.1.0', bakeMs: 60_000, confirmTimeoutMs: 90_000 })
    const look = async () => await fleet.client.unary(FleetMethods.GetRollout, {})
    await until('the canary bakes', look, (rollout) => rollout.devices[0]?.state === 'baking')
    await canary?.unplug()
    const ended = await fleet.client.unary(FleetMethods.AbortRollout, {}, { deadlineMs: 90_000 })
    t.equal(ended.state, 'aborted')
    t.same(states(ended), ['sw1 failed DEVICE_UNREACHABLE', 'sw2 skipped', 'sw3 skipped'])
    t.match(ended.devices[0]?.reason, /does so by itself/)
  })
})

t.test('a device that boots anew during its bake ends the rollout, and gets its desired version back', async (t) => {
  await withFleet(async (fleet, [canary]) => {
    await fleet.rollout({ version: '1.1.0', bakeMs: 30_000, confirmTimeoutMs: 60_000 })
    const look = async () => await fleet.client.unary(FleetMethods.GetRollout, {})
    await until('the canary bakes', look, (rollout) => rollout.devices[0]?.state === 'baking')
    await canary?.powerOff()
    await canary?.powerOn()
    const ended = await fleet.ended('')
    t.equal(ended.devices[0]?.state, 'reverted', ended.reason)
    await until(
      'it runs what is desired',
      async () => canary?.services.get('telemetry'),
      (one) => one?.version === '1.0.0' && one.change === null,
    )
    t.equal((await fleet.get('sw1')).reason.includes('failed on this device'), false, 'the version is not blamed for a power cut')
  })
})

t.test('a bundle that vanishes from the registry fails the device, with nothing touched', async (t) => {
  await withFleet(async (fleet, [canary]) => {
    await canary?.unplug()
    await fleet.rollout({ version: '1.1.0' })
    await rm(join(fleet.home.registry, 'telemetry/1.1.0.offbox'))
    await canary?.powerOn()
    const ended = await fleet.ended('')
    t.same(states(ended), ['sw1 failed BUNDLE_NOT_FOUND', 'sw2 skipped', 'sw3 skipped'])
    t.equal(canary?.services.get('telemetry')?.version, '1.0.0')
  })
})

t.test('what cannot be rolled out is refused before anything begins', async (t) => {
  await withFleet(async (fleet) => {
    await t.rejects(fleet.rollout({ version: '9.9.9' }), { code: 'BUNDLE_NOT_FOUND' })
    await t.rejects(fleet.rollout({ version: '../../x' }), { code: 'BUNDLE_NOT_FOUND' })
    await t.rejects(fleet.rollout({ version: '1.1.0', service: 'Tele metry' }), { code: 'ARGUMENT_INVALID' })
    await t.rejects(fleet.rollout({ version: '1.1.0', deviceIds: ['sw9'] }), { code: 'DEVICE_NOT_FOUND' })
    await t.rejects(fleet.rollout({ version: '1.1.0', canary: 'sw9' }), { code: 'ARGUMENT_INVALID' })
    await t.rejects(fleet.rollout({ version: '1.1.0', bakeMs: 10_000, confirmTimeoutMs: 10_000 }), { code: 'ARGUMENT_INVALID' })
    await t.rejects(fleet.client.unary(FleetMethods.GetRollout, { rolloutId: 'r-0099' }), { code: 'ROLLOUT_NOT_FOUND' })
    await fleet.rollout({ version: '1.1.0', bakeMs: 2_000, confirmTimeoutMs: 60_000 })
    await t.rejects(fleet.rollout({ version: '1.1.0' }), { code: 'ROLLOUT_ACTIVE' })
    await fleet.client.unary(FleetMethods.AbortRollout, {}, { deadlineMs: 60_000 })
  })
})
