/** One version of a service and its worker, over as many starts as that takes. Its life follows lifecycle.ts. */
import type { Clock } from '../../core/clock.ts'
import { codeIn, messageOf, OffboxError } from '../../core/errors.ts'
import type { Health } from '../../core/health.ts'
import {
  readChecksum,
  readHealth,
  readSnapshot,
  type Control,
  type FromWorker,
  type LogLevel,
  type SealedSnapshot,
  type ToWorker,
} from '../../services/sdk/wire.ts'
import { Account } from './account.ts'
import { CallTable } from './call-table.ts'
import type { Call, Carrier } from './calls.ts'
import { CapabilityDesk } from './capability-desk.ts'
import { ChannelDesk } from './channel-desk.ts'
import type { Channels } from './channels.ts'
import { cell, type Effect, type Event, type State } from './lifecycle.ts'
import type { SupervisorLimits } from './limits.ts'
import { patiently } from './patience.ts'
import type { ResourceWatch } from './resources.ts'
import { judgeExit } from './restart-policy.ts'
import type { StartTransport } from './transport.ts'
import type { ClientCall, SupervisorHost, Transition, VerifiedBundle } from './types.ts'
import { Link, type LinkListener } from './link.ts'

export interface InstanceOptions {
  readonly bundle: VerifiedBundle
  readonly config: unknown
  readonly host: SupervisorHost
  readonly startTransport: StartTransport
  readonly clock: Clock
  /** 0 to 1. */
  readonly chance: () => number
  readonly limits: SupervisorLimits
  readonly resources: ResourceWatch
  readonly channels: Channels
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
  /** What it uses, and the bounds it met. */
  readonly account: Account
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
  readonly #calls: CallTable
  readonly #desk: CapabilityDesk
  readonly #channelDesk: ChannelDesk
  #link: Link | undefined
  #unwatch = () => {}
  #crashesAtMs: readonly number[] = []
  #backoffMs = 0
  #cancelTimer = () => {}
  #cancelHealth = () => {}
  #gone: (() => void)[] = []

