/** One worker of one version of a service: the only place that makes a Worker. Its life follows lifecycle.ts. */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { Health } from '../../core/health.ts'
import {
  LogLimit,
  Outbox,
  readFromWorker,
  readHealth,
  readSnapshot,
  type Control,
  type FromWorker,
  type LogLevel,
  type Snapshot,
  type ToWorker,
  type WorkerStart,
} from '../../services/sdk/wire.ts'
import type { Call, Carrier } from './calls.ts'
import { CapabilityDesk } from './capability-desk.ts'
import { cell, type Effect, type Event, type State } from './lifecycle.ts'
import type { SupervisorLimits } from './limits.ts'
import { patiently } from './patience.ts'
import { judgeExit } from './restart-policy.ts'
import type { SupervisorHost, Transition, VerifiedBundle } from './types.ts'

export interface InstanceOptions {
  readonly bundle: VerifiedBundle
  readonly config: unknown
  readonly host: SupervisorHost
  readonly hostText: string
  readonly clock: Clock
  /** 0 to 1. */
  readonly chance: () => number
  readonly limits: SupervisorLimits
  readonly on: InstanceListener
}

export interface InstanceListener {
  transition(instance: Instance, transition: Transition): void
  /** `health` has changed. */
  health(instance: Instance): void
  /** No answer to the heartbeat. */
  silent(instance: Instance): void
}

export class Instance implements Carrier {
  readonly bundle: VerifiedBundle
  state: State = 'loaded'
  health: Health | null = null
  starts = 0
  /** Whether a crash is followed by another start. Not so for a candidate, a provisional version, or one kept warm. */
  restarts = false
  /** The service object is stopped, the worker kept: no health calls, no capabilities. */
  suspended = false
  /** Did not answer its last heartbeat. */
  silent = false
  readonly #options: InstanceOptions
  readonly #calls = new Map<number, Call>()
  readonly #controls = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void; cancelTimer: () => void }>()
  readonly #desk: CapabilityDesk
  readonly #logLimit = new LogLimit()
  readonly #idleWaiters = new Set<() => void>()
  #worker: Worker | undefined
  #port: MessagePort | undefined
  #outbox: Outbox<ToWorker> | undefined
  #nextId = 1
  #reason = ''
  #crashesAtMs: readonly number[] = []
  #backoffMs = 0
  #cancelTimer = () => {}
  #cancelHealth = () => {}
  #gone: (() => void)[] = []

  constructor(options: InstanceOptions) {
    this.#options = options
    this.bundle = options.bundle
    this.#desk = new CapabilityDesk(options.bundle.manifest, options.host, options.limits, (message) => this.send(message))
  }

  get version(): string {
    return this.bundle.manifest.version
  }

  get config(): unknown {
    return this.#options.config
  }

  /** Whether its worker is up and takes calls, or is kept warm. */
  get alive(): boolean {
    return this.state === 'ready' && this.#outbox !== undefined
  }

  /** From now on a crash is followed by another start; one that is down already starts now. */
  keepRunning(): void {
    this.restarts = true
    if (this.state !== 'failed' && this.state !== 'loaded') return
    this.#dispatch('start', 'it is to keep running')
    this.#comeBack()
  }

  // Commands. One at a time; each rejects when the worker ends meanwhile.

  /** Spawns the worker, loads the code and checks the configuration. Nothing of the machine is touched yet. */
  async prepare(): Promise<void> {
    this.#dispatch('start', '')
    await this.#ask({ action: 'load', config: this.#options.config }, this.#options.limits.startTimeoutMs)
  }

  /** Starts the service and lets it prove itself; resolves in state ready. */
  async serve(inherited?: Snapshot): Promise<void> {
    const { startTimeoutMs } = this.#options.limits
    await this.#ask(inherited ? { action: 'start', inherited } : { action: 'start' }, startTimeoutMs)
    await this.#ask({ action: 'selfTest' }, startTimeoutMs)
    this.suspended = false
    this.#dispatch('ready', '')
    this.#watchHealth()
  }

