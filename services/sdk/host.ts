/** Runs one service inside a worker: obeys the agent's controls, lends the granted capabilities, hands calls to the handlers. */
import type { Capabilities } from '../../core/capabilities.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Manifest } from '../../core/manifest.ts'
import { Channels } from './channels.ts'
import { loadChecksums } from './checksum.ts'
import { guarded } from './guard.ts'
import { checksumOf, rehearse, seal, sharedBytes, unseal } from './hand-over.ts'
import { Incoming, ServedCalls, type Send } from './served-calls.ts'
import type { Service, ServiceContext, ServiceModule } from './service.ts'
import { LogLimit, plainFields, readHealth, toWireError, WIRE_LIMITS, type Control, type LogLevel, type SealedSnapshot, type ToWorker } from './wire.ts'

export interface HostOptions {
  /** Evaluates the payload; called once, at the first load. */
  readonly load: () => unknown
  readonly manifest: Pick<Manifest, 'name' | 'version' | 'methods' | 'capabilities' | 'requires' | 'limits'>
  readonly quiesceTimeoutMs: number
  readonly send: Send
  /** Whether memory can be shared with the agent and with other versions: not between processes. */
  readonly sharesMemory?: boolean
  /** Collects the garbage of the whole thread. */
  readonly collect?: (() => void) | undefined
}

/** What a service gets to see instances of; the sandbox freezes them. */
export const HOST_CLASSES: readonly unknown[] = [OffboxError, Incoming, SharedArrayBuffer]

/** After a start, by when the calls held for it are answered. */
const CHECKSUMS_AFTER_MS = 500

// Taken when the module is loaded: a service cannot replace it later.
const setTimeoutOfHost = setTimeout

/** One at a time: the agent sends the next control (but health) when the one before is answered. */
export class ServiceHost {
  readonly #options: HostOptions
  readonly #calls: ServedCalls
  readonly #channels: Channels
  readonly #logLimit: LogLimit
  readonly #asked = new Map<number, { resolve: (value: unknown) => void; reject: (error: unknown) => void }>()
  #nextId = 1
  #module: ServiceModule | undefined
  #service: Service | undefined
  #config: unknown
  #abort = new AbortController()
  /** Made before calls are held. */
  #ready: ServiceContext | undefined
  /** Of the state given or taken last. */
  #checksum: (() => Promise<number>) | undefined

  constructor(options: HostOptions) {
    this.#options = options
    const { limits } = options.manifest
    const tell = (count: number) => options.send({ type: 'logsDropped', count })
    this.#logLimit = new LogLimit({ perSecond: limits?.logLinesPerSecondMax, later: (delayMs, callback) => void setTimeoutOfHost(callback, delayMs), tell })
    this.#channels = new Channels(options.send)
    const failed = (method: string, error: unknown) => this.#log('error', 'a handler failed', { method, error: textOf(error) })
    // To know which call a handler serves costs a little on each: only those that call others pay.
    const calls = Object.keys(options.manifest.requires?.apis ?? {}).length > 0
    this.#calls = calls ? new ServedCalls(options.send, failed, this.#channels.within) : new ServedCalls(options.send, failed)
  }

  receive(message: ToWorker): void {
    if (message.type === 'control') void this.#control(message.id, message)
    else if (message.type === 'capabilityResult') this.#answered(message)
    else if (message.type === 'collect') this.#options.collect?.()
    else if ('channel' in message) this.#channels.receive(message)
    else this.#calls.receive(message)
  }

