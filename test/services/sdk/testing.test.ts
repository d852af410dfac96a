import t from 'tap'
import type { Method, MethodKind } from '../../../proto/codec.ts'
import { conformance, runService, type ServiceManifest, type Tester } from '../../../services/sdk/testing.ts'
import { type Call, clientStream, type Health, type Service, type ServiceContext, type Snapshot, serverStream, unary } from '../../../services/sdk/service.ts'
import { WIRE_LIMITS } from '../../../services/sdk/wire.ts'
import { COUNTER_METHODS } from '../../fixtures/services/counter/bundle.ts'
import { create as createCounter } from '../../fixtures/services/counter/service.ts'

const manifest: ServiceManifest = { name: 'counter', version: '1.1.0', methods: COUNTER_METHODS, capabilities: ['proc'], snapshot: { writes: [1], reads: [1] } }
const capabilities = () => ({ proc: { read: async () => ({ cpuBusyMs: 1, cpuIdleMs: 1, memoryTotalBytes: 1, memoryAvailableBytes: 1, load1: 1 }) } })

t.test('the counter conforms', async (t) => {
  conformance(
    t,
    { create: createCounter },
    { manifest, config: {}, badConfigs: [null, 'text'], capabilities, predecessor: { module: { create: createCounter }, manifest } },
  )
})

