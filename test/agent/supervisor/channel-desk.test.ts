import t from 'tap'
import { ChannelDesk, type ForChannel } from '../../../agent/supervisor/channel-desk.ts'
import { CHANNEL_LIMITS, type Callee, Channels } from '../../../agent/supervisor/channels.ts'
import { Tally, TALLY_LIMITS } from '../../../agent/supervisor/tally.ts'
import type { ClientCall, ServiceCalls } from '../../../agent/supervisor/types.ts'
import type { Manifest } from '../../../core/manifest.ts'
import { readFromWorker, WIRE_LIMITS, type ToWorker } from '../../../services/sdk/wire.ts'
import { FakeClock, settled } from '../../fakes/clock.ts'

const manifest = { name: 'front', requires: { apis: { 't.T': '^1.0.0' } } } as unknown as Manifest
const bytes = new Uint8Array([1])
const open = (channel: number, over: object = {}): ForChannel =>
  ({ type: 'channelOpen', channel, method: '/t.T/Do', kind: 'unary', metadata: {}, bytes, ...over }) as ForChannel

/** A callee that does what the test says, in the place of a supervisor. */
function desk() {
  const clock = new FakeClock()
  const sent: ToWorker[] = []
  const calls: { client: ClientCall; cancelled: number; messages: number; takes: boolean; onCredit: () => void }[] = []
  const origins = new Map<number, ClientCall>()
  const counted: ServiceCalls[] = []
  const callee: Callee = { service: 'back', method: { path: '/t.T/Do', kind: 'unary' }, version: '1.0.0' }
  const channels = new Channels({
    fleet: 'lab',
    clock,
    chance: () => 0,
    host: { serviceCalls: (calls) => void counted.push(calls) },
    find: () => callee,
    provider: () => 'back',
    changed: () => {},
    route: (client) => {
      const call = { client, cancelled: 0, messages: 0, takes: true, onCredit: () => {} }
      calls.push(call)
      return {
        message: () => {
          call.messages++
          return call.takes
        },
        halfClose: () => {},
        cancel: () => void call.cancelled++,
        drained: () => {},
        set onCredit(listener: () => void) {
          call.onCredit = listener
        },
        get onCredit() {
          return call.onCredit
        },
      }
    },
  })
  const one = new ChannelDesk(
    manifest,
    channels,
    (message) => void sent.push(message),
    (call) => origins.get(call),
  )
  return { desk: one, channels, clock, sent, calls, origins, counted }
}

const client = (over: Partial<ClientCall> = {}): ClientCall => ({
  ...{ method: '/f.F/Do', kind: 'unary', principal: 'spiffe://lab/operator/me', deadlineMs: undefined, metadata: {}, send: () => true, end: () => {} },
  ...over,
})
const refusal = (message: ToWorker | undefined) => (message?.type === 'channelEnd' ? message.error?.code : message?.type)

t.test('a version that does not serve has nothing called for it', async (t) => {
  const { desk: one, sent, calls } = desk()
  t.ok(one.receive(open(1), true))
  t.equal(refusal(sent[0]), 'STATE_REFUSED')
  t.same(calls, [])
})

t.test('a call for one that is not served here any more is refused: it would have no deadline and no principal', async (t) => {
  const { desk: one, sent, calls } = desk()
  one.receive(open(1, { under: 99 }), false)
  t.equal(refusal(sent[0]), 'DEADLINE_PASSED')
  t.same(calls, [])
})

t.test('only so many calls are under way at once', async (t) => {
  const { desk: one, sent, calls } = desk()
  for (let channel = 1; channel <= CHANNEL_LIMITS.openMax + 1; channel++) one.receive(open(channel), false)
  t.equal(calls.length, CHANNEL_LIMITS.openMax)
  t.equal(refusal(sent.at(-1)), 'LIMIT_REACHED')
  one.receive({ type: 'channelCancel', channel: 1 }, false)
  one.receive(open(9_999), false)
  t.equal(calls.length, CHANNEL_LIMITS.openMax + 1, 'one that ends makes room')
})

t.test('a worker that breaks the protocol is found out', async (t) => {
  const { desk: one } = desk()
  t.ok(one.receive(open(1), false))
  t.notOk(one.receive(open(1), false), 'a channel that is open')
  t.ok(one.receive({ type: 'channelData', channel: 77, bytes }, false), 'what has ended may have something under way')
})

t.test('a caller that sends more than it was granted is found out; one that keeps to it is granted more as the callee takes it', async (t) => {
  const { desk: one, sent, calls } = desk()
  const send = () => one.receive({ type: 'channelData', channel: 1, bytes }, false)
  const granted = () => sent.reduce((sum, message) => sum + (message.type === 'channelCredit' ? message.count : 0), 0)
  one.receive(open(1, { kind: 'clientStream', bytes: undefined }), false)
  for (let message = 0; message < 40; message++) t.ok(send())
  t.equal(granted(), 32)
  const [call] = calls
  if (call) call.takes = false
  for (let message = 0; message < 56; message++) send()
  t.equal(granted(), 32, 'the callee takes no more')
  t.notOk(send(), 'over what was granted')
  t.equal(call?.messages, 96)
  call?.onCredit()
  t.equal(granted(), 96)
})

