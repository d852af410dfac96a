import t from 'tap'
import type { Method, MethodKind } from '../../../proto/codec.ts'
import { Channels } from '../../../services/sdk/channels.ts'
import { fakeServices } from '../../../services/sdk/fake-services.ts'
import type { Serving } from '../../../services/sdk/served-calls.ts'
import { serverStream, unary } from '../../../services/sdk/service.ts'
import { readFromWorker, WIRE_LIMITS, type FromWorker } from '../../../services/sdk/wire.ts'
import { settled } from '../../fakes/clock.ts'

const text = {
  encode: (value: string) => new TextEncoder().encode(value),
  decode: (bytes: Uint8Array) => new TextDecoder().decode(bytes) as never,
}
const method = (kind: MethodKind): Method<string, string> => ({ path: '/t.T/Do', kind, request: text, response: text })
const bytes = text.encode

function channels() {
  const sent: FromWorker[] = []
  const all = new Channels((message) => {
    // What a worker sends has to pass the agent's check.
    readFromWorker([message])
    sent.push(message)
  })
  return { all, sent, client: all.client, types: () => sent.map(({ type }) => type) }
}

t.test('a call is opened with its request, and answered or failed by its end', async (t) => {
  const { all, sent, client } = channels()
  const one = client.unary(method('unary'), 'first')
  const two = client.unary(method('unary'), 'second')
  t.match(sent, [
    { type: 'channelOpen', channel: 1, method: '/t.T/Do', kind: 'unary' },
    { type: 'channelOpen', channel: 2 },
  ])
  all.receive({ type: 'channelEnd', channel: 2, error: { code: 'SERVICE_DOWN', message: 'gone' } })
  all.receive({ type: 'channelEnd', channel: 1, bytes: bytes('answer') })
  t.equal(await one, 'answer')
  await t.rejects(two, { code: 'SERVICE_DOWN', message: 'gone' })
  all.receive({ type: 'channelEnd', channel: 1, bytes: bytes('late') })
})

t.test('the call that a handler serves is known, however deep and however late, until it has ended', async (t) => {
  const { all, sent, client } = channels()
  const serving = { id: 7, aborted: false, ended: false }
  const later = all.within(serving as Serving, async () => {
    client.unary(method('unary'), '').catch(() => {})
    await settled()
    await (async () => void client.unary(method('unary'), '').catch(() => {}))()
    serving.ended = true
    client.unary(method('unary'), '').catch(() => {})
    serving.ended = false
    serving.aborted = true
    await t.rejects(client.unary(method('unary'), ''), { code: 'DEADLINE_PASSED' })
  })
  client.unary(method('unary'), '').catch(() => {})
  await later
  t.same(
    sent.map((message) => message.type === 'channelOpen' && message.under),
    [7, undefined, 7, undefined],
  )
})

t.test('a stream is read as it comes, with credit for what was read; leaving it cancels it', async (t) => {
  const { all, client, sent } = channels()
  const read: string[] = []
  const reading = (async () => {
    for await (const one of client.serverStream(method('serverStream'), '')) {
      read.push(one)
      if (read.length === 100) break
    }
  })()
  await settled()
  for (let number = 1; number <= 120; number++) all.receive({ type: 'channelData', channel: 1, bytes: bytes(`${number}`) })
  await reading
  t.equal(read.length, 100)
  t.same(
    sent.filter(({ type }) => type === 'channelCredit').map((message) => message.type === 'channelCredit' && message.count),
    [32, 32, 32],
  )
  t.match(sent.at(-1), { type: 'channelCancel', channel: 1 })
})

t.test('an error at the end of a stream is thrown after what came before it', async (t) => {
  const { all, client } = channels()
  const stream = client.serverStream(method('serverStream'), '')
  const first = stream.next()
  await settled()
  all.receive({ type: 'channelData', channel: 1, bytes: bytes('one') })
  all.receive({ type: 'channelData', channel: 1, bytes: bytes('two') })
  all.receive({ type: 'channelEnd', channel: 1, error: { code: 'SERVICE_CRASHED', message: 'gone' } })
  t.same(await first, { value: 'one', done: false })
  t.same(await stream.next(), { value: 'two', done: false })
  await t.rejects(stream.next(), { code: 'SERVICE_CRASHED' })
})

t.test('it sends no more than it was granted, and stops asking for more when the call has ended', async (t) => {
  const { all, client, sent } = channels()
  let asked = 0
  const endless = (function* () {
    for (;;) yield `${++asked}`
  })()
  const sum = client.clientStream(method('clientStream'), endless)
  await settled()
  const count = () => sent.filter(({ type }) => type === 'channelData').length
  t.equal(count(), WIRE_LIMITS.streamWindowMessages)
  all.receive({ type: 'channelCredit', channel: 1, count: 10 })
  await settled()
  t.equal(count(), WIRE_LIMITS.streamWindowMessages + 10)
  all.receive({ type: 'channelEnd', channel: 1, bytes: bytes('enough') })
  t.equal(await sum, 'enough')
  await settled()
  t.equal(count(), WIRE_LIMITS.streamWindowMessages + 10)
  t.ok(asked <= count() + 2)
})

