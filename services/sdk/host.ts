/** Runs one service inside a worker: obeys the agent's controls, lends the granted capabilities, hands calls to the handlers. */
import type { Capabilities } from '../../core/capabilities.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Manifest } from '../../core/manifest.ts'
import { Channels } from './channels.ts'
import { ServedCalls, type Send } from './served-calls.ts'
import type { Service, ServiceContext, ServiceModule, Snapshot } from './service.ts'
import { exactCopy, LogLimit, readHealth, toWireError, WIRE_LIMITS, type Control, type LogLevel, type ToWorker } from './wire.ts'

export interface HostOptions {
  /** Evaluates the payload; called once, at the first load. */
  readonly load: () => unknown
  readonly manifest: Pick<Manifest, 'name' | 'version' | 'methods' | 'capabilities' | 'requires' | 'limits'>
  readonly quiesceTimeoutMs: number
  readonly send: Send
}

/** What a service gets to see instances of; the sandbox freezes them. */
export const HOST_CLASSES: readonly unknown[] = [OffboxError]

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
    else if ('channel' in message) this.#channels.receive(message)
    else this.#calls.receive(message)
  }

  async #control(id: number, control: Control): Promise<void> {
    const { send } = this.#options
    try {
      const value = await this.#obey(control)
      if (control.action === 'snapshot') send({ type: 'done', id, value }, (value as Snapshot).bytes)
      // Nothing but health has a value; what a service happens to return must not spoil a batch.
      else send({ type: 'done', id, ...(control.action === 'health' ? { value: readHealth(value) } : {}) })
    } catch (error) {
      const wire = toWireError(error)
      if (wire.code === 'INTERNAL') this.#log('warn', 'a control failed', { action: control.action, error: textOf(error) })
      send({ type: 'done', id, error: wire })
    }
  }

  async #obey(control: Control): Promise<unknown> {
    switch (control.action) {
      case 'load':
        return await this.#load(control.config)
      case 'start':
        return await this.#start(control.inherited)
      case 'selfTest':
        return await this.#running().selfTest?.()
      case 'health':
        return this.#running().health()
      case 'quiesce':
        await this.#running().quiesce?.()
        return await this.#channels.finish(WIRE_LIMITS.channelsFinishMs)
      case 'snapshot':
        return this.#snapshot(control.schema)
      case 'stop':
        return await this.#stop()
    }
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
  }

  async #start(inherited: Snapshot | undefined): Promise<void> {
    const service = this.#running()
    try {
      await service.start(this.#config, this.#context(), inherited)
    } catch (error) {
      await this.#stop()
      throw error
    }
    this.#calls.serve(service.methods)
  }

  #snapshot(schema: number): Snapshot {
    const service = this.#running()
    if (!service.snapshot) throw new OffboxError('INTERNAL', 'the manifest lists snapshot.writes but the service has no snapshot()')
    const { bytes } = service.snapshot(schema)
    if (!(bytes instanceof Uint8Array) || (bytes.buffer as ArrayBuffer).detached)
      throw new OffboxError('INTERNAL', 'snapshot() gave no bytes, or the same twice')
    // A view is copied, since its whole buffer would go.
    return { schema, bytes: bytes.byteLength === bytes.buffer.byteLength && bytes.buffer instanceof ArrayBuffer ? bytes : exactCopy(bytes) }
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
      nowMs: () => Date.now(),
      log: (level, message, fields = {}) => this.#log(level, message, fields),
    }
  }

  #capability(capability: string): unknown {
    const ask = (operation: string, input: unknown) =>
      new Promise((resolve, reject) => {
        const id = this.#nextId++
        // An input that cannot be cloned throws here and rejects.
        this.#options.send({ type: 'capability', id, capability, operation, input: structuredClone(input) })
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

/** Fields as plain JSON of bounded length. */
function plainFields(fields: Record<string, unknown>): Record<string, unknown> {
  try {
    const text = JSON.stringify(fields) ?? '{}'
    return text.length <= WIRE_LIMITS.logFieldsCharsMax ? JSON.parse(text) : { truncated: text.slice(0, WIRE_LIMITS.logFieldsCharsMax) }
  } catch (error) {
    return { unprintable: textOf(error).slice(0, 200) }
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
