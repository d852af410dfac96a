/** For tests of services: runs one in this process with fake capabilities, and the conformance suite that every service passes. */
import type { Capabilities } from '../../core/capabilities.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Health } from '../../core/health.ts'
import type { Manifest } from '../../core/manifest.ts'
import { fakeServices } from './fake-services.ts'
import { sharedBytes } from './hand-over.ts'
import { compareMethods } from './host.ts'
import type { Served, Service, ServiceClient, ServiceModule, Snapshot } from './service.ts'
import { testClient } from './testing-calls.ts'
import { readHealth } from './wire.ts'

/** What a service's manifest.json holds. */
export type ServiceManifest = Pick<Manifest, 'name' | 'version' | 'methods' | 'capabilities' | 'snapshot' | 'requires'>

export interface RunOptions {
  readonly manifest: ServiceManifest
  readonly config: unknown
  /** Fakes; only those that the manifest names are lent. */
  readonly capabilities?: Capabilities
  /** What other services serve, as far as the manifest requires it. */
  readonly services?: readonly Served[]
  readonly inherited?: Snapshot
  readonly quiesceTimeoutMs?: number
  readonly principal?: string
  readonly nowMs?: () => number
}

/** A service that runs in this process. `stop` it. */
export interface TestRun extends ServiceClient {
  readonly service: Service
  readonly logs: readonly { level: string; message: string; fields: Record<string, unknown> }[]
  health(): Health
  /** Aborts `ctx.signal` and every call, then stops the service. */
  stop(): Promise<void>
}

/** Creates, checks and starts it as the host does. Rejects as `start` does, after `stop` has run. */
export async function runService(module: ServiceModule, options: RunOptions): Promise<TestRun> {
  const service = module.create()
  const { manifest, nowMs = () => Date.now() } = options
  const logs: TestRun['logs'][number][] = []
  const abort = new AbortController()
  const lent = Object.entries(options.capabilities ?? {}).filter(([name]) => (manifest.capabilities as readonly string[]).includes(name))
  const stop = async () => {
    abort.abort(new OffboxError('SERVICE_DOWN', 'the service is stopping'))
    await service.stop()
  }
  try {
    const context = {
      service: manifest.name,
      version: manifest.version,
      signal: abort.signal,
      capabilities: Object.fromEntries(lent) as Capabilities,
      services: fakeServices({ caller: manifest, served: options.services ?? [] }),
      quiesceTimeoutMs: options.quiesceTimeoutMs ?? 10_000,
      sharedBytes: (sizeBytes: number) => sharedBytes(sizeBytes, false),
      nowMs,
      log: (level: string, message: string, fields: Record<string, unknown> = {}) => void logs.push({ level, message, fields }),
    }
    await service.start(service.check(options.config), context, options.inherited)
  } catch (error) {
    await stop()
    throw error
  }
  return { service, logs, stop, health: () => service.health(), ...caller(service, abort.signal, options.principal ?? 'spiffe://lab/operator/test') }
}

function caller(service: Service, signal: AbortSignal, principal: string): ServiceClient {
  return testClient({
    principal,
    signal,
    find: <K extends Served['kind']>(path: string, kind: K) => {
      const found = service.methods.find((one) => one.path === path && one.kind === kind)
      if (!found) throw new OffboxError('METHOD_NOT_FOUND', `the service does not serve ${path} (${kind})`)
      return found as Extract<Served, { kind: K }>
    },
  })
}

export interface ConformanceOptions {
  readonly manifest: ServiceManifest
  /** One that it accepts. */
  readonly config: unknown
  /** Each must be refused with CONFIG_INVALID. */
  readonly badConfigs?: readonly unknown[]
  /** Fresh, working fakes for one run. */
  readonly capabilities?: () => Capabilities
  /** Working handlers of the services that it calls. */
  readonly services?: readonly Served[]
  /** Uses the service, so that it has state worth handing over. */
  readonly use?: (run: TestRun) => Promise<unknown>
  /** What must survive a hand-over; compared as JSON. Default: the snapshot itself. */
  readonly observe?: (run: TestRun) => Promise<unknown>
  /** The release before: state goes to the new one and back. */
  readonly predecessor?: { readonly module: ServiceModule; readonly manifest: ServiceManifest; readonly config?: unknown }
}

/** The part of tap that is needed, so that the SDK does not depend on it. */
export interface Tester {
  test(claim: string, check: () => Promise<void>): unknown
}

/** How long one step may take before it counts as hanging; generous, for busy machines. */
const STEP_TIMEOUT_MS = 20_000
/** Capability calls of one start that are made to fail, one after the other. */
const FAILURES_MAX = 50