t.test('deadlines: the earlier one counts, and passes for both sides', async (t) => {
  const { desk: one, sent, calls, clock, origins } = desk()
  origins.set(5, client({ deadlineMs: clock.nowMs() + 400 }))
  one.receive(open(1, { under: 5, timeoutMs: 10_000 }), false)
  t.equal(calls[0]?.client.deadlineMs, clock.nowMs() + 400)
  one.receive(open(2, { under: 5, timeoutMs: 100 }), false)
  t.equal(calls[1]?.client.deadlineMs, clock.nowMs() + 100)
  await clock.advance(100)
  t.equal(refusal(sent[0]), 'DEADLINE_PASSED')
  t.equal(calls[1]?.cancelled, 1)
  t.equal(calls[0]?.cancelled, 0)
  await clock.advance(300)
  t.equal(calls[0]?.cancelled, 1)
  one.receive(open(3, { under: 5 }), false)
  t.equal(calls.length, 2, 'no time is left for a third')
  one.receive(open(4, { kind: 'serverStream' }), false)
  t.equal(calls[2]?.client.deadlineMs, undefined, 'a stream of its own has no end')
  t.equal(clock.waiting, 1, 'only the tally waits: no timer is left behind')
})

t.test('what was asked for a call ends with it, and only that', async (t) => {
  const { desk: one, sent, calls, origins } = desk()
  origins.set(5, client())
  one.receive(open(1, { under: 5 }), false)
  one.receive(open(2), false)
  one.ended(5)
  t.equal(calls[0]?.cancelled, 1)
  t.equal(refusal(sent[0]), 'DEADLINE_PASSED')
  t.equal(calls[1]?.cancelled, 0)
  one.close()
  t.equal(calls[1]?.cancelled, 1)
  t.equal(sent.length, 1, 'a worker that is gone is told nothing')
})

t.test('principals: the caller by its manifest, and whoever stands at the beginning of the chain', async (t) => {
  const { desk: one, calls, origins, sent } = desk()
  origins.set(5, client())
  origins.set(6, client({ principal: 'spiffe://lab/service/other', onBehalfOf: 'spiffe://lab/operator/me', chain: ['x', 'other'] }))
  one.receive(open(1, { under: 5, metadata: { 'offbox-call-depth': '0', own: 'kept' } }), false)
  one.receive(open(2, { under: 6 }), false)
  one.receive(open(3), false)
  t.match(
    calls.map(({ client }) => client),
    [
      {
        principal: 'spiffe://lab/service/front',
        onBehalfOf: 'spiffe://lab/operator/me',
        chain: ['front'],
        metadata: { 'offbox-call-depth': '1', own: 'kept' },
      },
      { principal: 'spiffe://lab/service/front', onBehalfOf: 'spiffe://lab/operator/me', chain: ['x', 'other', 'front'] },
      { principal: 'spiffe://lab/service/front', onBehalfOf: undefined, chain: ['front'] },
    ],
  )
  origins.set(7, client({ chain: Array.from({ length: CHANNEL_LIMITS.depthMax }, () => 'x') }))
  one.receive(open(4, { under: 7 }), false)
  t.equal(refusal(sent[0]), 'CALL_DEPTH_EXCEEDED')
})

t.test('what a callee sends is copied: two workers never share a buffer', async (t) => {
  const { desk: one, sent, calls } = desk()
  one.receive(open(1, { kind: 'serverStream' }), false)
  const shared = new Uint8Array(new SharedArrayBuffer(4))
  calls[0]?.client.send(shared)
  shared[0] = 9
  t.match(sent, [{ type: 'channelData', channel: 1 }])
  const [first] = sent
  t.ok(first?.type === 'channelData' && first.bytes.buffer instanceof ArrayBuffer && first.bytes[0] === 0)
})

t.test('messages of a worker that make no sense are refused', async (t) => {
  const good = { type: 'channelOpen', channel: 1, method: '/t.T/Do', kind: 'unary', metadata: {} }
  t.doesNotThrow(() => readFromWorker([good]))
  const bad = [
    { ...good, channel: -1 },
    { ...good, method: 5 },
    { ...good, method: 'x'.repeat(1_000) },
    { ...good, kind: 'other' },
    { ...good, timeoutMs: 0.5 },
    { ...good, under: '1' },
    { ...good, metadata: null },
    { ...good, metadata: { key: 1 } },
    { ...good, bytes: 'text' },
    { ...good, bytes: new Uint8Array(WIRE_LIMITS.messageBytesMax + 1) },
    { type: 'channelData', channel: 1 },
    { type: 'channelCredit', channel: 1, count: WIRE_LIMITS.streamWindowMessages + 1 },
    { type: 'channelOther', channel: 1 },
  ]
  for (const [index, message] of bad.entries()) t.throws(() => readFromWorker([message]), `message ${index}`)
})

t.test('calls are counted by caller, method and outcome, reported once a minute, and kept in bounds', async (t) => {
  const clock = new FakeClock()
  const reports: ServiceCalls[] = []
  const tally = new Tally(clock, (calls) => void reports.push(calls))
  const about = { principal: 'p', method: '/t.T/Do' } as const
  for (let call = 0; call < 1_000; call++) tally.count({ ...about, outcome: 'OK' })
  tally.count({ ...about, outcome: 'SERVICE_DOWN' })
  await clock.advance(TALLY_LIMITS.intervalMs)
  t.same(reports, [
    { ...about, outcome: 'OK', calls: 1_000, overMs: TALLY_LIMITS.intervalMs },
    { ...about, outcome: 'SERVICE_DOWN', calls: 1, overMs: TALLY_LIMITS.intervalMs },
  ])
  await clock.advance(TALLY_LIMITS.intervalMs * 3)
  t.equal(reports.length, 2, 'nothing is reported of nothing')
  reports.length = 0
  for (let call = 0; call < 5_000; call++) tally.count({ principal: 'p', method: `/t.T/${call}`, outcome: 'OK' })
  tally.flush()
  t.equal(reports.length, TALLY_LIMITS.recordsMax + 1)
  t.equal(
    reports.reduce((sum, { calls }) => sum + calls, 0),
    5_000,
    'none is forgotten',
  )
  await settled()
})
