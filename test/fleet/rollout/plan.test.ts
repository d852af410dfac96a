import t from 'tap'
import { nextStep, opening, skipRest } from '../../../fleet/rollout/plan.ts'
import { DEVICE_STATES, type DeviceState, newDevice, type Rollout, type RolloutDevice } from '../../../fleet/rollout/state.ts'

function rollout(states: readonly DeviceState[], state: Rollout['state'] = 'running'): Rollout {
  const devices = states.map((one, index): RolloutDevice => ({ ...newDevice(`sw${index + 1}`, index === 0, ''), state: one }))
  const facts = { service: 'telemetry', version: '1.1.0', startedAtMs: 1, endedAtMs: 0, bakeMs: 1, confirmTimeoutMs: 6_000, allowDowngrade: false, author: 'x' }
  return { schema: 1, rolloutId: 'r-0001', state, reason: 'running', devices, ...facts }
}

/** All ways in which `count` devices can stand. */
function* combinations(count: number): Generator<DeviceState[]> {
  if (count === 0) yield []
  else for (const rest of combinations(count - 1)) for (const state of DEVICE_STATES) yield [...rest, state]
}

t.test('at most one device is in flight, and nobody new is touched after a failure or an abort', async (t) => {
  for (const states of combinations(3)) {
    for (const state of ['running', 'aborting'] as const) {
      const step = nextStep(rollout(states, state))
      const busy = states.some((one) => ['upgrading', 'baking', 'confirming'].includes(one))
      const failed = states.some((one) => ['reverted', 'failed'].includes(one))
      if (step.do === 'end') {
        t.notOk(busy, 'it does not end with a device in flight')
        if (step.state === 'succeeded') t.ok(states.every((one) => one === 'done' || one === 'skipped') && state === 'running')
        continue
      }
      const device = states[Number(step.deviceId.slice(2)) - 1]
      if (device === 'pending') t.notOk(busy || failed || state === 'aborting', `${states} ${state}`)
      if (state === 'aborting') t.equal(step.do, 'undo')
    }
  }
})

t.test('every rollout ends, whatever becomes of its devices', async (t) => {
  for (const outcome of ['done', 'reverted', 'failed'] as const) {
    let now = rollout(['pending', 'pending', 'pending'])
    let steps = 0
    for (let step = nextStep(now); step.do !== 'end'; step = nextStep(now)) {
      const { deviceId } = step
      now = { ...now, devices: now.devices.map((one) => (one.deviceId === deviceId ? { ...one, state: outcome } : one)) }
      t.ok(++steps <= 3)
    }
    t.equal(steps, outcome === 'done' ? 3 : 1)
  }
})

t.test('the reason of a stop names the device, the error and what to do', async (t) => {
  const stopped = rollout(['reverted', 'pending'])
  const devices = stopped.devices.with(0, { ...newDevice('sw1', true, 'did not start'), state: 'reverted', error: 'SWAP_ROLLED_BACK' })
  const step = nextStep({ ...stopped, devices })
  t.match(step, { do: 'end', state: 'stopped', reason: /canary sw1 \(reverted\), 0 of 2 done: SWAP_ROLLED_BACK: did not start\. .*raise its version/ })
  t.same(
    skipRest(stopped, 5).map((one) => one.state),
    ['reverted', 'skipped'],
  )
})

t.test('the first look decides what an attempt has to do', async (t) => {
  const tag = 'rollout r-0001 attempt 1'
  const change = (over: object) => ({ id: 'c-1', to: '1.1.0', reason: tag, state: 'provisional', ...over })
  // biome-ignore format: a table
  const cases: [string, Parameters<typeof opening>[0]['seen'], string][] = [
    ['', null, 'fail'],
    ['', { version: '1.0.0', change: null }, 'upgrade'],
    ['', { version: '1.1.0', change: null }, 'done'],
    [tag, { version: '1.1.0', change: change({}) }, 'resume'],
    [tag, { version: '1.0.0', change: change({ state: 'pending' }) }, 'wait'],
    [tag, { version: '1.1.0', change: change({ reason: 'rollout r-0001 attempt 2' }) }, 'wait'],
    ['', { version: '1.1.0', change: change({ reason: '' }) }, 'wait'],
    [tag, { version: '1.0.0', change: change({ state: 'reverted' }) }, 'upgrade'],
    [tag, { version: '1.1.0', change: change({ state: 'confirmed' }) }, 'done'],
  ]
  for (const [ours, seen, verdict] of cases) t.equal(opening({ version: '1.1.0', tag: ours, seen }).do, verdict, JSON.stringify(seen))
})
