import { join } from 'node:path'
import t from 'tap'
import type { Rollout } from '../../proto/gen/fleet.ts'
import { labFor, noLab, signedBundle } from './lab-under-test.ts'

const fixtures = join(import.meta.dirname, '../fixtures/services')

/** Bad releases of telemetry; `silent`: the client must not notice. */
const BAD = [
  { folder: 'telemetry-throws-at-start', version: '1.1.1', what: 'throws at start', silent: true },
  { folder: 'telemetry-hangs-at-start', version: '1.1.2', what: 'hangs at start', silent: true },
  { folder: 'telemetry-unhealthy-after-3s', version: '1.1.3', what: 'turns unhealthy 3 s after it went live', silent: false },
] as const

t.test('a bad release is undone by the device itself and stops its rollout at the canary', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const lab = await labFor(t, { devices: 2, local: true })
  for (const { folder, version, what, silent } of BAD) {
    await t.test(`a telemetry that ${what}`, async (t) => {
      await lab.client.putBundle(await signedBundle(lab, join(fixtures, folder), version))
      const before = { ...lab.observer.last.devices['sw1'] }
      let last: Rollout | null = null
      for await (const rollout of lab.client.rollOut({ service: 'telemetry', version, bakeMs: 8_000, deviceIds: ['sw1', 'sw2'] }, lab.signal)) last = rollout
      t.equal(last?.state, 'stopped', last?.reason ?? '')
      t.match(
        last?.devices.map((one) => [one.deviceId, one.canary, one.state]),
        [
          ['sw1', true, /reverted|failed/],
          ['sw2', false, 'skipped'],
        ],
      )
      t.equal(last?.devices[0]?.error, 'SWAP_ROLLED_BACK')
      const after = await lab.observer.next(lab.signal)
      for (const id of ['sw1', 'sw2']) t.equal(after.devices[id]?.look?.services['telemetry'], '1.0.0', `${id} runs what it ran before`)
      t.ok((after.devices['sw1']?.calls ?? 0) > (before.calls ?? 0), 'and answers')
      if (silent) t.equal(after.devices['sw1']?.failed, before.failed, 'no call failed')
      t.equal(after.devices['sw1']?.duplicates, before.duplicates, 'no number was given out twice')
    })
  }
})