  constructor(options: InstanceOptions) {
    this.#options = options
    this.bundle = options.bundle
    this.account = new Account(options.bundle.manifest)
    this.#calls = new CallTable(this.account, options.limits)
    this.#desk = new CapabilityDesk(options.bundle.manifest, options.host, options.limits, (message) => this.send(message))
    this.#channelDesk = new ChannelDesk(
      options.bundle.manifest,
      options.channels,
      (message) => this.send(message),
      (call) => this.#calls.get(call)?.client,
    )
  }

  get version(): string {
    return this.bundle.manifest.version
  }

  /** Of its present start; empty while it has none. */
  get confinement(): readonly string[] {
    return this.#link?.confinement ?? []
  }

  get config(): unknown {
    return this.#options.config
  }

  /** Whether its worker is up and takes calls, or is kept warm. */
  get alive(): boolean {
    return this.state === 'ready' && this.#link?.open === true
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

  /**
   * Starts the service and lets it prove itself; resolves in state ready.
   * @param give the bytes of `inherited` go to the worker and are gone here; otherwise it gets a copy
   */
  async serve(inherited?: SealedSnapshot, give = false): Promise<void> {
    const { startTimeoutMs } = this.#options.limits
    await this.#ask(inherited ? { action: 'start', inherited } : { action: 'start' }, startTimeoutMs, give ? inherited?.bytes : undefined)
    this.suspended = false
    this.#dispatch('ready', '')
    this.#watchHealth()
  }

  async quiesce(timeoutMs: number): Promise<void> {
    await this.#ask({ action: 'quiesce' }, timeoutMs)
  }

  /** @param quiesce first */
  async snapshot(schema: number, timeoutMs: number, quiesce = false): Promise<SealedSnapshot> {
    return readSnapshot(await this.#ask({ action: 'snapshot', schema, quiesce }, timeoutMs), schema)
  }

  /** What a hand-over needs of its host is there afterwards. */
  async rehearse(timeoutMs: number): Promise<void> {
    await this.#ask({ action: 'rehearse' }, timeoutMs)
  }

  /** Of the state that it gave or took last, as it finds it in memory. */
  async checksum(timeoutMs: number): Promise<number> {
    return readChecksum(await this.#ask({ action: 'checksum' }, timeoutMs))
  }

  /** Ends the service object and keeps the worker for `resume`. A service that does not stop in time loses its worker. */
  async suspend(): Promise<void> {
    this.#cancelHealth()
    await this.#ask({ action: 'stop' }, this.#options.limits.stopTimeoutMs).catch((error) => this.kill(`it did not stop: ${messageOf(error)}`))
    this.suspended = true
  }

  /** A fresh service object: in the worker kept warm, or the first of this instance. */
  async resume(inherited?: SealedSnapshot): Promise<void> {
    if (this.alive) await this.#ask({ action: 'load', config: this.#options.config }, this.#options.limits.startTimeoutMs)
    else await this.prepare()
    await this.serve(inherited)
  }

  /** Ends it for good; resolves when the thread is gone, at once when there is none, and at the latest when it is given up on. */
  async stop(reason: string): Promise<void> {
    this.restarts = false
    this.#dispatch('stop', reason)
    if (!this.#link) return
    const { clock, limits } = this.#options
    await new Promise<void>((resolve) => {
      const cancel = patiently(clock, limits.stopTimeoutMs * 2, () => {
        this.#log('warn', 'a worker does not end; it is left behind', {})
        resolve()
      })
      this.#gone.push(() => {
        cancel()
        resolve()
      })
    })
  }

  /** Ends the worker now. What follows depends on `restarts`. */
  kill(reason: string): void {
    this.#link?.kill(reason)
  }

  /** Resolves once no unary call is under way here; false when that took longer. */
  async idle(timeoutMs: number): Promise<boolean> {
    return await this.#calls.idle(this.#options.clock, timeoutMs)
  }

  get calls(): readonly Call[] {
    return this.#calls.all
  }

  /** Whether one more call may begin here. @throws LIMIT_REACHED, STREAMS_EXCEEDED */
  admit(call: Pick<ClientCall, 'kind' | 'principal'>): void {
    this.#calls.admit(call)
  }

  // Carrier.

  enter(call: Call): number {
    return this.#calls.add(call)
  }

  send(message: ToWorker): void {
    this.#link?.send(message)
  }

  forget(id: number): void {
    this.#channelDesk.ended(id)
    this.#calls.remove(id)
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
      this.#log('warn', 'the service did not stop', { error: messageOf(error) })
    })
    this.kill('stopped')
  }

  #spawn(): void {
    const { bundle, startTransport, clock, limits, resources } = this.#options
    const on: LinkListener = {
      message: (message) => this.#handle(message),
      log: (level, message, fields) => this.#log(level, message, fields),
      logsDropped: (count) => {
        this.account.exceeds('LOGS_EXCEEDED', count)
        this.#log('warn', 'LOGS_EXCEEDED: lines were dropped', { lines: count, linesPerSecondMax: this.account.limits.logLinesPerSecondMax })
      },
      cut: (reason) => this.#lost(reason),
      exit: (reason) => this.#exited(reason),
    }
    this.starts++
    this.silent = false
    try {
      const link = new Link({ bundle, startTransport, clock, limits, on })
      this.#link = link
      this.#unwatch = resources.add({
        account: this.account,
        usage: () => link.usage(),
        collect: () => link.send({ type: 'collect' }),
        end: (code, why) => link.kill(`${code}: ${why}`),
      })
    } catch (error) {
      // No thread to be had (memory, limits of the system): like one that ended at once, but not within this very event.
      queueMicrotask(() => this.#exited(`no worker could be made: ${messageOf(error)}`))
    }
  }

  /** Everybody who waits for the worker is told. */
  #lost(reason: string): void {
    const code = codeIn(reason)
    if (code) this.account.exceeds(code)
    this.#cancelHealth()
    this.#desk.close()
    this.#channelDesk.close()
    for (const call of this.#calls.clear()) call.onLost(`the service's worker ended: ${reason}`)
  }

  #exited(reason: string): void {
    this.#link = undefined
    this.#unwatch()
    const { clock, chance, limits } = this.#options
    const stopping = this.state === 'quiescing'
    const verdict = judgeExit(this.#crashesAtMs, clock.monotonicMs(), chance(), limits)
    if (!stopping) this.#crashesAtMs = verdict.crashesAtMs
    this.#backoffMs = verdict.delayMs
    this.#dispatch(this.restarts || stopping ? verdict.event : 'exitFinal', reason)
    for (const resolve of this.#gone.splice(0)) resolve()
  }

  async #ask(control: Control, timeoutMs: number, owned?: Uint8Array): Promise<unknown> {
    if (!this.#link) throw new OffboxError('SERVICE_CRASHED', 'the service has no worker')
    return await this.#link.ask(control, timeoutMs, owned)
  }

  #handle(message: Parameters<LinkListener['message']>[0]): void {
    if (message.type === 'capability') this.#desk.receive(message, this.suspended)
    else if ('channel' in message) {
      if (!this.#channelDesk.receive(message, this.suspended)) this.kill('it broke the protocol: a channel that is open, or more messages than it was granted')
    } else this.#forCall(message)
  }

  #forCall(message: Extract<FromWorker, { type: 'data' | 'end' | 'metadata' | 'cancelled' | 'credit' }>): void {
    // A call that was cancelled or has ended may still have something under way.
    const call = this.#calls.get(message.call)
    if (!call) return
    if (message.type === 'data') {
      if (!call.onData(message.bytes)) this.kill('it broke the protocol: more messages than it was granted')
    } else if (message.type === 'credit') call.onCreditFromWorker(message.count)
    else if (message.type === 'cancelled') call.onCancelled(message.cursor)
    else if (message.type === 'metadata') call.onMetadata(message.fields)
    else call.onEnd(message.bytes, message.error, message.trailers)
  }

  #log(level: LogLevel, message: string, fields: Record<string, unknown>): void {
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
    const link = this.#link
    try {
      return readHealth(await this.#ask({ action: 'health' }, this.#options.limits.heartbeatTimeoutMs))
    } catch (error) {
      if (!(error instanceof OffboxError && error.code === 'DEADLINE_PASSED')) return { status: 'unhealthy', reason: messageOf(error), evidence: {} }
      if (link !== this.#link || this.state !== 'ready' || this.suspended) return undefined
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
