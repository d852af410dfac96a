import * as grpc from '@grpc/grpc-js'
import protobuf from 'protobufjs'
import descriptor from 'protobufjs/ext/descriptor.js'
import t, { type Test } from 'tap'
import { OWN_APIS } from '../../../agent/api/authorize.ts'
import { Gate } from '../../../agent/api/gate.ts'
import { serveHealth, servingOf } from '../../../agent/api/health.ts'
import { answerOf, serveReflection } from '../../../agent/api/reflection.ts'
import { attachRoutes } from '../../../agent/api/route.ts'
import { Serve } from '../../../agent/api/serve.ts'
import { toStatus } from '../../../agent/api/status.ts'
import { systemClock as clock } from '../../../core/clock.ts'
import { appendDescriptors, DESCRIPTOR_LIMITS, readDescriptors } from '../../../core/descriptors.ts'
import { buildBundle } from '../../../fleet/registry/make.ts'
import { splitBundle } from '../../../core/bundle-format.ts'
import type { Method } from '../../../proto/codec.ts'
import { HealthMethods } from '../../../proto/gen/health.ts'
import { ServerReflectionMethods as AlphaMethods } from '../../../proto/gen/reflection-alpha.ts'
import { type ServerReflectionRequestInit, type ServerReflectionResponse, ServerReflectionMethods } from '../../../proto/gen/reflection.ts'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { openLog } from '../audit/opened.ts'
import { harness, until } from '../supervisor/harness.ts'

const root = `${import.meta.dirname}/../../..`
const log = { error: () => {} }

/** What the agent serves of its own, with a supervisor of real workers behind it, on loopback; the caller is an operator, or what `role` says. */
async function agent(t: Test, role = 'operator') {
  const { supervisor, onMethodsChanged } = await harness()
  const server = new grpc.Server()
  const { audit } = await openLog()
  const principal = { spiffeId: `spiffe://lab/${role}/me`, role, id: 'me' }
  const gate = new Gate({ connection: () => ({ principal, serial: '', openedAtMonotonicMs: 0 }) }, audit, clock)
  const serve = new Serve({ server, gate, log })
  serveHealth(serve, supervisor)
  serveReflection(serve, supervisor)
  const routes = attachRoutes(server, supervisor, {
    admit: (call, path) => gate.admit(call, path),
    intent: async () => {},
    finished: (admitted, status) => gate.finished(admitted, status),
    toStatus: (error) => toStatus(error, log),
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
    await audit.close()
  })
  return { supervisor, client }
}

const to =
  <T>({ encode }: { encode(value: T): Uint8Array }) =>
  (value: T) =>
    Buffer.from(encode(value))
async function unary<Req, Res>(client: grpc.Client, { path, request, response }: Method<Req, Res>, value: Req): Promise<unknown> {
  return await new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, to(request), response.decode, value, (error, answer) => (error ? reject(error) : resolve(answer)))
  })
}
const check = async (client: grpc.Client, service: string) => ((await unary(client, HealthMethods.Check, { service })) as { status: number }).status
const [SERVING, NOT_SERVING, SERVICE_UNKNOWN] = [1, 2, 3]

t.test('health is told per gRPC service and for the device, and what nobody serves is NOT_FOUND', async (t) => {
  const { supervisor, client } = await agent(t)
  for (const api of ['', ...OWN_APIS]) t.equal(await check(client, api), SERVING, api)
  await t.rejects(check(client, 'test.Counter'), { code: grpc.status.NOT_FOUND })
  await supervisor.install(await counterBundle('1.0.0'), { misbehave: 'unhealthy', afterMs: 0 })
  await until('it to be seen', () => supervisor.get('counter')?.health?.status === 'unhealthy')
  t.equal(await check(client, 'test.Counter'), NOT_SERVING)
  t.equal(await check(client, ''), NOT_SERVING)
  t.match(await unary(client, HealthMethods.List, {}), {
    statuses: { '': { status: NOT_SERVING }, 'test.Counter': { status: NOT_SERVING }, 'offbox.v1.Device': { status: SERVING } },
  })
})