  async quiesce(timeoutMs: number): Promise<void> {
    await this.#ask({ action: 'quiesce' }, timeoutMs)
  }

  async snapshot(schema: number, timeoutMs: number): Promise<Snapshot> {
    return readSnapshot(await this.#ask({ action: 'snapshot', schema }, timeoutMs), schema)
  }

  /** Ends the service object and keeps the worker for `resume`. A service that does not stop in time loses its worker. */
  async suspend(): Promise<void> {
    this.#cancelHealth()
    await this.#ask({ action: 'stop' }, this.#options.limits.stopTimeoutMs).catch((error) => this.kill(`it did not stop: ${messageOf(error)}`))
    this.suspended = true
  }

  /** A fresh service object: in the worker kept warm, or the first of this instance. */
  async resume(inherited?: Snapshot): Promise<void> {
    if (this.alive) await this.#ask({ action: 'load', config: this.#options.config }, this.#options.limits.startTimeoutMs)
    else await this.prepare()
    await this.serve(inherited)
  }

  /** Ends it for good; resolves when the thread is gone, or at once when there is none. */
  async stop(reason: string): Promise<void> {
    this.restarts = false
    this.#dispatch('stop', reason)
    if (!this.#worker) return
    await new Promise<void>((resolve) => this.#gone.push(resolve))
  }

  /** Ends the worker now. What follows depends on `restarts`. Not awaited: a thread in a system call may take seconds. */
  kill(reason: string): void {
    if (!this.#worker) return
    this.#reason ||= reason
    this.#detach()
    void this.#worker.terminate()
  }

  /** Resolves once no unary call is under way here; false when that took longer. */
  async idle(timeoutMs: number): Promise<boolean> {
    if (this.#unaryCalls() === 0) return true
    return await new Promise((resolve) => {
      const cancel = patiently(this.#options.clock, timeoutMs, () => {
        this.#idleWaiters.delete(done)
        resolve(false)
      })
      const done = () => {
        cancel()
        resolve(true)
      }
      this.#idleWaiters.add(done)
    })
  }

  get calls(): readonly Call[] {
    return [...this.#calls.values()]
  }

  // Carrier.

  open(call: Call, message: Omit<Extract<ToWorker, { type: 'open' }>, 'type' | 'call'>, owned?: Uint8Array): number {
    if (this.#calls.size >= this.#options.limits.callsMax) throw new OffboxError('LIMIT_REACHED', `${this.#calls.size} calls are under way in this service`)
    const id = this.#nextId++
    this.#calls.set(id, call)
    this.send({ type: 'open', call: id, ...message }, owned)
    return id
  }

  send(message: ToWorker, owned?: Uint8Array): void {
    this.#outbox?.send(message, owned)
  }

  forget(id: number): void {
    if (this.#calls.delete(id) && this.#idleWaiters.size > 0 && this.#unaryCalls() === 0) {
      for (const wake of this.#idleWaiters) wake()
      this.#idleWaiters.clear()
    }
  }

  #unaryCalls(): number {
    return this.calls.filter((call) => call.method.kind === 'unary').length
  }

  // Lifecycle.

  #dispatch(event: Event, reason: string): void {
    const move = cell(this.state, event)
    if (move === 'IGNORE') return
    if (move === 'REFUSE') throw new OffboxError('STATE_REFUSED', `${event} is refused while the service is ${this.state}`)
    if (move === 'NEVER') throw new Error(`lifecycle: ${event} in state ${this.state}`)
    const from = this.state
    this.state = move.to
    if (from !== move.to) {
      this.#options.on.transition(this, { atMs: this.#options.clock.nowMs(), from, to: move.to, event, version: this.version, reason })
    }
    for (const effect of move.effects) this.#effects[effect]()
  }

  readonly #effects: Record<Effect, () => void> = {
    spawnWorker: () => this.#spawn(),
    stopService: () => void this.#stopService(),
    terminateWorker: () => this.kill('it took too long'),
    armStartTimer: () => this.#arm(this.#options.limits.startTimeoutMs),
    armStopTimer: () => this.#arm(this.#options.limits.stopTimeoutMs),
    armBackoffTimer: () => this.#arm(this.#backoffMs),
    disarmTimer: () => this.#cancelTimer(),
  }

  #arm(delayMs: number): void {
    this.#cancelTimer()
    this.#cancelTimer = patiently(this.#options.clock, delayMs, () => {
      const again = this.state === 'backoff'
      this.#dispatch('timeout', `after ${Math.round(delayMs)} ms`)
      if (again) this.#comeBack()
    })
  }

  /** After a crash: nobody drives the start, and there is no state to inherit. */
  #comeBack(): void {
    this.#ask({ action: 'load', config: this.#options.config }, this.#options.limits.startTimeoutMs)
      .then(() => this.serve())
      .catch((error) => this.kill(messageOf(error)))
  }

