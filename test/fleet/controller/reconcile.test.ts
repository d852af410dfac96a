import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { RoutingConfig } from '../../../proto/gen/routing.ts'
import { type TestFleet, testFleet, until } from '../harness.ts'

async function withFleet(run: (fleet: TestFleet) => Promise<void>): Promise<void> {
  const fleet = await testFleet()
  try {
    await run(fleet)
  } finally {
    await fleet.close()
  }
}

t.test('a device that enrols is given its services and its routing, each confirmed over a fresh connection', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('routing', '1.0.0')
    await fleet.push('telemetry', '1.0.0')
    const device = await fleet.device('sw1')
    await fleet.phase('sw1', 'in-sync')
    await fleet.desire('sw1', { routing: '1.0.0', telemetry: '1.0.0' }, RoutingConfig.encode({ routerId: '10.0.0.1', localAs: 65001 }))
    await until(
      'routing is confirmed',
      async () => device.orders,
      (orders) => orders.includes('Confirm routing config'),
    )
    const seen = await fleet.phase('sw1', 'in-sync')
    t.ok(seen.inSyncAtMs > 0)
    t.same(device.orders, [
      'Install routing 1.0.0 (desired state of sw1)',
      'Confirm routing 1.0.0',
      'Install telemetry 1.0.0 (desired state of sw1)',
      'Confirm telemetry 1.0.0',
      'SetConfig',
      'Confirm routing config',
    ])
  })
})

t.test('a diskless device that boots again is supplied again with nobody’s help, also by a controller that restarted', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('telemetry', '1.0.0')
    const device = await fleet.device('sw1')
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    await until(
      'it runs',
      async () => device.services.get('telemetry')?.change,
      (change) => change === null,
    )
    await device.powerOff()
    await fleet.restart()
    t.equal((await fleet.phase('sw1', 'unknown')).phase, 'unknown', 'what cannot be seen is not in sync')
    await device.powerOn()
    await until(
      'it runs again',
      async () => device.services.get('telemetry')?.change,
      (change) => change === null,
    )
    t.equal((await fleet.phase('sw1', 'in-sync')).enrolments, 2)
  })
})

t.test('services are supplied in the order in which they depend on one another, whatever the order of the list', async (t) => {
  await withFleet(async (fleet) => {
    for (const service of ['telemetry', 'routing', 'secrets']) await fleet.push(service, '1.0.0')
    const device = await fleet.device('sw1')
    device.behaviours.set('telemetry@1.0.0', { kind: 'requires', service: 'routing' })
    device.behaviours.set('routing@1.0.0', { kind: 'requires', service: 'secrets' })
    await fleet.desire('sw1', { telemetry: '1.0.0', routing: '1.0.0', secrets: '1.0.0' })
    await until(
      'all run',
      async () => [...device.services.values()].filter(({ change }) => change === null).length,
      (count) => count === 3,
    )
    await fleet.phase('sw1', 'in-sync')
    t.same(
      device.orders.filter((order) => order.startsWith('Confirm')),
      ['Confirm secrets 1.0.0', 'Confirm routing 1.0.0', 'Confirm telemetry 1.0.0'],
    )
  })
})

t.test('a range that nothing satisfies is shown, and keeps no other service from the device', async (t) => {
  await withFleet(async (fleet) => {
    for (const service of ['telemetry', 'routing']) await fleet.push(service, '1.0.0')
    const device = await fleet.device('sw1')
    device.behaviours.set('telemetry@1.0.0', { kind: 'requires', service: 'nowhere' })
    await fleet.desire('sw1', { telemetry: '1.0.0', routing: '1.0.0' })
    const { reason } = await fleet.phase('sw1', 'failed')
    t.match(reason, /telemetry 1\.0\.0 requires test\.nowhere \^1\.0\.0; nothing here provides it/)
    t.equal(device.services.get('routing')?.version, '1.0.0')
  })
})

t.test('a version that did not start here is not tried again until it is asked for anew', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('telemetry', '1.0.0')
    const device = await fleet.device('sw1')
    device.behaviours.set('telemetry@1.0.0', { kind: 'throwsAtStart' })
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    const failed = await fleet.phase('sw1', 'failed')
    t.match(failed.reason, /failed on this device and is not tried again unasked.*SWAP_ROLLED_BACK/)
    await device.powerOff()
    await device.powerOn()
    await until(
      'it was looked at again',
      async () => await fleet.get('sw1'),
      (seen) => seen.enrolments === 2 && seen.phase === 'failed',
    )
    t.equal(device.orders.length, 1, 'one attempt in all')
    device.behaviours.clear()
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    await fleet.phase('sw1', 'in-sync')
    t.equal(device.services.get('telemetry')?.version, '1.0.0')
  })
})

t.test('what trying again cannot mend is shown as failed, and taken up again once it is mended', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('telemetry', '1.0.0')
    const device = await fleet.device('sw1')
    await device.powerOff()
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    const file = join(fleet.home.registry, 'telemetry/1.0.0.offbox')
    await rename(file, `${file}.aside`)
    await device.powerOn()
    const failed = await fleet.phase('sw1', 'failed')
    t.match(failed.reason, /BUNDLE_NOT_FOUND/)
    await rename(`${file}.aside`, file)
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    await fleet.phase('sw1', 'in-sync')
  })
})

