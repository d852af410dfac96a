import t from 'tap'
import {
  askEvent,
  CIRCUIT,
  CIRCUIT_EVENTS,
  CIRCUIT_LIMITS,
  CIRCUIT_STATES,
  type Circuit,
  circuitCell,
  type CircuitEvent,
  CLOSED,
  endEvent,
  nextCircuit,
} from '../../../agent/supervisor/breaker.ts'
import { ERRORS, type ErrorCode } from '../../../core/errors.ts'
import { Back } from '../../fixtures/services/pair/methods.ts'
import { ask, pairBundle, startPair, through } from '../../fixtures/services/pair/bundle.ts'
import { until } from './harness.ts'

const { failuresMax, openMsFirst, openMsMax, fairMsMin } = CIRCUIT_LIMITS
const failing = (times: number, circuit: Circuit = CLOSED, nowMs = 0, chance = 0) => {
  let now = circuit
  for (let call = 0; call < times; call++) {
    const event = endEvent(now, { probe: false, outcome: 'SERVICE_DOWN', allowedMs: undefined })
    if (event) now = nextCircuit(now, event, nowMs, chance).circuit
  }
  return now
}

t.test('every row of the table has a cell for every event, and every state leads back to closed', async (t) => {
  for (const state of CIRCUIT_STATES) {
    t.equal(CIRCUIT[state].length, CIRCUIT_EVENTS.length)
    const reached = new Set([state])
    for (const from of reached) {
      for (const event of CIRCUIT_EVENTS) {
        const cell = circuitCell(from, event)
        if (typeof cell === 'object') reached.add(cell.to)
      }
    }
    t.ok(reached.has('closed'), `${state} leads to closed`)
    t.equal(reached.size, CIRCUIT_STATES.length, `${state} leads everywhere`)
  }
})

t.test('it opens at the failure that is one too many, and not before', async (t) => {
  t.equal(failing(failuresMax - 1).state, 'closed')
  t.equal(failing(failuresMax).state, 'open')
})

t.test('a success in between forgives', async (t) => {
  const once = nextCircuit(failing(failuresMax - 1), 'ok', 0, 0).circuit
  t.same(once, CLOSED)
})

t.test('an open circuit refuses until its time, then lets one call through and no second', async (t) => {
  const open = failing(failuresMax, CLOSED, 100)
  t.equal(open.retryAtMs, 100 + openMsFirst)
  t.equal(askEvent(open, 100 + openMsFirst - 1), 'ask')
  t.ok(nextCircuit(open, 'ask', 500, 0).refused)
  const half = nextCircuit(open, askEvent(open, 100 + openMsFirst), 100 + openMsFirst, 0)
  t.notOk(half.refused)
  t.equal(half.circuit.state, 'halfOpen')
  t.ok(nextCircuit(half.circuit, askEvent(half.circuit, 99_999), 99_999, 0).refused)
})

t.test('a probe that fails opens it for longer each time, up to a bound; one that succeeds closes it', async (t) => {
  let circuit = failing(failuresMax)
  const lengths: number[] = []
  for (let probe = 0; probe < 10; probe++) {
    const nowMs = circuit.retryAtMs
    circuit = nextCircuit(circuit, askEvent(circuit, nowMs), nowMs, 0).circuit
    circuit = nextCircuit(circuit, 'probeFailed', nowMs, 0).circuit
    lengths.push(circuit.retryAtMs - nowMs)
  }
  t.same(lengths.slice(0, 3), [openMsFirst * 2, openMsFirst * 4, openMsFirst * 8])
  t.equal(lengths.at(-1), openMsMax)
  const half = nextCircuit(circuit, 'askDue', circuit.retryAtMs, 0).circuit
  t.same(nextCircuit(half, 'probeOk', 0, 0).circuit, CLOSED)
})

t.test('chance takes up to half of the time off', async (t) => {
  t.equal(failing(failuresMax, CLOSED, 0, 1).retryAtMs, openMsFirst / 2)
})

t.test('a probe that says nothing leaves the next call to find out, at once', async (t) => {
  const open = failing(failuresMax)
  const half = nextCircuit(open, 'askDue', open.retryAtMs, 0).circuit
  const event = endEvent(half, { probe: true, outcome: 'CANCELLED', allowedMs: undefined })
  t.equal(event, 'probeLost')
  const { circuit } = nextCircuit(half, event as CircuitEvent, 5_000, 0)
  t.equal(circuit.state, 'open')
  t.equal(askEvent(circuit, 5_000), 'askDue')
})

t.test('results of calls that began before it opened change nothing', async (t) => {
  const open = failing(failuresMax)
  for (const event of ['ok', 'failed', 'tripped'] as const) t.same(nextCircuit(open, event, 0, 0).circuit, open)
  const half = nextCircuit(open, 'askDue', open.retryAtMs, 0).circuit
  for (const event of ['ok', 'failed', 'tripped'] as const) t.same(nextCircuit(half, event, 0, 0).circuit, half)
})

t.test('only errors that mean "down" count', async (t) => {
  const down = (Object.keys(ERRORS) as ErrorCode[]).filter((outcome) => endEvent(CLOSED, { probe: false, outcome, allowedMs: undefined }) === 'failed')
  t.same(down.sort(), ['DEADLINE_PASSED', 'LIMIT_REACHED', 'RATE_EXCEEDED', 'SERVICE_CRASHED', 'SERVICE_DOWN', 'STREAMS_EXCEEDED'])
  t.equal(endEvent(CLOSED, { probe: false, outcome: 'ARGUMENT_INVALID', allowedMs: undefined }), 'ok', 'an answer')
  t.equal(endEvent(CLOSED, { probe: false, outcome: 'SWAP_IN_PROGRESS', allowedMs: undefined }), undefined)
})

