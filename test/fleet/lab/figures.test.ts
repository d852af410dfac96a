import t from 'tap'
import { complaints, figuresOf } from '../../../fleet/lab/figures.ts'
import type { Observation } from '../../../fleet/lab/observer.ts'

const expected = { devices: 2, services: 2, service: 'telemetry', fromVersion: '1.0.0', toVersion: '1.1.0' }

function good(): Observation {
  const device = (peer: string) => ({
    calls: 200,
    failed: 0,
    duplicates: 0,
    gaps: 0,
    byVersion: { '1.0.0': 100, '1.1.0': 100 },
    highest: 200,
    lastError: '',
    look: { services: { routing: '1.0.0', telemetry: '1.1.0' }, sessions: { [peer]: 1 }, routesLearned: 1, error: '' },
  })
  return { final: true, devices: { sw1: device('sw2'), sw2: device('sw1') } }
}

const judge = (observed: Observation) => complaints(observed, figuresOf('local', observed, expected, 1), expected)

t.test('a run in which all went well has no complaint', async (t) => {
  t.same(judge(good()), [])
  t.match(figuresOf('local', good(), expected, 1.4), { devices: 2, services: 2, upgraded: 2, calls: 400, bgpSessionEnds: 2, routesLearned: 2, seconds: 1 })
})

t.test('each thing that can go wrong is complained of', async (t) => {
  const spoil: Record<string, (observed: Observation) => void> = {
    'a failed call': (o) => Object.assign(o.devices['sw1'] as object, { failed: 1 }),
    'a number given out twice': (o) => Object.assign(o.devices['sw1'] as object, { duplicates: 1 }),
    'a number given to nobody': (o) => Object.assign(o.devices['sw2'] as object, { gaps: 1 }),
    'a device that never answered from the old version': (o) => Object.assign(o.devices['sw1'] as object, { byVersion: { '1.1.0': 200 } }),
    'a device that was not upgraded': (o) => Object.assign(o.devices['sw1']?.look?.services as object, { telemetry: '1.0.0' }),
    'a service that runs on one device only': (o) => delete o.devices['sw1']?.look?.services['routing'],
    'a session that is down at one end': (o) => delete o.devices['sw1']?.look?.sessions['sw2'],
    'a session without a route': (o) => Object.assign(o.devices['sw1']?.look?.sessions as object, { sw2: 0 }),
    'too few calls': (o) => Object.assign(o.devices['sw1'] as object, { calls: 10 }),
    'a look that failed': (o) => Object.assign(o.devices['sw1']?.look as object, { error: 'gone' }),
  }
  for (const [what, change] of Object.entries(spoil)) {
    const observed = good()
    change(observed)
    t.not(judge(observed).length, 0, what)
  }
})
