import t from 'tap'
import { conformance, runService, type ServiceManifest, type Tester } from '../../../services/sdk/testing.ts'
import type { Health, Service, ServiceContext, Snapshot } from '../../../services/sdk/service.ts'
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