t.test('a deadline that was too short to be met does not count', async (t) => {
  t.equal(endEvent(CLOSED, { probe: false, outcome: 'DEADLINE_PASSED', allowedMs: fairMsMin - 1 }), undefined)
  t.equal(endEvent(CLOSED, { probe: false, outcome: 'DEADLINE_PASSED', allowedMs: fairMsMin }), 'failed')
})

t.test('any sequence of events keeps to the rules', async (t) => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = randomOf(seed)
    let circuit: Circuit = CLOSED
    let probing = false
    let nowMs = 0
    for (let step = 0; step < 200; step++) {
      nowMs += random() * 1_500
      const before = circuit
      const asks = random() < 0.5
      const probe = probing && random() < 0.5
      const outcome = (['OK', 'SERVICE_DOWN', 'DEADLINE_PASSED', 'CANCELLED', 'ARGUMENT_INVALID'] as const)[Math.floor(random() * 5)] ?? 'OK'
      const event = asks ? askEvent(circuit, nowMs) : random() < 0.05 ? 'back' : endEvent(circuit, { probe, outcome, allowedMs: undefined })
      if (!event) continue
      const { circuit: after, refused } = nextCircuit(circuit, event, nowMs, random())
      circuit = after
      if (asks && !refused && after.state === 'halfOpen') probing = true
      if (event.startsWith('probe')) probing = false
      if (asks && before.state === 'closed' && refused) t.fail('a closed circuit refused')
      if (asks && !refused && before.state === 'open' && nowMs < before.retryAtMs) t.fail('an open one let a call through too early')
      if (after.state === 'halfOpen' && !probing) t.fail('half open without a probe under way')
      if (after.state === 'open' && after.retryAtMs > nowMs + openMsMax) t.fail('open for longer than the bound')
      if (after.state === 'closed' && after.failures >= failuresMax) t.fail('closed with too many failures')
    }
  }
  t.pass('300 sequences of 200 events')
})

t.test('on real workers: a service that is gone is not asked again and again, and is asked again when it is back', async (t) => {
  const { supervisor, circuits } = await startPair()
  t.teardown(() => supervisor.close())
  await supervisor.remove('back')
  for (let call = 0; call < failuresMax; call++) t.equal((await through(supervisor, { call: 'Add' })).error, 'SERVICE_DOWN')
  const { error, message } = await through(supervisor, { call: 'Add' })
  t.equal(error, 'CIRCUIT_OPEN')
  t.match(message, /test\.Back failed 5 times in a row \(SERVICE_DOWN: .*\); the next call is let through in \d+ ms/)
  const [open] = supervisor.get('front')?.circuits ?? []
  t.match(open, { api: 'test.Back', service: '', state: 'open', failures: 5 })
  t.ok((open?.retryAtMs ?? 0) > 0)
  await supervisor.install(await pairBundle('back', '1.0.0'), {})
  t.same((await through(supervisor, { call: 'Add' })).answers, ['1.0.0 1'], 'at once: it has just come back')
  t.match(supervisor.get('front')?.circuits, [{ service: 'back', state: 'closed', failures: 0 }])
  t.same(
    circuits.map(({ state }) => state),
    ['open', 'halfOpen', 'closed'],
    'watchers saw each step',
  )
})

t.test('on real workers: a probe decides; what a service answers is no failure', async (t) => {
  const { supervisor, circuits } = await startPair()
  t.teardown(() => supervisor.close())
  for (let call = 0; call < failuresMax * 2; call++) t.equal((await through(supervisor, { call: 'Fail', request: 'CONFIG_INVALID' })).error, 'CONFIG_INVALID')
  t.same(circuits, [])
  for (let call = 0; call < failuresMax; call++) await through(supervisor, { call: 'Fail', request: 'LIMIT_REACHED' })
  t.equal((await through(supervisor, { call: 'Fail' })).error, 'CIRCUIT_OPEN')
  t.equal((await ask(supervisor, Back.Fail)).answers[0], 'fine', 'others are not concerned')
  await until('the next try', () => (supervisor.get('front')?.circuits[0]?.retryAtMs ?? 0) <= Date.now())
  let answer = await through(supervisor, { call: 'Fail' })
  while (answer.error === 'CIRCUIT_OPEN') answer = await through(supervisor, { call: 'Fail' })
  t.same(answer.answers, ['fine'])
  t.equal(supervisor.get('front')?.circuits[0]?.state, 'closed')
})

t.test('a stream that has said something closes the circuit, however long it goes on', async (t) => {
  const { supervisor, circuits } = await startPair()
  t.teardown(() => supervisor.close())
  for (let call = 0; call < failuresMax; call++) await through(supervisor, { call: 'Fail', request: 'SERVICE_DOWN' })
  await until('the next try', () => (supervisor.get('front')?.circuits[0]?.retryAtMs ?? 0) <= Date.now())
  while ((await through(supervisor, { call: 'Count', take: 3 })).error === 'CIRCUIT_OPEN');
  t.same(
    circuits.map(({ state }) => state),
    ['open', 'halfOpen', 'closed'],
  )
})

/** Mulberry32. */
function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