  async #stopService(): Promise<void> {
    this.#cancelHealth()
    await this.#ask({ action: 'stop' }, this.#options.limits.stopTimeoutMs).catch((error) => {
      this.#options.host.log(this.bundle.manifest.name, 'warn', 'the service did not stop', { version: this.version, error: messageOf(error) })
    })
    this.kill('stopped')
  }

  #spawn(): void {
    const { bundle, hostText, limits } = this.#options
    const { port1, port2 } = new MessageChannel()
    const workerData: WorkerStart = {
      port: port2,
      code: new TextDecoder().decode(bundle.payload),
      manifest: bundle.manifest,
      quiesceTimeoutMs: limits.quiesceTimeoutMs,
    }
    this.starts++
    this.#reason = ''
    this.silent = false
    this.#outbox = new Outbox((batch, transfer) => port1.postMessage(batch, transfer))
    port1.on('message', (batch) => {
      if (this.#port === port1) this.#receive(batch)
    })
    const worker = new Worker(hostText, {
      eval: true,
      name: bundle.manifest.name,
      execArgv: ['--permission'],
      env: {},
      argv: [],
      stdin: true,
      stdout: true,
      stderr: true,
      resourceLimits: { maxOldGenerationSizeMb: bundle.manifest.heapMbMax, maxYoungGenerationSizeMb: limits.youngGenerationMbMax },
      workerData,
      transferList: [port2],
    })
    this.#port = port1
    this.#worker = worker
    for (const name of ['stdout', 'stderr'] as const)
      worker[name].on('data', (chunk) => this.#log('info', 'the service printed', { [name]: String(chunk).slice(0, 1_000) }))
    worker.on('error', (error) => {
      this.#reason ||= messageOf(error)
    })
    worker.on('exit', (code) => this.#exited(code))
  }

  #exited(code: number): void {
    this.#reason ||= `its worker ended with code ${code}`
    this.#detach()
    this.#worker = undefined
    const reason = this.#reason
    const { clock, chance, limits } = this.#options
    const stopping = this.state === 'quiescing'
    const verdict = judgeExit(this.#crashesAtMs, clock.monotonicMs(), chance(), limits)
    this.#crashesAtMs = stopping ? this.#crashesAtMs : verdict.crashesAtMs
    this.#backoffMs = verdict.delayMs
    this.#dispatch(this.restarts || stopping ? verdict.event : 'exitFinal', reason)
    for (const resolve of this.#gone.splice(0)) resolve()
  }

  /** Nothing more is heard from this worker, and everybody who waits for it is told. */
  #detach(): void {
    this.#cancelHealth()
    this.#port?.close()
    this.#port = undefined
    this.#outbox = undefined
    this.#desk.close()
    for (const { reject, cancelTimer } of this.#controls.values()) {
      cancelTimer()
      reject(new OffboxError('SERVICE_CRASHED', this.#reason))
    }
    this.#controls.clear()
    for (const call of this.calls) call.onLost(`the service's worker ended: ${this.#reason}`)
    this.#calls.clear()
    for (const wake of this.#idleWaiters) wake()
    this.#idleWaiters.clear()
  }

  // Conversation with the worker.

  async #ask(control: Control, timeoutMs: number): Promise<unknown> {
    if (!this.#outbox) throw new OffboxError('SERVICE_CRASHED', this.#reason || 'the service has no worker')
    const id = this.#nextId++
    return await new Promise((resolve, reject) => {
      const cancelTimer = patiently(this.#options.clock, timeoutMs, () => {
        this.#controls.delete(id)
        reject(new OffboxError('DEADLINE_PASSED', `${control.action} took more than ${timeoutMs} ms`))
      })
      this.#controls.set(id, { resolve, reject, cancelTimer })
      try {
        this.send({ type: 'control', id, ...control })
      } catch (error) {
        // A configuration that cannot be cloned.
        this.#controls.delete(id)
        cancelTimer()
        reject(error as Error)
      }
    })
  }

  #receive(batch: unknown): void {
    let messages: FromWorker[]
    try {
      messages = readFromWorker(batch)
    } catch (error) {
      this.kill(`it broke the protocol: ${messageOf(error)}`)
      return
    }
    for (const message of messages) this.#handle(message)
  }

  #handle(message: FromWorker): void {
    if (message.type === 'log') this.#log(message.level, message.message, message.fields)
    else if (message.type === 'capability') this.#desk.receive(message, this.suspended)
    else if (message.type === 'done') this.#answered(message)
    else this.#forCall(message)
  }

  #answered({ id, value, error }: Extract<FromWorker, { type: 'done' }>): void {
    const control = this.#controls.get(id)
    if (!control) return
    this.#controls.delete(id)
    control.cancelTimer()
    if (error) control.reject(new OffboxError(error.code, error.message))
    else control.resolve(value)
  }

  #forCall(message: Extract<FromWorker, { type: 'data' | 'end' | 'cancelled' | 'credit' }>): void {
    // A call that was cancelled or has ended may still have something under way.
    const call = this.#calls.get(message.call)
    if (!call) return
    if (message.type === 'data') {
      if (!call.onData(message.bytes)) this.kill('it broke the protocol: more messages than it was granted')
    } else if (message.type === 'credit') call.onCreditFromWorker(message.count)
    else if (message.type === 'cancelled') call.onCancelled()
    else call.onEnd(message.bytes, message.error)
  }

  #log(level: LogLevel, message: string, fields: Record<string, unknown>): void {
    if (this.#logLimit.admit(this.#options.clock.monotonicMs()) === undefined) return
    this.#options.host.log(this.bundle.manifest.name, level, message, { ...fields, version: this.version })
  }

  #watchHealth(): void {
    const { clock, limits } = this.#options
    let live = true
    const poll = async () => {
      const health = await this.#readHealth()
      if (!live) return
      if (health) this.#setHealth(health)
      cancelNext = clock.after(limits.healthIntervalMs, () => void poll())
    }
    let cancelNext = () => {}
    this.#cancelHealth()
    this.#cancelHealth = () => {
      live = false
      cancelNext()
    }
    void poll()
  }

  /** Undefined: no answer. */
  async #readHealth(): Promise<Health | undefined> {
    const port = this.#port
    try {
      return readHealth(await this.#ask({ action: 'health' }, this.#options.limits.heartbeatTimeoutMs))
    } catch (error) {
      if (!(error instanceof OffboxError && error.code === 'DEADLINE_PASSED')) return { status: 'unhealthy', reason: messageOf(error), evidence: {} }
      if (port !== this.#port || this.state !== 'ready' || this.suspended) return undefined
      this.silent = true
      this.#options.on.silent(this)
      return undefined
    }
  }

  #setHealth(health: Health): void {
    const changed = JSON.stringify(health) !== JSON.stringify(this.health)
    this.health = health
    this.silent = false
    if (changed) this.#options.on.health(this)
  }
}