t.test('a watcher hears the first state at once and every change, also of a service that comes and goes', async (t) => {
  const { supervisor, client } = await agent(t)
  const { path, request, response } = HealthMethods.Watch
  const call = client.makeServerStreamRequest(path, to(request), response.decode, { service: 'test.Counter' })
  const heard: number[] = []
  call.on('data', ({ status }) => heard.push(status))
  call.on('error', () => {})
  await until('the first', () => heard.length === 1)
  await supervisor.install(await counterBundle('1.0.0'), {})
  await until('serving', () => heard.includes(SERVING))
  await supervisor.remove('counter')
  await until('its end', () => heard.at(-1) === SERVICE_UNKNOWN)
  t.equal(heard[0], SERVICE_UNKNOWN)
  t.ok(
    heard.every((status, at) => status !== heard[at - 1]),
    'nothing is told twice',
  )
  call.cancel()
})

t.test('a service that is not ready does not serve, whatever it said of its health', async (t) => {
  const { manifest } = await counterBundle('1.0.0')
  for (const [state, status, wanted] of [
    ['ready', 'healthy', SERVING],
    ['ready', 'degraded', SERVING],
    ['backoff', 'healthy', NOT_SERVING],
    ['ready', 'unhealthy', NOT_SERVING],
  ] as const) {
    t.equal(servingOf([{ state, health: { status, evidence: {} }, manifest }]).get('test.Counter'), wanted, `${state} ${status}`)
  }
})

async function reflect(
  client: grpc.Client,
  requests: readonly ServerReflectionRequestInit[],
  { path, request, response } = ServerReflectionMethods.ServerReflectionInfo,
) {
  const call = client.makeBidiStreamRequest(path, to(request), response.decode)
  const answers: ServerReflectionResponse[] = []
  call.on('data', (answer) => answers.push(answer))
  for (const one of requests) call.write(one)
  call.end()
  const { code } = await new Promise<grpc.StatusObject>((resolve) => call.on('error', () => {}).on('status', resolve))
  return { code, answers }
}

t.test('somebody who knows nothing of a service can call it from what reflection says', async (t) => {
  const { supervisor, client } = await agent(t)
  const { manifest, file } = await buildBundle(`${root}/bench/meter`)
  await supervisor.install({ manifest, manifestSha256: '0'.repeat(64), keyIds: [], payload: splitBundle(file).payload }, {})
  for (const methods of [ServerReflectionMethods.ServerReflectionInfo, AlphaMethods.ServerReflectionInfo as never]) {
    const { answers, code } = await reflect(client, [{ listServices: '' }, { fileContainingSymbol: 'offbox.v1.Telemetry' }], methods)
    t.equal(code, grpc.status.OK)
    t.same(
      answers[0]?.listServicesResponse?.service.map(({ name }) => name),
      [...OWN_APIS, 'offbox.v1.Telemetry'].sort(),
    )
    const files = answers[1]?.fileDescriptorResponse?.fileDescriptorProto ?? []
    const set = descriptor.FileDescriptorSet.create({ file: files.map((bytes) => descriptor.FileDescriptorProto.decode(bytes)) })
    const types = (protobuf.Root as unknown as { fromDescriptor(set: unknown): protobuf.Root }).fromDescriptor(set).resolveAll()
    const method = types.lookupService('offbox.v1.Telemetry').methods['Get']
    const [from, into] = [types.lookupType(method?.requestType ?? ''), types.lookupType(method?.responseType ?? '')]
    const answer = await new Promise<Record<string, unknown>>((resolve, reject) => {
      client.makeUnaryRequest(
        '/offbox.v1.Telemetry/Get',
        (value: object) => Buffer.from(from.encode(from.fromObject(value)).finish()),
        (bytes) => into.toObject(into.decode(bytes), { longs: Number }),
        { callSequence: 41 },
        (error, value) => (error ? reject(error) : resolve(value ?? {})),
      )
    })
    t.match(answer, { callSequence: 41, interfaces: [{ name: 'eth0' }] })
  }
})

