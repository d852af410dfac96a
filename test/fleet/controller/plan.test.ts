import t from 'tap'
import { type ObservedService, type PlanInput, plan } from '../../../fleet/controller/plan.ts'

const running = (service: string, version: string, over: Partial<ObservedService> = {}): ObservedService => ({
  service,
  version,
  state: 'READY',
  health: 'healthy',
  healthReason: '',
  change: null,
  ...over,
})
const input = (over: Partial<PlanInput>): PlanInput => ({
  desired: [
    { service: 'routing', version: '1.0.0' },
    { service: 'telemetry', version: '1.1.0' },
  ],
  dismissed: [],
  routingWanted: false,
  observed: [running('routing', '1.0.0'), running('telemetry', '1.1.0')],
  rollouts: new Set(),
  failures: {},
  ...over,
})
const change = (over: object) => ({ id: 'c-1', to: '1.1.0', provisional: true, reason: 'desired state of sw1', ...over })

// biome-ignore format: a table
const CASES: readonly [claim: string, over: Partial<PlanInput>, step: unknown, waiting: number, stuck: number][] = [
  ['a device as desired needs nothing',             {}, null, 0, 0],
  ['an empty device gets the first service',        { observed: [] }, { do: 'install', service: 'routing', version: '1.0.0' }, 0, 0],
  ['a lower version is upgraded',                   { observed: [running('routing', '1.0.0'), running('telemetry', '1.0.0')] }, { do: 'upgrade', service: 'telemetry', version: '1.1.0' }, 0, 0],
  ['a higher version is never taken back unasked',  { observed: [running('routing', '1.0.0'), running('telemetry', '1.2.0')] }, null, 0, 1],
  ['a service in a rollout is left to it',          { observed: [running('routing', '1.0.0'), running('telemetry', '1.0.0')], rollouts: new Set(['telemetry']) }, null, 0, 0],
  ['a missing service comes back also in a rollout', { observed: [running('routing', '1.0.0')], rollouts: new Set(['telemetry']) }, { do: 'install', service: 'telemetry', version: '1.1.0' }, 0, 0],
  ['a version that failed here is not tried again', { observed: [running('routing', '1.0.0')], failures: { telemetry: { version: '1.1.0', reason: 'x', atMs: 1 } } }, null, 0, 1],
  ['a failed version does not block another one',   { observed: [running('routing', '1.0.0')], failures: { telemetry: { version: '1.0.0', reason: 'x', atMs: 1 } } }, { do: 'install', service: 'telemetry', version: '1.1.0' }, 0, 0],
  ['a stuck service does not hold up the next',     { observed: [], failures: { routing: { version: '1.0.0', reason: 'x', atMs: 1 } } }, { do: 'install', service: 'telemetry', version: '1.1.0' }, 0, 1],
  ['our own unconfirmed change is finished',        { observed: [running('routing', '1.0.0'), running('telemetry', '1.1.0', { change: change({}) })] }, { do: 'adopt', service: 'telemetry', version: '1.1.0', changeId: 'c-1' }, 0, 0],
  ['a change of somebody else is waited for',       { observed: [running('routing', '1.0.0'), running('telemetry', '1.1.0', { change: change({ reason: 'by hand' }) })] }, null, 1, 0],
  ['a service that starts is waited for',           { observed: [running('routing', '1.0.0'), running('telemetry', '1.1.0', { state: 'BACKOFF' })] }, null, 1, 0],
  ['a service that stays down needs somebody',      { observed: [running('routing', '1.0.0'), running('telemetry', '1.1.0', { state: 'FAILED' })] }, null, 0, 1],
  ['an unhealthy service is not in sync',           { observed: [running('routing', '1.0.0'), running('telemetry', '1.1.0', { health: 'unhealthy' })] }, null, 0, 1],
  ['a degraded one is',                             { observed: [running('routing', '1.0.0', { health: 'degraded' }), running('telemetry', '1.1.0')] }, null, 0, 0],
  ['routing is configured once it serves',          { routingWanted: true }, { do: 'setRouting' }, 0, 0],
  ['routing is not configured before it serves',    { routingWanted: true, observed: [running('routing', '1.0.0', { state: 'STARTING' }), running('telemetry', '1.1.0')] }, null, 2, 0],
  ['routing without its service needs somebody',    { routingWanted: true, desired: [], observed: [] }, null, 0, 1],
  ['what was dismissed is removed',                 { desired: [], dismissed: ['telemetry'] }, { do: 'remove', service: 'telemetry' }, 0, 0],
  ['what was dismissed and is desired again stays', { dismissed: ['telemetry'] }, null, 0, 0],
]

for (const [claim, over, step, waiting, stuck] of CASES) {
  t.test(claim, async (t) => {
    const made = plan(input(over))
    t.same(made.step, step)
    t.equal(made.waiting.length, waiting, made.waiting.join())
    t.equal(made.stuck.length, stuck, made.stuck.join())
  })
}

t.test('a plan that has nothing left to do is never wrong about a device that differs', async (t) => {
  for (const version of ['1.0.0', '1.1.0', '1.2.0']) {
    for (const state of ['READY', 'STARTING', 'FAILED']) {
      const made = plan(input({ observed: [running('routing', '1.0.0'), running('telemetry', version, { state })] }))
      const differs = version !== '1.1.0' || state !== 'READY'
      t.equal(made.step !== null || made.waiting.length + made.stuck.length > 0, differs, `${version} ${state}`)
    }
  }
})