t.test('requests that fail end the call with their error', async (t) => {
  const { client, types } = channels()
  const failing = (async function* () {
    yield 'one'
    throw new Error('no more')
  })()
  await t.rejects(client.clientStream(method('clientStream'), failing), { message: 'no more' })
  t.same(types(), ['channelOpen', 'channelData', 'channelCancel'])
})

t.test('a signal cancels, before and during', async (t) => {
  const { client, types } = channels()
  const cancel = new AbortController()
  const call = client.unary(method('unary'), '', { signal: cancel.signal })
  cancel.abort()
  await t.rejects(call, { code: 'DEADLINE_PASSED' })
  t.same(types(), ['channelOpen', 'channelCancel'])
  await t.rejects(client.unary(method('unary'), '', { signal: cancel.signal }), { code: 'DEADLINE_PASSED' })
  t.equal(types().length, 2)
})

t.test('what the agent would not take is refused here', async (t) => {
  const { all, client, sent } = channels()
  const bad = async (options: object, request = '') =>
    await t.rejects(client.unary(method('unary'), request, options), { code: /ARGUMENT_INVALID|LIMIT_REACHED/ })
  await bad({ metadata: { 'offbox-call-depth': '0' } })
  await bad({ metadata: { Upper: 'x' } })
  await bad({ metadata: { long: 'x'.repeat(WIRE_LIMITS.metadataCharsMax + 1) } })
  await bad({ metadata: Object.fromEntries(Array.from({ length: WIRE_LIMITS.metadataKeysMax + 1 }, (_, index) => [`k${index}`, ''])) })
  await bad({ timeoutMs: Number.NaN })
  await bad({ timeoutMs: -1 })
  await bad({}, 'x'.repeat(WIRE_LIMITS.messageBytesMax + 1))
  t.same(sent, [])
  await all.finish(2 ** 30)
})

t.test('at a swap calls with one answer may finish; then all that is open ends with SWAP_IN_PROGRESS, and nothing more begins', async (t) => {
  const { all, client } = channels()
  const fast = client.unary(method('unary'), '')
  const slow = client.unary(method('unary'), '')
  const stream = client.serverStream(method('serverStream'), '').next()
  await settled()
  const finished = all.finish(50)
  all.receive({ type: 'channelEnd', channel: 1, bytes: bytes('in time') })
  t.equal(await fast, 'in time')
  await Promise.all([finished, t.rejects(slow, { code: 'SWAP_IN_PROGRESS' }), t.rejects(stream, { code: 'SWAP_IN_PROGRESS' })])
  await t.rejects(client.unary(method('unary'), ''), { code: 'SWAP_IN_PROGRESS' })
  all.reopen()
  client.unary(method('unary'), '').catch(() => {})
})

t.test('when nothing waits for an answer a swap is not kept waiting', async (t) => {
  const { all, client } = channels()
  const stream = client.serverStream(method('serverStream'), '').next()
  await settled()
  await all.finish(2 ** 30)
  await t.rejects(stream, { code: 'SWAP_IN_PROGRESS' })
  const other = channels()
  const call = other.client.unary(method('unary'), '')
  const finished = other.all.finish(2 ** 30)
  other.all.receive({ type: 'channelEnd', channel: 1, bytes: bytes('done') })
  await finished
  t.equal(await call, 'done')
})

t.test('what a service does to its client reaches nobody else', async (t) => {
  const { client } = channels()
  t.throws(() => Object.assign(client, { unary: () => {} }))
  t.throws(() => Object.assign(client.unary, { call: () => {} }))
  t.throws(() => Object.assign(Object.getPrototypeOf(client.serverStream(method('serverStream'), '')), { next: () => {} }))
})

t.test('in tests of services other services are handlers, and the manifest counts as it does on a device', async (t) => {
  const served = [
    unary(method('unary'), async (request, { principal }) => `${principal} ${request}`),
    serverStream({ ...method('serverStream'), path: '/t.T/Count' }, async function* () {
      yield 'one'
      yield 'two'
    }),
  ]
  const services = fakeServices({ caller: { name: 'hello', requires: { apis: { 't.T': '*' } } }, served })
  t.equal(await services.unary(method('unary'), 'x'), 'spiffe://lab/service/hello x')
  const all: string[] = []
  for await (const one of services.serverStream({ ...method('serverStream'), path: '/t.T/Count' }, '')) all.push(one)
  t.same(all, ['one', 'two'])
  await t.rejects(services.unary({ ...method('unary'), path: '/t.T/Other' }, ''), { code: 'SERVICE_DOWN' })
  await t.rejects(services.unary({ ...method('unary'), path: '/other.T/Do' }, ''), { code: 'CAPABILITY_DENIED' })
  await t.rejects(services.unary(method('unary'), '', { metadata: { 'offbox-x': '' } }), { code: 'ARGUMENT_INVALID' })
  await t.rejects(services.unary(method('unary'), '', { signal: AbortSignal.abort() }), { code: 'DEADLINE_PASSED' })
})
