/** The service, as far as its releases agree; service.ts and releases/ say what each adds. */
import { type GetTelemetryRequest, type StreamTelemetryRequest, TelemetryMethods, type TelemetrySampleInit } from '../../proto/gen/telemetry.ts'
import { type Call, type Health, OffboxError, serverStream, type Service, type ServiceContext, type Snapshot, unary } from '../sdk/service.ts'
import { Counter } from './counter.ts'
import { readHandOver, writeHandOver } from './hand-over.ts'
import { Sampler } from './sampler.ts'

const intervalMinMs = 100
const intervalMaxMs = 3_600_000
const intervalDefaultMs = 1_000

export interface Release {
  readonly withLoad1: boolean
}

interface Running {
  readonly ctx: ServiceContext
  readonly sampler: Sampler
  readonly counter: Counter
}

export class Telemetry implements Service<null> {
  readonly methods = [
    unary(TelemetryMethods.Get, async (request) => await this.#get(request)),
    serverStream(TelemetryMethods.Stream, (request, call) => this.#stream(request, call)),
  ]
  readonly #release: Release
  #running: Running | undefined
  #lastAtMs = 0
  #birdFailure = ''

  constructor(release: Release) {
    this.#release = release
  }

  check(): null {
    return null
  }

  async start(_: null, ctx: ServiceContext, inherited?: Snapshot): Promise<void> {
    const { state } = ctx.capabilities
    if (!state) throw new OffboxError('CAPABILITY_DENIED', 'telemetry needs the capability state')
    const handedOver = inherited ? readHandOver(inherited) : undefined
    const counter = await Counter.open(state, (message, fields) => ctx.log('warn', message, fields), handedOver)
    this.#lastAtMs = handedOver?.lastAtMs ?? 0
    this.#running = { ctx, sampler: new Sampler(ctx), counter }
  }

  async stop(): Promise<void> {
    this.#running = undefined
  }

  /** The kernel's tables can be read. Takes no number. */
  async selfTest(): Promise<void> {
    this.#birdFailure = (await this.#parts().sampler.read(this.#release.withLoad1)).birdFailure
  }

  async quiesce(): Promise<void> {
    const { counter, ctx } = this.#parts()
    // A store that does not answer costs nothing but some numbers: the successor reserves its own.
    const hurry = new AbortController()
    await Promise.race([counter.settled(), pause(ctx.quiesceTimeoutMs / 2, hurry.signal)])
    hurry.abort()
  }

  snapshot(schema: number): Snapshot {
    return writeHandOver(schema, { ...this.#parts().counter.state, lastAtMs: this.#lastAtMs })
  }

  health(): Health {
    const counter = this.#running?.counter
    const evidence = { samples: counter?.state.sequence ?? 0, birdAnswers: this.#birdFailure === '' ? 1 : 0, durable: counter?.failure === '' ? 1 : 0 }
    if (!counter) return { status: 'unhealthy', reason: 'telemetry is not started', evidence }
    if (this.#birdFailure !== '') return { status: 'degraded', reason: `samples have no BGP sessions: ${this.#birdFailure}`, evidence }
    if (counter.failure !== '') return { status: 'degraded', reason: `sample numbers are not durable: ${counter.failure}`, evidence }
    return { status: 'healthy', evidence }
  }

  async #get({ callSequence }: GetTelemetryRequest): Promise<TelemetrySampleInit> {
    return (await this.#sample(callSequence)) as TelemetrySampleInit
  }

  async *#stream(request: StreamTelemetryRequest, { signal }: Call): AsyncGenerator<TelemetrySampleInit> {
    const intervalMs = request.intervalMs === 0 ? intervalDefaultMs : request.intervalMs
    if (intervalMs < intervalMinMs || intervalMs > intervalMaxMs) {
      throw new OffboxError('ARGUMENT_INVALID', `interval_ms must be 0 or ${intervalMinMs} to ${intervalMaxMs}`)
    }
    for (let sent = 0; request.samples === 0 || sent < request.samples; sent += 1) {
      if (sent > 0) await pause(intervalMs, signal)
      const sample = await this.#sample(0, signal)
      if (!sample) return
      yield sample
    }
  }

  /** Undefined when `signal` aborted before the sample got its number: nobody would see it, and a number would be missing. */
  async #sample(callSequence: number, signal?: AbortSignal): Promise<TelemetrySampleInit | undefined> {
    const { ctx, sampler, counter } = this.#parts()
    const { sample, birdFailure } = await sampler.read(this.#release.withLoad1)
    this.#birdFailure = birdFailure
    for (;;) {
      await counter.ready()
      if (signal?.aborted) return undefined
      const sequence = counter.next()
      if (sequence === undefined) continue
      // The clock may be set back; samples in order of their numbers are in order of their times.
      this.#lastAtMs = Math.max(this.#lastAtMs, ctx.nowMs())
      return { ...sample, sequence, callSequence, serviceVersion: ctx.version, atMs: this.#lastAtMs }
    }
  }

  #parts(): Running {
    if (!this.#running) throw new OffboxError('SERVICE_DOWN', 'telemetry is not started')
    return this.#running
  }
}

/** Resolves after `delayMs`, or at once when `signal` aborts. */
async function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  await new Promise<void>((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, delayMs)
    signal.addEventListener('abort', done)
  })
}
