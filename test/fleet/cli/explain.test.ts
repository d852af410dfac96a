import t from 'tap'
import { SUPERVISOR_LIMITS } from '../../../agent/supervisor/limits.ts'
import { explain, explanationText, RESTARTS } from '../../../fleet/cli/explain.ts'
import { ChangeState, ServiceState, ServiceStatus, type ServiceStatusInit } from '../../../proto/gen/lifecycle.ts'

const nowMs = Date.UTC(2026, 0, 2, 3, 4, 5)
const at = (secondsAgo: number) => nowMs - secondsAgo * 1000
const { LOADED, STARTING, READY, QUIESCING, BACKOFF, STOPPED, FAILED } = ServiceState
const healthy = { status: 1, evidence: { sessionsUp: 2 } }

/** As it comes over the wire: every field is there. */
function status(over: ServiceStatusInit) {
  return ServiceStatus.decode(ServiceStatus.encode({ service: 'telemetry', version: '1.1.0', ...over }))
}
const move = (secondsAgo: number, from: number, to: number, event: string, reason = '') => ({ atMs: at(secondsAgo), from, to, event, version: '1.1.0', reason })
const crash = (secondsAgo: number, to: number = BACKOFF) => move(secondsAgo, READY, to, to === FAILED ? 'exitFinal' : 'exit', 'SERVICE_CRASHED: heap is full')
const change = (state: number, over: object = {}) => ({
  ...{ id: 'c-1', kind: 'upgrade', service: 'telemetry', from: '1.0.0', to: '1.1.0', state, author: 'spiffe://lab/operator/me', proposedAtMs: at(20) },
  ...(state === ChangeState.PROVISIONAL ? { provisionalAtMs: at(10), confirmDeadlineMs: at(-50) } : {}),
  ...over,
})

interface Row {
  readonly of: string
  readonly status: ServiceStatusInit
  /** Whole lines. */
  readonly says: readonly string[]
  readonly nextAtMs?: number
}

