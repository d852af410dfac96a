import t from 'tap'
import { confirmMarginMs, type GateInput, judge, lostAfterMs, type Seen, seenOf } from '../../../fleet/device/gate.ts'

import { Change, ChangeState, ServiceStatus } from '../../../proto/gen/lifecycle.ts'

const seen = (over: Partial<Seen> = {}): Seen => ({
  version: '1.1.0',
  health: 'healthy',
  healthReason: '',
  change: { state: 'provisional', reason: 'rollout r-0001 attempt 1', error: '' },
  ...over,
})
const input = (over: Partial<GateInput> = {}): GateInput => ({
  version: '1.1.0',
  seen: seen(),
  healthBefore: 'healthy',
  elapsedMs: 5_000,
  bakeMs: 10_000,
  confirmTimeoutMs: 60_000,
  ...over,
})

// biome-ignore format: a table
const CASES: readonly [claim: string, over: Partial<GateInput>, verdict: string][] = [
  ['a healthy version waits for its bake',                  {},                                                                     'wait'],
  ['a healthy version is confirmed after its bake',         { elapsedMs: 10_000 },                                                  'confirm'],
  ['without a bake it is confirmed at once',                { elapsedMs: 0, bakeMs: 0 },                                            'confirm'],
  ['an unhealthy version is taken back during its bake',    { seen: seen({ health: 'unhealthy' }) },                                'revert'],
  ['a degraded version waits as long as it may',            { elapsedMs: 20_000, seen: seen({ health: 'degraded' }) },              'wait'],
  ['a degraded version is taken back before the deadline',  { elapsedMs: 60_000 - confirmMarginMs, seen: seen({ health: 'degraded' }) }, 'revert'],
  ['degraded as before is good enough',                     { elapsedMs: 10_000, healthBefore: 'degraded', seen: seen({ health: 'degraded' }) }, 'confirm'],
  ['degraded is good enough for a first install',           { elapsedMs: 10_000, healthBefore: 'unknown', seen: seen({ health: 'degraded' }) }, 'confirm'],
  ['a version that has not said how it is waits',           { elapsedMs: 10_000, seen: seen({ health: 'unknown' }) },               'wait'],
  ['a version that never says how it is is taken back',     { elapsedMs: 56_000, seen: seen({ health: 'unknown' }) },               'revert'],
  ['a failed look waits',                                   { seen: null, elapsedMs: 60_000 },                                      'wait'],
  ['a device that stays away is given up',                  { seen: null, elapsedMs: 60_001 + lostAfterMs },                        'lost'],
  ['a service that is gone was reverted',                   { seen: 'absent' },                                                     'reverted'],
  ['the version before means reverted',                     { seen: seen({ version: '1.0.0', change: null }) },                     'reverted'],
  ['a change that says so was reverted',                    { seen: seen({ change: { state: 'reverted', reason: 'x', error: '' } }) }, 'reverted'],
  ['a change that says so is confirmed',                    { seen: seen({ change: { state: 'confirmed', reason: '', error: '' } }) }, 'done'],
  ['the new version with no open change is confirmed',      { seen: seen({ change: null }) },                                       'done'],
]

for (const [claim, over, verdict] of CASES) t.test(claim, async (t) => t.equal(judge(input(over)).do, verdict))

t.test('whatever is seen, every wait ends: a device seen for ever in one state gets a final verdict', async (t) => {
  const everySeen: GateInput['seen'][] = [null, 'absent']
  for (const health of ['unknown', 'healthy', 'degraded', 'unhealthy'] as const) {
    for (const version of ['1.0.0', '1.1.0']) {
      everySeen.push(seen({ health, version, change: null }))
      for (const state of ['pending', 'provisional', 'confirmed', 'reverted'] as const)
        everySeen.push(seen({ health, version, change: { state, reason: '', error: '' } }))
    }
  }
  for (const one of everySeen) {
    for (const bakeMs of [0, 1_000, 50_000]) {
      const verdict = judge(input({ seen: one, bakeMs, elapsedMs: 60_001 + lostAfterMs }))
      t.not(verdict.do, 'wait', JSON.stringify({ one, bakeMs }))
    }
  }
})

t.test('another open change of the service does not pass for a confirmed one', async (t) => {
  const change = Change.decode(Change.encode({ id: 'c-2', kind: 'config', service: 'routing', to: 'abc', state: ChangeState.PROVISIONAL }))
  const status = ServiceStatus.decode(ServiceStatus.encode({ service: 'routing', version: '1.1.0', health: { status: 1 }, change }))
  t.equal(judge(input({ seen: seenOf(status, 'c-1') })).do, 'wait')
  t.equal(judge(input({ seen: seenOf(status, 'c-1'), elapsedMs: 10_000 })).do, 'confirm')
  t.equal(judge(input({ seen: seenOf({ ...status, change: null }, 'c-1') })).do, 'done')
  t.equal(seenOf(null, 'c-1'), 'absent')
})
