import t, { type Test } from 'tap'
import type { ClientCall } from '../../../agent/supervisor/types.ts'
import type { Manifest } from '../../../core/manifest.ts'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, until } from './harness.ts'

const path = (method: string) => `/test.Counter/${method}`

async function running(t: Test, over: Partial<Manifest>, config: object = {}, limits = {}) {
  const { supervisor } = await harness(limits)
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0', over), config)
  const exceeded = () => supervisor.get('counter')?.use.exceeded
  return { supervisor, exceeded }
}

/** A call of which the caller hears the messages' number and the end. */
function caller(method: string, kind: ClientCall['kind'], principal = 'spiffe://lab/operator/test') {
  const heard = { messages: 0, end: undefined as string | undefined }
  const call: ClientCall = {
    method: path(method),
    kind,
    principal,
    deadlineMs: undefined,
    metadata: {},
    send: () => {
      heard.messages++
      return true
    },
    end: (error) => {
      heard.end = error?.code ?? 'OK'
    },
  }
  return { call, heard }
}

t.test('messages beyond what the manifest allows in a second are refused by name, and counted', async (t) => {
  const { supervisor, exceeded } = await running(t, { limits: { messagesPerSecondMax: 20 } })
  const outcomes = await Promise.all(Array.from({ length: 100 }, async () => await ask(supervisor, 'Next')))
  const refused = outcomes.filter(({ error }) => error === 'RATE_EXCEEDED').length
  t.ok(refused >= 70, `${refused} of 100 were refused`)
  t.equal(outcomes.filter(({ error }) => error === undefined).length, 100 - refused)
  t.equal(exceeded()?.RATE_EXCEEDED, refused)
  t.equal(supervisor.get('counter')?.use.messages, 100 - refused)
})

t.test('the rate is one for all calls: the messages of a stream count, and those over it end the stream', async (t) => {
  const { supervisor } = await running(t, { limits: { messagesPerSecondMax: 50 } })
  const { call, heard } = caller('Sum', 'clientStream')
  const handle = supervisor.call(call)
  for (let at = 0; at < 500 && heard.end === undefined; at++) handle.message(new TextEncoder().encode('1'))
  t.equal(heard.end, 'RATE_EXCEEDED')
})

t.test('streams beyond what the manifest allows are refused by name; one that ends makes room', async (t) => {
  const { supervisor, exceeded } = await running(t, { limits: { streamsMax: 3 } })
  const open = () => {
    const { call } = caller('Echo', 'bidi')
    return supervisor.call(call)
  }
  const handles = [open(), open(), open()]
  t.throws(open, { code: 'STREAMS_EXCEEDED' })
  t.equal(supervisor.get('counter')?.use.streamsOpen, 3)
  t.match(await ask(supervisor, 'Next'), { text: '1.0.0 1' }, 'unary calls go on')
  handles[0]?.cancel()
  t.ok(open())
  t.equal(exceeded()?.STREAMS_EXCEEDED, 1)
})

t.test('one principal cannot take every call that a service has', async (t) => {
  const { supervisor } = await running(t, {}, { slowMs: 2_000 }, { callsMax: 8, callsPerPrincipalMax: 4 })
  const begin = (principal: string) => {
    const { call, heard } = caller('Slow', 'unary', principal)
    supervisor.call(call).message(new Uint8Array(0))
    return heard
  }
  const greedy = Array.from({ length: 4 }, () => begin('spiffe://lab/operator/greedy'))
  t.throws(() => begin('spiffe://lab/operator/greedy'), { code: 'LIMIT_REACHED', message: /greedy has 4 calls/ })
  const other = begin('spiffe://lab/operator/other')
  await until('all of them', () => [...greedy, other].every(({ end }) => end === 'OK'))
  t.equal(begin('spiffe://lab/operator/greedy').end, undefined, 'and when they have ended, there is room again')
})

t.test('a service that floods its clients over 64 streams leaves the calls of another their turn', async (t) => {
  const { supervisor } = await running(t, {})
  const quiet = await counterBundle('1.0.0', { name: 'quiet', methods: [{ path: '/test.Quiet/Next', kind: 'unary' }] })
  const payload = Buffer.from(quiet.payload).toString().replaceAll('/test.Counter/Next', '/test.Quiet/Next')
  // The same code under another name, with the one method that its manifest declares.
  const only = `${payload}\nvar __made = offboxService.create; offboxService = { create: () => { const made = __made(); return new Proxy(made, { get: (target, key) => key === 'methods' ? target.methods.slice(0, 1) : typeof target[key] === 'function' ? target[key].bind(target) : target[key] }) } }`
  await supervisor.install({ ...quiet, payload: new TextEncoder().encode(only) }, {})
  const floods = Array.from({ length: 64 }, () => {
    const { call, heard } = caller('Watch', 'serverStream')
    const handle = supervisor.call(call)
    handle.message(new TextEncoder().encode('1000000000'))
    return { handle, heard }
  })
  const flooded = () => floods.reduce((sum, { heard }) => sum + heard.messages, 0)
  await until('the flood', () => flooded() > 10_000)
  const before = flooded()
  const CALLS = 100
  let answered = 0
  for (let at = 0; at < CALLS; at++) {
    const { call, heard } = caller('Next', 'unary')
    supervisor.call({ ...call, method: '/test.Quiet/Next' }).message(new Uint8Array(0))
    await until('an answer', () => heard.end !== undefined)
    if (heard.end === 'OK') answered++
  }
  const perCall = (flooded() - before) / CALLS
  t.equal(answered, CALLS)
  t.ok(perCall < 20_000, `${Math.round(perCall)} messages of the flood went by for each answer of the other service`)
  for (const { handle } of floods) handle.cancel()
})