const TABLE: readonly Row[] = [
  {
    of: 'serving, with an open circuit',
    status: {
      state: READY,
      health: healthy,
      requires: { kernel: '^1.0.0', 'test.Back': '^1.2.0' },
      provides: { 'test.Front': '1.1.0' },
      circuits: [{ api: 'test.Back', service: 'back', state: 'open', failures: 5, retryAtMs: at(-4) }],
    },
    says: [
      '      its last 5 calls of test.Back, which back serves, failed: for a while they end at once (CIRCUIT_OPEN)',
      '      it requires kernel ^1.0.0, test.Back ^1.2.0 (back serves it)',
      '      it provides test.Front 1.1.0',
      'Next: the first call of test.Back after 2026-01-02T03:04:09Z is let through, and decides (in 4 s)',
    ],
    nextAtMs: at(-4),
  },
  {
    of: 'serving, while nothing serves what it calls',
    status: { state: READY, health: healthy, requires: { 'test.Back': '^1.2.0' }, circuits: [{ api: 'test.Back', state: 'closed' }] },
    says: ['      it requires test.Back ^1.2.0, which nothing on the device serves now: its calls of it fail'],
  },
  {
    of: 'serving, with a circuit that is being tried',
    status: {
      state: READY,
      health: healthy,
      requires: { 'test.Back': '^1.2.0' },
      circuits: [{ api: 'test.Back', service: 'back', state: 'half-open', failures: 5 }],
    },
    says: ['      one call of test.Back, which back serves, is under way to see whether it answers again; the others end at once (CIRCUIT_OPEN)'],
  },
  {
    of: 'serving from a process that could not be confined in full',
    status: { state: READY, health: healthy, tier: 'process', confinement: ['process', 'ses', 'pid namespace', 'no uid of its own: the agent is not root'] },
    says: ['      it runs in a process of its own, confined by ses, pid namespace; this device has no uid of its own: the agent is not root'],
  },
  {
    of: 'loaded',
    status: { state: LOADED },
    says: ['telemetry 1.1.0 is verified and stored, and has no worker yet', 'Next: its worker is started'],
  },
  {
    of: 'starting',
    status: { state: STARTING, history: [move(5, LOADED, STARTING, 'start')] },
    says: [
      'telemetry 1.1.0 is starting since 2026-01-02T03:04:00Z',
      'Why:  the last that happened, at 2026-01-02T03:04:00Z: 1.1.0 went from loaded to starting (start)',
      'Next: it serves, or its worker is ended and that counts as a crash, by 2026-01-02T03:04:30Z (in 25 s)',
    ],
    nextAtMs: at(-25),
  },
  {
    of: 'ready and healthy',
    status: { state: READY, health: healthy, history: [move(5, STARTING, READY, 'ready')] },
    says: [
      'telemetry 1.1.0 serves calls and is healthy',
      'Why:  it says of itself: healthy (sessionsUp 2)',
      '      the last that happened, at 2026-01-02T03:04:00Z: 1.1.0 went from starting to ready (ready)',
      'Next: nothing by itself: it goes on until it is changed or crashes',
    ],
  },
  {
    of: 'ready, not asked yet',
    status: { state: READY, health: { status: 0 } },
    says: ['telemetry 1.1.0 serves calls; its health is not known yet', 'Next: nothing by itself: it goes on until it is changed or crashes'],
  },
  {
    of: 'degraded',
    status: { state: READY, health: { status: 2, reason: 'BIRD does not answer', evidence: { birdAnswers: 0, samples: 7 } } },
    says: ['telemetry 1.1.0 serves calls, with less than it should', 'Why:  it says of itself: degraded, BIRD does not answer (birdAnswers 0, samples 7)'],
  },
  {
    of: 'unhealthy with evidence',
    status: { state: READY, health: { status: 3, reason: 'no session', evidence: { sessionsUp: 0 } } },
    says: [
      'telemetry 1.1.0 runs and is unhealthy: it does not do its work',
      'Why:  it says of itself: unhealthy, no session (sessionsUp 0)',
      'Next: nothing by itself: it goes on as it is, until it recovers or somebody changes it; the device replaces only provisional versions for their health',
    ],
  },
  {
    of: 'quiescing',
    status: { state: QUIESCING, history: [move(1, READY, QUIESCING, 'stop', 'removed')] },
    says: ['telemetry 1.1.0 is stopping since 2026-01-02T03:04:04Z', 'Next: it has stopped, or its worker is ended, by 2026-01-02T03:04:09Z (in 4 s)'],
    nextAtMs: at(-4),
  },
  {
    of: 'backoff after one crash',
    status: { state: BACKOFF, history: [crash(0)] },
    says: [
      'telemetry 1.1.0 crashed and waits since 2026-01-02T03:04:05Z before it is started again',
      'Why:  its last crash, at 2026-01-02T03:04:05Z: SERVICE_CRASHED: heap is full',
      'Next: its worker is started again by 2026-01-02T03:04:05Z (due now)',
      '      4 further crashes within 60 s would be forgiven, one more not',
    ],
    nextAtMs: nowMs + 200,
  },
  {
    of: 'backoff with the burst spent, and an older crash that is forgiven',
    status: { state: BACKOFF, history: [crash(90), crash(15), crash(12), crash(8), crash(5), crash(0)] },
    says: [
      'Why:  its last crash, at 2026-01-02T03:04:05Z: SERVICE_CRASHED: heap is full; 5 crashes in the 60 s up to then',
      'Next: its worker is started again by 2026-01-02T03:04:08Z (in 3 s)',
      '      one more crash within 60 s and it gives way to the last good version, or stays down where none is kept',
    ],
    nextAtMs: nowMs + 3_200,
  },
  {
    of: 'stopped',
    status: { state: STOPPED, history: [move(5, QUIESCING, STOPPED, 'exit', 'removed')] },
    says: ['telemetry 1.1.0 was stopped on purpose at 2026-01-02T03:04:00Z', 'Next: nothing by itself: it stays stopped until it is changed'],
  },
  {
    of: 'failed after crashes',
    status: { state: FAILED, history: [crash(6), crash(5), crash(4), crash(3), crash(2), crash(1, FAILED)] },
    says: [
      'telemetry 1.1.0 failed at 2026-01-02T03:04:04Z after 6 crashes',
      'Why:  its last crash, at 2026-01-02T03:04:04Z: SERVICE_CRASHED: heap is full; 6 crashes in the 60 s up to then',
      'Next: nothing by itself: it stays down until it is upgraded, removed or the device restarts; its log: offbox device logs DEVICE --service telemetry',
    ],
  },
  {
    of: 'failed without having run',
    status: { state: FAILED },
    says: [
      'telemetry 1.1.0 is stored on the device and does not run: it could not be started',
      'Why:  the device has no history of it: it has not run since the agent started',
    ],
  },
  {
    of: 'an upgrade that is recorded',
    status: { version: '1.0.0', state: READY, health: healthy, change: change(ChangeState.PROPOSED) },
    says: [
      'telemetry 1.0.0 serves calls and is healthy',
      '      the upgrade from 1.0.0 to 1.1.0 is recorded and has touched nothing yet; ordered by spiffe://lab/operator/me at 2026-01-02T03:03:45Z',
      'Next: the upgrade from 1.0.0 to 1.1.0 goes live, provisionally, or telemetry 1.0.0 goes on',
    ],
  },
  {
    of: 'an upgrade that is stored',
    status: { version: '1.0.0', state: READY, health: healthy, change: change(ChangeState.STAGED) },
    says: ['      the upgrade from 1.0.0 to 1.1.0 is verified and stored beside what runs; ordered by spiffe://lab/operator/me at 2026-01-02T03:03:45Z'],
  },
  {
    of: 'a provisional upgrade',
    status: { state: READY, health: healthy, change: change(ChangeState.PROVISIONAL, { heldCalls: 8, heldMs: 5.68 }) },
    says: [
      'telemetry 1.1.0 is provisional since 2026-01-02T03:03:55Z and serves calls and is healthy',
      '      the upgrade from 1.0.0 to 1.1.0 is live and not confirmed; ordered by spiffe://lab/operator/me at 2026-01-02T03:03:45Z; 8 calls were held, for 5.7 ms',
      'Next: it reverts to 1.0.0 at 2026-01-02T03:04:55Z unless confirmed; at once if it crashes, hangs or is unhealthy (in 50 s)',
    ],
    nextAtMs: at(-50),
  },
  {
    of: 'a provisional install',
    status: { state: READY, health: healthy, change: change(ChangeState.PROVISIONAL, { kind: 'install', from: '' }) },
    says: ['Next: it is removed again at 2026-01-02T03:04:55Z unless confirmed; at once if it crashes, hangs or is unhealthy (in 50 s)'],
  },
  {
    of: 'a provisional configuration, which leaves the version as it is',
    status: {
      service: 'routing',
      state: READY,
      health: healthy,
      change: change(ChangeState.PROVISIONAL, { kind: 'config', from: 'a'.repeat(64), to: 'b'.repeat(64) }),
    },
    says: [
      'routing 1.1.0 serves calls and is healthy',
      '      the config from aaaaaaaaaaaa to bbbbbbbbbbbb is live and not confirmed; ordered by spiffe://lab/operator/me at 2026-01-02T03:03:45Z',
      'Next: its config reverts to aaaaaaaaaaaa at 2026-01-02T03:04:55Z unless confirmed (in 50 s)',
      '      nothing by itself: it goes on until it is changed or crashes',
    ],
  },
  {
    of: 'a provisional version that is down: the way back comes next',
    status: { state: FAILED, history: [crash(1, FAILED)], change: change(ChangeState.PROVISIONAL) },
    says: [
      'telemetry 1.1.0 is provisional since 2026-01-02T03:03:55Z and failed at 2026-01-02T03:04:04Z after 1 crash',
      'Next: it reverts to 1.0.0 at 2026-01-02T03:04:55Z unless confirmed; at once if it crashes, hangs or is unhealthy (in 50 s)',
    ],
  },
  {
    of: 'a confirmed upgrade',
    status: { state: READY, health: healthy, change: change(ChangeState.CONFIRMED, { reason: 'confirmed by me' }) },
    says: ['      the upgrade from 1.0.0 to 1.1.0 is confirmed: confirmed by me; ordered by spiffe://lab/operator/me at 2026-01-02T03:03:45Z'],
  },
  {
    of: 'an upgrade that was undone',
    status: {
      version: '1.0.0',
      state: READY,
      health: healthy,
      change: change(ChangeState.REVERTED, { reason: 'unhealthy: no session', error: 'SWAP_ROLLED_BACK' }),
    },
    says: [
      '      the upgrade from 1.0.0 to 1.1.0 was undone: unhealthy: no session (SWAP_ROLLED_BACK); ordered by spiffe://lab/operator/me at 2026-01-02T03:03:45Z',
      'Next: what ran before goes on: 1.0.0',
    ],
  },
]

