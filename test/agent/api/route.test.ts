import * as grpc from '@grpc/grpc-js'
import t, { type Test } from 'tap'
import { attachRoutes } from '../../../agent/api/route.ts'
import { codeOf, ERROR_TRAILER, ERRORS, messageOf, OffboxError } from '../../../core/errors.ts'
import { COUNTER_METHODS, counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, until } from '../supervisor/harness.ts'

const same = (bytes: Buffer) => bytes
const path = (method: string) => `/test.Counter/${method}`

let intent: (path: string) => Promise<void> = async () => {}

/** A gRPC server on loopback over a supervisor with the counter, and a client of it. */
async function routed(t: Test) {
  const { supervisor, onMethodsChanged } = await harness()
  const finished: string[] = []
  const server = new grpc.Server()
  const routes = attachRoutes(server, supervisor, {
    admit: (call, path) => {
      if (path.endsWith('/Sum')) throw new OffboxError('ROLE_DENIED', `not for ${call.getPeer()}`)
      return { principal: 'spiffe://lab/operator/test', path }
    },
    intent: async ({ path }) => await intent(path),
    finished: ({ path }, outcome) => finished.push(`${path} ${outcome}`),
    toStatus: (error) => {
      const errorCode = codeOf(error)
      const metadata = new grpc.Metadata()
      metadata.set(ERROR_TRAILER, errorCode)
      return { code: grpc.status[ERRORS[errorCode].status], details: `${errorCode}: ${messageOf(error)}`, metadata, errorCode }
    },
  })
  onMethodsChanged(() => routes.update())
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => (error ? reject(error) : resolve(port)))
  })
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure())
  t.teardown(async () => {
    client.close()
    server.forceShutdown()
    await supervisor.close()
  })
  const unary = async (method: string, request = '', options: grpc.CallOptions = {}) =>
    await new Promise<string>((resolve, reject) => {
      client.makeUnaryRequest(path(method), same, same, Buffer.from(request), new grpc.Metadata(), options, (error, value) =>
        error ? reject(error) : resolve(String(value)),
      )
    })
  return { supervisor, client, unary, finished }
}

t.test('methods appear with their service and go with it', async (t) => {
  const { supervisor, unary } = await routed(t)
  await t.rejects(unary('Next'), { code: grpc.status.UNIMPLEMENTED })
  await supervisor.install(await counterBundle('1.0.0'), {})
  t.equal(await unary('Next'), '1.0.0 1')
  await supervisor.commit('counter')
  const methods = [{ path: path('Next'), kind: 'unary' as const }]
  await t.rejects(supervisor.swap(await counterBundle('1.1.0', { methods }), {}), { code: 'SWAP_ROLLED_BACK' }, 'manifest and code must agree')
  await supervisor.remove('counter')
  await t.rejects(unary('Next'), { code: grpc.status.UNIMPLEMENTED })
})

t.test('failures carry status, code and trailer; calls are reported once', async (t) => {
  const { supervisor, client, unary, finished } = await routed(t)
  await supervisor.install(await counterBundle('1.0.0'), { slowMs: 5_000 })
  await unary('Next')
  const error = await unary('Do', 'refuse').catch((error) => error)
  t.equal(error.code, grpc.status.INVALID_ARGUMENT)
  t.match(error.details, /^ARGUMENT_INVALID: refused on purpose/)
  t.same(error.metadata.get(ERROR_TRAILER), ['ARGUMENT_INVALID'])
  const denied = await new Promise<grpc.ServiceError | null>((resolve) => client.makeClientStreamRequest(path('Sum'), same, same, resolve).end())
  t.equal(denied?.code, grpc.status.PERMISSION_DENIED)
  await t.rejects(unary('Slow', '', { deadline: Date.now() + 100 }), { code: grpc.status.DEADLINE_EXCEEDED })
  await until('the report', () => finished.length === 3)
  // Both sides watch the deadline: whichever is first ends the call.
  t.match(finished, [`${path('Next')} OK`, `${path('Do')} ARGUMENT_INVALID`, /Slow (DEADLINE_PASSED|CANCELLED)$/])
})

t.test('a bidirectional stream passes many messages both ways, in order', async (t) => {
  const { supervisor, client } = await routed(t)
  await supervisor.install(await counterBundle('1.0.0'), {})
  const call = client.makeBidiStreamRequest(path('Echo'), same, same)
  const received: string[] = []
  call.on('data', (bytes) => received.push(String(bytes)))
  const ended = new Promise((resolve) => call.on('status', resolve))
  const sent = Array.from({ length: 2_000 }, (_, index) => String(index))
  for (const one of sent) call.write(Buffer.from(one))
  call.end()
  t.match(await ended, { code: grpc.status.OK })
  t.same(received, sent)
})

t.test('a client that does not read stops the service from producing', async (t) => {
  const { supervisor, client } = await routed(t)
  await supervisor.install(await counterBundle('1.0.0'), {})
  const call = client.makeServerStreamRequest(path('Watch'), same, same, Buffer.from('1000000'))
  call.on('error', () => {})
  let first = 0
  call.once('data', () => {
    first++
    call.pause()
  })
  await until('the first number', () => first === 1)
  // Once it stands still, two looks find the same count but for the looks themselves.
  const look = async () => Number((await ask(supervisor, 'Next')).text?.split(' ')[1])
  let before = await look()
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    const now = await look()
    if (now === before + 1) break
    before = now
  }
  t.ok(before < 50_000, `it stopped at ${before} of 1000000`)
  call.cancel()
})

t.test('a client that goes away ends its stream in the service', async (t) => {
  const { supervisor, client, finished } = await routed(t)
  await supervisor.install(await counterBundle('1.0.0'), {})
  const call = client.makeServerStreamRequest(path('Tail'), same, same, Buffer.from(''))
  call.on('error', () => {})
  await new Promise((resolve) => call.once('data', resolve))
  call.cancel()
  await until('the report', () => finished.length === 1)
  t.same(finished, [`${path('Tail')} CANCELLED`])
})

t.test('a method that changes the device is delivered once its intent is on record, and not at all when it cannot be', async (t) => {
  const { supervisor, unary, finished } = await routed(t)
  const methods = COUNTER_METHODS.map((method) => (method.path === path('Next') ? { ...method, mutates: true } : method))
  await supervisor.install(await counterBundle('1.0.0', { methods }), {})
  let recorded = () => {}
  const intents: string[] = []
  t.teardown(() => {
    intent = async () => {}
  })
  intent = async (path) => {
    intents.push(path)
    await new Promise<void>((resolve) => {
      recorded = resolve
    })
  }
  const first = unary('Next')
  await until('the intent', () => intents.length === 1)
  t.match((await ask(supervisor, 'Next')).text, /1\.0\.0 1$/, 'the call over the API has not been counted yet')
  recorded()
  t.equal(await first, '1.0.0 2')
  intent = async () => {
    throw new OffboxError('STORE_FULL', 'no room for the record')
  }
  await t.rejects(unary('Next'), { code: grpc.status.RESOURCE_EXHAUSTED, details: /^STORE_FULL/ })
  intent = async () => {
    intents.push('again')
  }
  t.equal(await unary('Next'), '1.0.0 3')
  await unary('Do', 'nothing')
  t.same(intents, [path('Next'), 'again'], 'methods that change nothing need no record')
  await until('the reports', () => finished.length === 4)
  t.same(finished, [`${path('Next')} OK`, `${path('Next')} STORE_FULL`, `${path('Next')} OK`, `${path('Do')} OK`])
})