t.test('one dead device does not keep another from its services', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('telemetry', '1.0.0')
    const dead = await fleet.device('sw1')
    const alive = await fleet.device('sw2')
    await dead.unplug()
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    await fleet.desire('sw2', { telemetry: '1.0.0' })
    await until(
      'sw2 runs it',
      async () => alive.services.get('telemetry')?.change,
      (change) => change === null,
    )
    const seen = await fleet.phase('sw1', 'unknown')
    t.match(seen.reason, /last look failed: DEVICE_UNREACHABLE/)
  })
})

t.test('what ends by itself is looked at again soon', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('telemetry', '1.0.0')
    const device = await fleet.device('sw1')
    const change = {
      id: 'c-x',
      kind: 'upgrade',
      service: 'telemetry',
      from: '',
      to: '1.0.0',
      state: 3,
      reason: 'by hand',
      error: '',
      liveAtMs: 0,
      bakeMs: 0,
      timer: null,
      undo: () => {},
    }
    device.services.set('telemetry', { version: '1.0.0', previous: '', health: 1, reason: '', change })
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    const waiting = await until(
      'it waits',
      async () => await fleet.get('sw1'),
      (seen) => seen.reason.includes('not finished'),
    )
    t.equal(waiting.phase, 'reconciling')
    device.services.set('telemetry', { version: '1.0.0', previous: '', health: 1, reason: '', change: null })
    t.equal((await fleet.phase('sw1', 'in-sync')).reason, '')
  })
})

t.test('a service that is no longer desired is removed, one that never was is left alone', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('telemetry', '1.0.0')
    const device = await fleet.device('sw1')
    device.services.set('other', { version: '1.0.0', previous: '', health: 1, reason: '', change: null })
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    await until(
      'it runs',
      async () => device.services.get('telemetry')?.change,
      (change) => change === null,
    )
    await fleet.desire('sw1', {})
    await until(
      'it is gone',
      async () => device.services.has('telemetry'),
      (there) => !there,
    )
    t.ok(device.services.has('other'))
  })
})

t.test('a version that a device went back from by itself is not tried again there unasked, and is when asked', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.push('telemetry', '1.0.0')
    await fleet.push('telemetry', '1.1.0')
    const device = await fleet.device('sw1')
    await fleet.desire('sw1', { telemetry: '1.0.0' })
    const runs = async () => device.services.get('telemetry')
    await until('it runs', runs, (one) => one?.change === null)
    await fleet.desire('sw1', { telemetry: '1.1.0' })
    await until('it runs the new one', runs, (one) => one?.version === '1.1.0' && one.change === null)
    await fleet.phase('sw1', 'in-sync')
    const before = device.orders.length
    // As after an upgrade that was confirmed, crashed too often later, and gave way to the last good version.
    device.services.set('telemetry', { version: '1.0.0', previous: '', health: 1, reason: '', change: null, failed: [{ version: '1.1.0', atMs: 5 }] })
    // Looked at as it is after a restart or every so often: nobody has asked for anything.
    await fleet.restart()
    const stuck = await fleet.phase('sw1', 'failed')
    t.match(stuck.reason, /telemetry 1\.1\.0 failed on this device and is not tried again unasked.*crashed/)
    t.equal(device.orders.length, before)
    await fleet.desire('sw1', { telemetry: '1.1.0' })
    await until('it was asked for', runs, (one) => one?.version === '1.1.0')
  })
})

for (const looked of [true, false]) {
  t.test(`a version that failed in a rollout is ordered when somebody desires it, ${looked ? 'seen before' : 'seen only then'}`, async (t) => {
    await withFleet(async (fleet) => {
      await fleet.push('telemetry', '1.0.0')
      await fleet.push('telemetry', '1.1.0')
      const device = await fleet.device('sw1')
      await fleet.desire('sw1', { telemetry: '1.0.0' })
      const runs = async () => device.services.get('telemetry')
      await until('it runs', runs, (one) => one?.change === null)
      await fleet.phase('sw1', 'in-sync')
      device.behaviours.set('telemetry@1.1.0', { kind: 'throwsAtStart' })
      await fleet.rollout({ version: '1.1.0' })
      t.equal((await fleet.ended('')).state, 'stopped')
      device.behaviours.clear()
      // As a real device keeps it in the service's history.
      Object.assign(device.services.get('telemetry') ?? {}, { failed: [{ version: '1.1.0', atMs: 5 }] })
      if (looked) {
        await fleet.restart()
        await fleet.phase('sw1', 'in-sync')
      }
      const before = device.orders.length
      await fleet.desire('sw1', { telemetry: '1.1.0' })
      await until(
        'it is settled',
        async () => await fleet.get('sw1'),
        (seen) => seen.phase === 'failed' || device.orders.length > before,
      )
      t.match(device.orders[before], /^Upgrade telemetry 1\.1\.0 \(desired state of sw1\)/)
    })
  })
}