for (const { of, status: init, says, nextAtMs } of TABLE) {
  t.test(`it explains ${of}`, async (t) => {
    const explanation = explain(status(init), nowMs)
    const lines = explanationText(explanation).split('\n')
    for (const line of says) t.ok(lines.includes(line), line, { lines })
    t.ok(explanation.next.length > 0, 'it says what will happen next')
    if (nextAtMs !== undefined) t.equal(explanation.next[0]?.atMs, nextAtMs)
  })
}

t.test('every state and every state of a change has a row, and one that is unknown is no crash', async (t) => {
  const states = new Set(TABLE.map((row) => row.status.state))
  t.same(
    Object.values(ServiceState).filter((state) => typeof state === 'number' && state !== 0 && !states.has(state)),
    [],
  )
  const changes = new Set(TABLE.map((row) => row.status.change?.state))
  t.same(
    Object.values(ChangeState).filter((state) => typeof state === 'number' && state !== 0 && !changes.has(state)),
    [],
  )
  for (const state of Object.values(ServiceState)) {
    for (const changeState of Object.values(ChangeState)) {
      const { summary, next } = explain(status({ state: Number(state) || 0, change: change(Number(changeState) || 0) }), nowMs)
      t.ok(summary.startsWith('telemetry 1.1.0 ') && next.length > 0, `${state} ${changeState}`)
    }
  }
  t.match(explain(status({ state: 99 as never }), nowMs).summary, /does not know/)
})

t.test('what it says of restarts is what the agent does', async (t) => {
  t.match(SUPERVISOR_LIMITS, RESTARTS)
})