t.test('descriptors of the agent itself are complete, with absolute names, and what is not there is NOT_FOUND', async (t) => {
  const none = { methods: () => [], descriptors: () => [new Uint8Array([1, 2, 3])] }
  for (const api of OWN_APIS) {
    const files = answerOf({ fileContainingSymbol: api }, none).fileDescriptorResponse?.fileDescriptorProto ?? []
    const [own, ...imported] = files.map((bytes) => descriptor.FileDescriptorProto.toObject(descriptor.FileDescriptorProto.decode(bytes as Uint8Array)))
    t.ok(own, api)
    t.notMatch(JSON.stringify(own), /"typeName":"[^.]/, 'stricter readers ask for full names')
    const names = new Set(imported.map((file) => (file as { name: string }).name))
    const missing = [own, ...imported].flatMap((file) => (file as { dependency?: string[] } | undefined)?.dependency ?? []).filter((name) => !names.has(name))
    t.same(missing, [], `${api} with all that it imports`)
  }
  t.ok(answerOf({ fileContainingSymbol: 'offbox.v1.Lifecycle.List' }, none).fileDescriptorResponse)
  t.ok(answerOf({ fileContainingSymbol: '.grpc.health.v1.HealthCheckResponse.ServingStatus' }, none).fileDescriptorResponse)
  t.ok(answerOf({ fileByFilename: 'offbox/v1/device.proto' }, none).fileDescriptorResponse)
  t.match(answerOf({ allExtensionNumbersOfType: 'offbox.v1.InfoRequest' }, none), { allExtensionNumbersResponse: { extensionNumber: [] } })
  for (const request of [
    { fileContainingSymbol: 'x.Y' },
    { fileByFilename: 'x.proto' },
    { allExtensionNumbersOfType: 'x.Y' },
    { fileContainingExtension: { containingType: 'x.Y', extensionNumber: 1 } },
  ]) {
    t.equal(answerOf(request, none).errorResponse?.errorCode, grpc.status.NOT_FOUND, JSON.stringify(request))
  }
  t.equal(answerOf({}, none).errorResponse?.errorCode, grpc.status.INVALID_ARGUMENT)
})

t.test('a bundle cannot speak for the files of the agent', async (t) => {
  const [own] =
    answerOf({ fileByFilename: 'offbox/v1/device.proto' }, { methods: () => [], descriptors: () => [] }).fileDescriptorResponse?.fileDescriptorProto ?? []
  const forged = descriptor.FileDescriptorProto.encode(descriptor.FileDescriptorProto.create({ name: 'offbox/v1/device.proto', package: 'evil' })).finish()
  const answer = answerOf({ fileByFilename: 'offbox/v1/device.proto' }, { methods: () => [], descriptors: () => [forged] })
  t.same(answer.fileDescriptorResponse?.fileDescriptorProto, [own])
})

t.test('health and reflection are for callers of the fleet alone', async (t) => {
  const { client } = await agent(t, 'device')
  await t.rejects(check(client, ''), { code: grpc.status.PERMISSION_DENIED })
  t.equal((await reflect(client, [{ listServices: '' }])).code, grpc.status.PERMISSION_DENIED)
})

t.test('descriptors ride in the last line of a payload, and have a bound', async (t) => {
  const files = [new Uint8Array([1, 2, 3]), new Uint8Array([4])]
  const code = 'var offboxService = {}\n'
  t.same(readDescriptors(Buffer.from(appendDescriptors(code, files))), files)
  t.same(readDescriptors(Buffer.from(code)), [])
  t.same(readDescriptors(Buffer.from(`${code}\n//# offbox.descriptors=<script>`)), [])
  t.equal(appendDescriptors(code, []), code)
  t.throws(() => appendDescriptors(code, [new Uint8Array(DESCRIPTOR_LIMITS.bytesMax + 1)]), RangeError)
  t.same(readDescriptors(Buffer.from(`${code}\n//# offbox.descriptors=${'AAAA,'.repeat(DESCRIPTOR_LIMITS.filesMax + 1).slice(0, -1)}`)), [])
})