  async #control(id: number, control: Control): Promise<void> {
    const { send } = this.#options
    try {
      const { value, owned } = await this.#obey(control)
      send({ type: 'done', id, ...(value === undefined ? {} : { value }) }, owned)
    } catch (error) {
      const wire = toWireError(error)
      if (wire.code === 'INTERNAL') this.#log('warn', 'a control failed', { action: control.action, error: textOf(error) })
      send({ type: 'done', id, error: wire })
    }
  }

  /** What a service happens to return is left out where nothing is asked for: it must not spoil a batch. */
  async #obey(control: Control): Promise<{ value?: unknown; owned?: Uint8Array }> {
    switch (control.action) {
      case 'load':
        await this.#load(control.config)
        return {}
      case 'start':
        await this.#start(control.inherited)
        return {}
      case 'health':
        return { value: readHealth(this.#running().health()) }
      case 'quiesce':
        await this.#quiesce()
        return {}
      case 'snapshot':
        if (control.quiesce) await this.#quiesce()
        return this.#snapshot(control.schema)
      case 'rehearse':
        rehearse()
        return {}
      case 'checksum':
        if (!this.#checksum) throw new OffboxError('STATE_REFUSED', 'no state was given or taken')
        return { value: await this.#checksum() }
      case 'stop':
        await this.#stop()
        return {}
    }
  }

  async #quiesce(): Promise<void> {
    await this.#running().quiesce?.()
    await this.#channels.finish(WIRE_LIMITS.channelsFinishMs)
  }

  /** A fresh service object; also for a service that is to come back in a worker kept warm. */
  async #load(config: unknown): Promise<void> {
    await this.#stop()
    this.#module ??= asModule(this.#options.load())
    const service = this.#module.create()
    compareMethods(this.#options.manifest, service)
    this.#config = service.check(config)
    this.#service = service
    this.#abort = new AbortController()
    this.#channels.reopen()
    this.#ready = this.#context()
  }

  async #start(inherited: SealedSnapshot | undefined): Promise<void> {
    const service = this.#running()
    if (inherited) this.#take(inherited)
    try {
      await service.start(this.#config, this.#ready ?? this.#context(), inherited && { schema: inherited.schema, bytes: inherited.bytes })
      await service.selfTest?.()
    } catch (error) {
      await this.#stop()
      throw error
    }
    this.#calls.serve(service.methods)
    setTimeoutOfHost(loadChecksums, CHECKSUMS_AFTER_MS)
  }

  /** @throws SNAPSHOT_CORRUPT */
  #take(inherited: SealedSnapshot): void {
    unseal(inherited)
    // Not before it is asked for: clients wait for the start.
    this.#checksum = async () => await checksumOf(inherited)
  }

  #snapshot(schema: number): { value: SealedSnapshot; owned?: Uint8Array } {
    const service = this.#running()
    if (!service.snapshot) throw new OffboxError('INTERNAL', 'the manifest lists snapshot.writes but the service has no snapshot()')
    const sealed = seal(service.snapshot(schema), schema)
    // At once, before anybody else could write to what is shared.
    const checksum = checksumOf(sealed.value)
    checksum.catch(() => {})
    this.#checksum = async () => await checksum
    return sealed
  }

  async #stop(): Promise<void> {
    const service = this.#service
    this.#service = undefined
    this.#abort.abort(new OffboxError('SERVICE_DOWN', 'the service is stopping'))
    this.#calls.serve([])
    this.#calls.abortAll('the service is stopping')
    this.#channels.close('SERVICE_DOWN', 'the service is stopping')
    await service?.stop()
  }

  #running(): Service {
    if (!this.#service) throw new OffboxError('STATE_REFUSED', 'no service is loaded in this worker')
    return this.#service
  }

  #context(): ServiceContext {
    const { manifest, quiesceTimeoutMs } = this.#options
    const capabilities = Object.fromEntries(manifest.capabilities.map((name) => [name, this.#capability(name)]))
    return {
      service: manifest.name,
      version: manifest.version,
      signal: this.#abort.signal,
      capabilities: Object.freeze(capabilities) as Capabilities,
      services: this.#channels.client,
      quiesceTimeoutMs,
      sharedBytes: (sizeBytes) => sharedBytes(sizeBytes, this.#options.sharesMemory === true),
      nowMs: () => Date.now(),
      log: (level, message, fields = {}) => this.#log(level, message, fields),
    }
  }

  #capability(capability: string): unknown {
    const ask = (operation: string, input: unknown) =>
      new Promise((resolve, reject) => {
        const id = this.#nextId++
        // An input that cannot be cloned throws here and rejects.
        this.#options.send({ type: 'capability', id, capability, operation, input: guarded(() => structuredClone(input)) })
        this.#asked.set(id, { resolve, reject })
      })
    // `then` is left out: a capability that is returned from an async function must not look like a promise.
    return new Proxy(Object.freeze({}), {
      get: (_, operation) => (typeof operation === 'string' && operation !== 'then' ? (input?: unknown) => ask(operation, input) : undefined),
    })
  }

  #answered(message: Extract<ToWorker, { type: 'capabilityResult' }>): void {
    const asked = this.#asked.get(message.id)
    this.#asked.delete(message.id)
    if (message.error) asked?.reject(new OffboxError(message.error.code, message.error.message))
    else asked?.resolve(message.value)
  }

  #log(level: LogLevel, message: string, fields: Record<string, unknown>): void {
    if (!this.#logLimit.admit(performance.now())) return
    this.#options.send({
      type: 'log',
      level,
      message: String(message).slice(0, WIRE_LIMITS.logMessageCharsMax),
      fields: plainFields(fields),
    })
  }
}

function asModule(exports: unknown): ServiceModule {
  const module = exports as ServiceModule | undefined
  if (typeof module?.create !== 'function') throw new OffboxError('BUNDLE_MALFORMED', 'the payload exports no function "create"')
  return module
}

/** @throws BUNDLE_MALFORMED naming the method */
export function compareMethods(manifest: HostOptions['manifest'], service: Service): void {
  const declared = manifest.methods.map(({ path, kind }) => `${path} (${kind})`).sort()
  const served = service.methods.map(({ path, kind }) => `${path} (${kind})`).sort()
  const missing = declared.find((one) => !served.includes(one)) ?? served.find((one) => !declared.includes(one))
  if (missing !== undefined || declared.length !== served.length) {
    throw new OffboxError('BUNDLE_MALFORMED', `the manifest and the service disagree about method ${missing ?? 'count'}`)
  }
}

function textOf(error: unknown): string {
  return (error instanceof Error ? (error.stack ?? error.message) : String(error)).slice(0, WIRE_LIMITS.errorCharsMax)
}