/** Every service passes this: `conformance(t, { create }, { manifest, config, capabilities })`. */
export function conformance(t: Tester, module: ServiceModule, options: ConformanceOptions): void {
  const { manifest, config } = options
  const fakes = () => options.capabilities?.() ?? {}
  const run = async (over: Partial<RunOptions> = {}) =>
    await within('start', runService(module, { manifest, config, capabilities: fakes(), services: options.services ?? [], ...over }))
  const create = () => module.create()

  t.test('serves exactly the methods of its manifest', async () => compareMethods(manifest, create()))

  for (const bad of options.badConfigs ?? []) {
    t.test(`refuses the configuration ${JSON.stringify(bad)?.slice(0, 80)}`, async () => {
      const code = codeThrown(() => create().check(bad))
      must(code === 'CONFIG_INVALID', `expected CONFIG_INVALID, got ${code}`)
    })
  }

  t.test('stops without a start, and twice', async () => {
    const service = create()
    await within('stop', service.stop())
    await within('stop', service.stop())
    const started = await run()
    await within('stop', started.stop())
    await within('stop', started.stop())
  })

  t.test('stops after a start that failed halfway, wherever that was', async () => {
    for (let failAt = 1; failAt <= FAILURES_MAX; failAt++) {
      const { capabilities, used } = failing(fakes(), failAt)
      // It may cope with the failure; it may not hang, and `stop` has to work either way.
      const started = await run({ capabilities }).catch(() => undefined)
      await within('stop', started?.stop() ?? Promise.resolve())
      if (used() < failAt) return
    }
  })

  t.test('tells its health in the agreed shape, and proves itself', async () => {
    const started = await run()
    try {
      readHealth(started.health())
      await within('selfTest', started.service.selfTest?.() ?? Promise.resolve())
      readHealth(started.health())
    } finally {
      await within('stop', started.stop())
    }
  })

  t.test('quiesce settles even when the machine does not answer, and stop works after it', async () => {
    const { capabilities, hang } = hanging(fakes())
    const started = await run({ capabilities, quiesceTimeoutMs: 200 })
    await options.use?.(started)
    hang()
    await within(
      'quiesce',
      (started.service.quiesce?.() ?? Promise.resolve()).catch(() => {}),
    )
    await within('stop', started.stop())
  })

  t.test('state that makes no sense does not hang it', async () => {
    for (const schema of [...manifest.snapshot.reads, 999]) {
      const started = await run({ inherited: { schema, bytes: new Uint8Array([0xff, 0, 0x7b]) } }).catch(() => undefined)
      await within('stop', started?.stop() ?? Promise.resolve())
    }
  })

  for (const schema of manifest.snapshot.writes) {
    t.test(`state in schema ${schema} survives a hand-over`, async () => {
      const giver = await run()
      await options.use?.(giver)
      const observed = await options.observe?.(giver)
      const given = await handOver(giver, schema)
      if (!manifest.snapshot.reads.includes(schema)) return
      const taker = await run({ inherited: { schema, bytes: given.bytes.slice() } })
      if (options.observe) same(await options.observe(taker), observed)
      else same([...(await handOver(taker, schema)).bytes], [...given.bytes])
      await within('stop', taker.stop())
    })
  }

  const { predecessor } = options
  if (!predecessor) return
  t.test(`state goes from ${predecessor.manifest.version} to ${manifest.version} and back`, async () => {
    const runOld = async (inherited?: Snapshot) => {
      const { module, manifest, config = options.config } = predecessor
      return await within(
        'start',
        runService(module, { manifest, config, capabilities: fakes(), services: options.services ?? [], ...(inherited ? { inherited } : {}) }),
      )
    }
    const before = await runOld()
    await options.use?.(before)
    const observed = await options.observe?.(before)
    const successor = await run({ inherited: await handOver(before, common(predecessor.manifest, manifest)) })
    if (options.observe) same(await options.observe(successor), observed)
    const after = await runOld(await handOver(successor, common(manifest, predecessor.manifest)))
    if (options.observe) same(await options.observe(after), observed)
    await within('stop', after.stop())
  })
}

/** Quiesce, snapshot, stop: as the agent does it. */
async function handOver(giver: TestRun, schema: number): Promise<Snapshot> {
  await within('quiesce', giver.service.quiesce?.() ?? Promise.resolve())
  const given = giver.service.snapshot?.(schema)
  await within('stop', giver.stop())
  if (!given || given.schema !== schema || !(given.bytes instanceof Uint8Array)) throw new Error(`snapshot(${schema}) gave no snapshot in schema ${schema}`)
  return given
}

function common(giver: ServiceManifest, taker: ServiceManifest): number {
  const schema = Math.max(...giver.snapshot.writes.filter((one) => taker.snapshot.reads.includes(one)))
  must(Number.isFinite(schema), `${giver.version} writes nothing that ${taker.version} reads`)
  return schema
}

/** Wraps every operation of every capability. */
function wrapped(capabilities: Capabilities, before: () => Promise<void>): Capabilities {
  const wrap = (target: object) =>
    new Proxy(target, {
      get: (object, name) => {
        const operation = Reflect.get(object, name)
        if (typeof operation !== 'function') return operation
        return async (input: unknown) => {
          await before()
          return await operation.call(object, input)
        }
      },
    })
  return Object.fromEntries(Object.entries(capabilities).map(([name, one]) => [name, wrap(one)])) as Capabilities
}

function failing(fakes: Capabilities, failAt: number): { capabilities: Capabilities; used: () => number } {
  let used = 0
  const capabilities = wrapped(fakes, async () => {
    used++
    if (used === failAt) throw new OffboxError('DRIVER_FAILED', 'failed by the conformance suite')
  })
  return { capabilities, used: () => used }
}

function hanging(fakes: Capabilities): { capabilities: Capabilities; hang: () => void } {
  let hangs = false
  const capabilities = wrapped(fakes, async () => {
    if (hangs) await new Promise(() => {})
  })
  return {
    capabilities,
    hang: () => {
      hangs = true
    },
  }
}

async function within<T>(what: string, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not settle within ${STEP_TIMEOUT_MS} ms`)), STEP_TIMEOUT_MS)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

function codeThrown(act: () => unknown): unknown {
  try {
    act()
  } catch (error) {
    return (error as { code?: unknown }).code ?? error
  }
  return 'no error'
}

function same(found: unknown, wanted: unknown): void {
  must(JSON.stringify(found) === JSON.stringify(wanted), `found ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`)
}

function must(holds: boolean, text: string): void {
  if (!holds) throw new Error(text)
}