/** A service that breaks the contract in one place. */
class Broken implements Service<unknown> {
  readonly methods = []
  readonly #broken: string
  #stopped = false
  constructor(broken: string) {
    this.#broken = broken
  }
  check(raw: unknown): unknown {
    return raw
  }
  async start(_: unknown, context: ServiceContext): Promise<void> {
    if (this.#broken === 'hangs when a capability fails') await context.capabilities.proc?.read().catch(() => new Promise(() => {}))
  }
  async stop(): Promise<void> {
    if (this.#stopped && this.#broken === 'cannot stop twice') throw new Error('stopped twice')
    this.#stopped = true
  }
  health(): Health {
    return this.#broken === 'has no evidence' ? ({ status: 'healthy' } as never) : { status: 'healthy', evidence: {} }
  }
  snapshot(schema: number): Snapshot {
    return { schema: this.#broken === 'gives another schema' ? schema + 1 : schema, bytes: new Uint8Array([Math.floor(Math.random() * 256)]) }
  }
}

for (const [broken, claim] of [
  ['cannot stop twice', 'stops without a start, and twice'],
  ['has no evidence', 'tells its health in the agreed shape, and proves itself'],
  ['gives another schema', 'state in schema 1 survives a hand-over'],
] as const) {
  t.test(`a service that ${broken} does not conform`, async (t) => {
    const checks = new Map<string, () => Promise<void>>()
    const collect: Tester = { test: (name, check) => checks.set(name, check) }
    conformance(collect, { create: () => new Broken(broken) }, { manifest: { ...manifest, methods: [] }, config: {}, capabilities })
    await t.rejects(checks.get(claim)?.() ?? Promise.resolve())
  })
}

t.test('a run in this process lends only what the manifest names', async (t) => {
  const lent: string[] = []
  const create = () => {
    const service: Service = new Broken('')
    service.start = async (_, context) => void lent.push(...Object.keys(context.capabilities))
    return service
  }
  const run = await runService({ create }, { manifest: { ...manifest, methods: [], capabilities: [] }, config: {}, capabilities: capabilities() })
  t.same(lent, [])
  await run.stop()
})

const raw = { encode: (bytes: Uint8Array) => bytes, decode: (bytes: Uint8Array) => bytes as never }
const method = (kind: MethodKind): Method<Uint8Array, Uint8Array> => ({ path: `/test.Counter/${kind}`, kind, request: raw, response: raw })
const bytes = (length: number) => new Uint8Array(length)

/** Runs a service whose methods are these. */
async function serving(methods: Service['methods'], start: Service['start'] = async () => {}) {
  const create = () => Object.assign(new Broken(''), { methods, start })
  return await runService({ create }, { manifest: { ...manifest, capabilities: [] }, config: {} })
}

t.test('a handler may do in a test what it may on a device, and nothing else', async (t) => {
  const cursor = 'x'.repeat(WIRE_LIMITS.cursorCharsMax)
  const allowed: ((call: Call) => void)[] = [
    (call) => call.mark(cursor),
    (call) => call.begin(cursor),
    (call) => call.sendMetadata({ key: 'value', 'key-bin': bytes(1) }),
    (call) => call.setTrailers({ key: ['one', 'two'] }),
  ]
  const refused: [(call: Call) => void, { code: string } | typeof TypeError][] = [
    [(call) => call.mark(`${cursor}x`), { code: 'LIMIT_REACHED' }],
    [(call) => call.begin(5 as never), { code: 'LIMIT_REACHED' }],
    [(call) => call.sendMetadata({ 'grpc-status': '0' }), TypeError],
    [(call) => call.sendMetadata({ 'key-bin': 'text' }), TypeError],
    [
      (call) => {
        for (const value of ['one', 'two']) call.sendMetadata({ key: value })
      },
      TypeError,
    ],
    [(call) => call.setTrailers({ 'offbox-error': 'x' }), TypeError],
  ]
  let act: (call: Call) => unknown = () => {}
  const run = await serving([
    unary(method('unary'), async (_, call) => (act(call) as Uint8Array | undefined) ?? bytes(0)),
    serverStream(method('serverStream'), async function* (_, call) {
      yield bytes(1)
      act(call)
    }),
  ])
  for (act of allowed) t.same(await run.unary(method('unary'), bytes(0)), bytes(0))
  for (const [bad, error] of refused) {
    act = bad
    await t.rejects(run.unary(method('unary'), bytes(0)), error, String(bad))
  }
  act = () => bytes(WIRE_LIMITS.messageBytesMax + 1)
  await t.rejects(run.unary(method('unary'), bytes(0)), { code: 'LIMIT_REACHED' })
  act = () => 'text'
  await t.rejects(run.unary(method('unary'), bytes(0)), TypeError)
  act = (call) => call.sendMetadata({ key: 'value' })
  const stream = run.serverStream(method('serverStream'), bytes(0))
  await stream.next()
  await t.rejects(stream.next(), TypeError, 'too late for initial metadata')
  await run.stop()
})

t.test('a caller has its limits, and is told of; leaving the loop, or the stop of the service, ends its call', async (t) => {
  const calls: Call[] = []
  const run = await serving([
    unary(method('unary'), async (_, call) => bytes(calls.push(call) && 0)),
    clientStream(method('clientStream'), async (requests) => {
      for await (const _ of requests);
      return bytes(0)
    }),
    serverStream(method('serverStream'), async function* (_, call) {
      calls.push(call)
      for (;;) yield bytes(1)
    }),
  ])
  const tooLong = bytes(WIRE_LIMITS.messageBytesMax + 1)
  await t.rejects(run.unary(method('unary'), tooLong), { code: 'LIMIT_REACHED' })
  await t.rejects(run.clientStream(method('clientStream'), [bytes(1), tooLong]), { code: 'LIMIT_REACHED' })
  await t.rejects(run.unary(method('unary'), bytes(0), { metadata: { 'offbox-x': '' } }), { code: 'ARGUMENT_INVALID' })
  const many = Object.fromEntries(Array.from({ length: WIRE_LIMITS.metadataKeysMax + 1 }, (_, index) => [`k${index}`, '']))
  await t.rejects(run.unary(method('unary'), bytes(0), { metadata: many }), { code: 'LIMIT_REACHED' })
  await t.rejects(run.unary(method('unary'), bytes(0), { timeoutMs: -1 }), { code: 'ARGUMENT_INVALID' })
  await t.rejects(run.unary(method('unary'), bytes(0), { signal: AbortSignal.abort() }), { code: 'DEADLINE_PASSED' })
  t.equal(calls.length, 0, 'none of these began')
  await run.unary(method('unary'), bytes(0), { metadata: { key: 'value', 'key-bin': 'AQI=' } })
  t.match(calls.pop(), { metadata: { key: 'value' }, binaryMetadata: { 'key-bin': [new Uint8Array([1, 2])] } })
  for await (const _ of run.serverStream(method('serverStream'), bytes(0))) break
  t.match(calls.pop()?.signal.reason, { code: 'DEADLINE_PASSED' })
  await run.unary(method('unary'), bytes(0))
  await run.stop()
  t.match(calls.pop()?.signal.reason, { code: 'SERVICE_DOWN' })
})

t.test('memory for state is as limited in a test as it is on a device', async (t) => {
  let asked = WIRE_LIMITS.snapshotBytesMax + 1
  const start: Service['start'] = async (_, context) => void context.sharedBytes(asked)
  await t.rejects(serving([], start), { code: 'LIMIT_REACHED' })
  asked = 8
  await (await serving([], start)).stop()
})
