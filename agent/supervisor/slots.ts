/** One service: the slots of its versions, the calls held for it, and the one operation (swap, commit, revert) under way. */
import type { Clock } from '../../core/clock.ts'
import { codeOf, type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import type { ManifestMethod } from '../../core/manifest.ts'
import type { SealedSnapshot } from '../../services/sdk/wire.ts'
import type { Call } from './calls.ts'
import { HoldQueue } from './hold-queue.ts'
import type { Instance } from './instance.ts'
import { HISTORY_MAX, type SupervisorLimits } from './limits.ts'
import { patiently } from './patience.ts'
import { noTrack, type Track } from '../change/types.ts'
import { planHandOver, SWAP_STEPS, swapCell, type SwapEffect, type SwapEvent, type SwapState } from './swap.ts'
import { HandOver } from './hand-over.ts'
import type { RunningService, SupervisorHost, SwapReport, Transition, VerifiedBundle } from './types.ts'

export interface SlotsOptions {
  readonly service: string
  readonly clock: Clock
  readonly limits: SupervisorLimits
  readonly host: SupervisorHost
  /** A new instance, state loaded; its events come back through `onTransition`, `onHealth` and `onSilent`. */
  readonly make: (bundle: VerifiedBundle, config: unknown) => Instance
  readonly watch: (transition?: Transition) => void
  readonly provisionalFailure: (reason: string) => void
  /** The version that serves, confirmed, has crashed too often. */
  readonly spent: (reason: string) => void
  readonly methodsChanged: () => void
}

export class Slots {
  current: Instance
  candidate: Instance | undefined
  previous: Instance | undefined
  state: SwapState = 'idle'
  /** Installed and not committed: a revert leaves nothing. */
  uncommitted = true
  readonly #options: SlotsOptions
  readonly #queue: HoldQueue
  readonly #history: Transition[] = []
  readonly #parked = new Set<Call>()
  /** Instances with a worker, or about to have one. */
  readonly #running = new Set<Instance>()
  #closed = false
  #holding = false
  #heldSinceMs = 0
  #cancelHoldTimer = () => {}
  #failureTold = false
  /** Of the swap under way, and until the change is settled. */
  #state: HandOver | undefined
  /** Why what the new version took over is damaged, if it is. */
  #finished: Promise<OffboxError | undefined> = Promise.resolve(undefined)
  /** With which the version before comes back. */
  #states: readonly (SealedSnapshot | undefined)[] = []
  #epoch = 0
  #track: Track = noTrack
  #settle: { resolve: (report: SwapReport) => void; reject: (error: Error) => void } | undefined
  #reason = ''
  #code: ErrorCode = 'SWAP_ROLLED_BACK'

  constructor(options: SlotsOptions, bundle: VerifiedBundle, config: unknown) {
    this.#options = options
    this.#queue = new HoldQueue(options.limits, options.clock)
    this.current = options.make(bundle, config)
  }

  get provisional(): boolean {
    return this.uncommitted || this.state === 'provisional'
  }

  status(): Omit<RunningService, 'circuits' | 'tier'> {
    const { current } = this
    const { manifest, manifestSha256 } = current.bundle
    return {
      service: manifest.name,
      version: manifest.version,
      previousVersion: this.previous?.version ?? '',
      state: current.state,
      health: current.health,
      manifest,
      manifestSha256,
      starts: current.starts,
      history: [...this.#history],
      previousManifest: this.previous?.bundle.manifest,
      use: current.account.use(),
      confinement: current.confinement,
    }
  }

  // Operations. One at a time; supervisor.ts sees to it.

  /** @throws SWAP_ROLLED_BACK */
  async install(track: Track): Promise<void> {
    try {
      track.mark('prepare')
      await this.current.prepare()
      track.mark('start')
      await this.current.serve()
    } catch (error) {
      void this.current.stop(messageOf(error))
      throw rolledBack(error)
    }
  }

  /** @throws SWAP_ROLLED_BACK, SWAP_IN_PROGRESS */
  async swap(bundle: VerifiedBundle, config: unknown, track: Track): Promise<SwapReport> {
    if (this.uncommitted || this.state !== 'idle') throw new OffboxError('SWAP_IN_PROGRESS', 'a change of this service is not settled yet')
    const plan = planHandOver(this.current.bundle.manifest, bundle.manifest)
    if (!plan) throw new OffboxError('SWAP_ROLLED_BACK', `version ${bundle.manifest.version} reads no state that ${this.current.version} writes and reads`)
    const { limits, host, service } = this.#options
    const log = (level: 'warn' | 'error', message: string, fields: Record<string, unknown>) => host.log(service, level, message, fields)
    this.#state = new HandOver(plan, { limits, parked: this.#parked, log })
    return await this.#operate('swap', track, () => {
      this.candidate = this.#options.make(bundle, config)
    })
  }

  async commit(track: Track): Promise<void> {
    this.uncommitted = false
    await this.#operate('commit', track)
    this.current.keepRunning()
  }

  async revert(reason: string, track: Track): Promise<void> {
    this.#reason = reason
    await this.#operate('revert', track)
  }

  /** Ends everything; resolves when the threads are gone. */
  async close(reason: string): Promise<void> {
    this.#closed = true
    this.#epoch++
    this.#cancelHoldTimer()
    for (const call of [...this.#queue.takeAll(), ...this.#parked]) call.fail('SERVICE_DOWN', reason)
    this.#settle?.reject(new OffboxError('SWAP_ROLLED_BACK', reason))
    await Promise.all([...this.#running].map((one) => one.stop(reason)))
  }

  // Calls.

  /** Opens a call on what serves, or holds it, or ends it. */
  deliver(call: Call): void {
    try {
      if (this.#holding && !(this.state === 'draining' && call.comesBackTo(this.#options.service))) this.#queue.add(call)
      else if (this.current.alive) this.#open(call)
      else if (this.#mayComeBack()) this.#queue.add(call, () => call.fail('SERVICE_DOWN', `the service did not come back in time (${this.current.state})`))
      else call.fail('SERVICE_DOWN', `the service is ${this.current.state}`)
    } catch (error) {
      call.fail('LIMIT_REACHED', messageOf(error))
    }
    if (this.#holding && this.#queue.full) this.#dispatch('overBudget', `${this.#queue.size} calls were held`)
  }

  dropped(call: Call): void {
    this.#queue.remove(call)
    this.#parked.delete(call)
  }

  #mayComeBack(): boolean {
    return (
      this.provisional || this.current.state === 'starting' || this.current.state === 'backoff' || (this.current.restarts && this.current.state === 'ready')
    )
  }

  #open(call: Call): void {
    const method = this.current.bundle.manifest.methods.find((one) => one.path === call.method.path)
    if (method?.kind === call.method.kind) call.openOn(this.current)
    else call.fail('METHOD_NOT_FOUND', `version ${this.current.version} does not serve ${call.method.path}`)
  }

  /** A stream that was taken off its worker goes on where the method is resumable, in the version that now serves. */
  #reopen(call: Call): void {
    const serves = (one: ManifestMethod) => one.path === call.method.path && one.resumable === true
    if (call.ended) return
    if (call.carried || !this.current.bundle.manifest.methods.some(serves))
      call.fail('SWAP_IN_PROGRESS', 'the version that now serves does not resume this stream')
    else this.deliver(call)
  }

  // Events of the instances.

  onTransition(instance: Instance, transition: Transition): void {
    if (transition.to === 'starting') this.#running.add(instance)
    if (transition.to === 'stopped' || transition.to === 'failed') this.#running.delete(instance)
    this.#history.push(transition)
    if (this.#history.length > HISTORY_MAX) this.#history.shift()
    this.#options.watch(transition)
    if (instance !== this.current || this.#holding) return
    if (transition.to === 'ready') this.#release()
    if (transition.to === 'failed' && !this.provisional) {
      for (const call of this.#queue.takeAll()) call.fail('SERVICE_DOWN', 'the service crashed too often')
      if (this.state === 'idle' && !this.#closed) this.#options.spent(transition.reason)
    }
    if ((transition.to === 'failed' || transition.to === 'backoff') && this.#servedBefore(transition)) this.#tellFailure(transition.reason)
  }

  onHealth(instance: Instance): void {
    if (instance !== this.current) return
    this.#options.watch()
    if (instance.health?.status === 'unhealthy') this.#tellFailure(`unhealthy: ${instance.health.reason ?? 'no reason given'}`)
  }

  onSilent(instance: Instance): void {
    if (instance !== this.current) return
    if (this.provisional) this.#tellFailure('it does not answer its heartbeat')
    else instance.kill('it does not answer its heartbeat')
  }

  /** A first start that fails is `install`'s or `swap`'s own error. */
  #servedBefore(transition: Transition): boolean {
    return transition.from !== 'starting' || this.current.starts > 1
  }

  #tellFailure(reason: string): void {
    if (!this.provisional || this.#failureTold) return
    this.#failureTold = true
    this.#options.provisionalFailure(reason)
  }

  // The swap table at work.

  async #operate(event: SwapEvent, track: Track, before = () => {}): Promise<SwapReport> {
    if (swapCell(this.state, event) === 'REFUSE') throw new OffboxError('SWAP_IN_PROGRESS', `the service is ${this.state}`)
    this.#epoch++
    this.#track = track
    before()
    return await new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
      this.#dispatch(event, '')
    })
  }

  #dispatch(event: SwapEvent, reason: string, code: ErrorCode = 'SWAP_ROLLED_BACK'): void {
    const move = swapCell(this.state, event)
    if (move === 'IGNORE') return
    if (move === 'REFUSE' || move === 'NEVER') throw new Error(`swap: ${event} in state ${this.state}`)
    if (event === 'failed' || event === 'overBudget') [this.#reason, this.#code] = [reason, code]
    this.state = move.to
    for (const effect of move.effects) {
      this.#mark(effect, reason)
      this.#effects[effect]()
    }
  }

  #mark(effect: SwapEffect, reason: string): void {
    const step = SWAP_STEPS[effect]
    // `prepare` left it on disk, before the first call was held.
    if (step === undefined || (effect === 'hold' && this.candidate)) return
    this.#track.mark(step, effect === 'discardCandidate' && reason !== '' ? reason : undefined)
  }

  async #prepare(candidate: Instance): Promise<void> {
    await candidate.prepare()
    await this.#track.intent('hold')
    await this.#handed().ready(this.current, candidate)
  }

  /** Runs `work` and reports its end as an event, unless another operation has begun or the swap was abandoned meanwhile. */
  #then(work: Promise<unknown>, event: SwapEvent, during = this.state): void {
    const epoch = this.#epoch
    const report = (what: SwapEvent, reason: string, code?: ErrorCode) => {
      if (epoch === this.#epoch && this.state === during) this.#dispatch(what, reason, code)
    }
    work.then(
      () => report(event, ''),
      // Whatever a candidate fails with, it is rolled back; only damage on the way has a name of its own.
      (error) => report('failed', messageOf(error), codeOf(error) === 'SNAPSHOT_CORRUPT' ? 'SNAPSHOT_CORRUPT' : undefined),
    )
  }

  readonly #effects: Record<SwapEffect, () => void> = {
    prepareCandidate: () => this.#then(this.#prepare(this.#needCandidate()), 'prepared'),
    hold: () => this.#hold(),
    drain: () => this.#then(this.#drain(), 'drained'),
    handOver: () => this.#then(this.#handOver(), 'handedOver'),
    startCandidate: () => this.#then(this.#handed().give(this.#needCandidate()), 'ready'),
    discardCandidate: () => {
      this.#discard(this.candidate, this.#reason)
      this.candidate = undefined
    },
    resumeCurrent: () => this.#then(this.#resumeCurrent(), 'restored'),
    flip: () => {
      this.previous = this.current
      this.previous.restarts = false
      this.current = this.#needCandidate()
      this.candidate = undefined
      this.#failureTold = false
      this.#options.methodsChanged()
    },
    suspendPrevious: () => {
      if (this.previous) this.#finished = this.#handed().finish(this.previous, this.current)
    },
    endPrevious: () => {
      this.#discard(this.previous, 'the version that followed is confirmed')
      this.previous = this.#state = undefined
    },
    takeBack: () => this.#then(this.#takeBack(), 'handedOver'),
    resumePrevious: () => this.#then(this.#resumePrevious(), 'restored'),
    flipBack: () => {
      const reverted = this.current
      if (this.previous) this.current = this.previous
      this.previous = this.#state = undefined
      this.current.keepRunning()
      this.#discard(reverted, this.#reason)
      this.#options.methodsChanged()
    },
    release: () => this.#release(),
    succeed: () => {
      const [settle, report] = [this.#settle, { heldMs: this.#heldMs, heldCalls: this.#queue.heldCount }]
      // Calls flow already; what the new version took over may still prove to be damaged.
      void this.#finished.then((wrong) => (wrong ? settle?.reject(wrong) : settle?.resolve(report)))
      this.#finished = Promise.resolve(undefined)
    },
    fail: () => this.#settle?.reject(new OffboxError(this.#code, this.#reason)),
  }

  #heldMs = 0

  #hold(): void {
    this.#holding = true
    this.#queue.heldCount = 0
    this.#heldSinceMs = this.#options.clock.monotonicMs()
    this.#armHoldTimer()
  }

  #armHoldTimer(): void {
    const { holdTimeoutMs } = this.#options.limits
    this.#cancelHoldTimer = patiently(this.#options.clock, holdTimeoutMs, () => {
      const givingUp = this.state === 'restoring' || this.state === 'reverting' || this.state === 'returning'
      if (givingUp) for (const call of this.#queue.takeAll()) call.fail('SERVICE_DOWN', `the service is ${this.state}`)
      this.#dispatch('overBudget', `calls were held for ${holdTimeoutMs} ms`)
      if (this.#holding) this.#armHoldTimer()
    })
  }

  #release(): void {
    this.#cancelHoldTimer()
    if (this.#holding) this.#heldMs = this.#options.clock.monotonicMs() - this.#heldSinceMs
    this.#holding = false
    const parked = [...this.#parked]
    this.#parked.clear()
    for (const call of this.#queue.takeAll()) this.deliver(call)
    for (const call of parked) this.#reopen(call)
  }

  async #drain(): Promise<void> {
    if (!this.current.alive) return
    const { quiesceTimeoutMs } = this.#options.limits
    if (!(await this.current.idle(quiesceTimeoutMs))) throw new Error(`calls under way did not finish within ${quiesceTimeoutMs} ms`)
  }

  async #handOver(): Promise<void> {
    if (!this.current.alive) return
    // From here on the way back is ours to arrange.
    this.current.restarts = false
    await this.#handed().take(this.current)
  }

  async #resumeCurrent(): Promise<void> {
    const { current } = this
    // It was down when the swap began, and its own restarts go on.
    if (current.restarts) return
    this.current = await this.#handed().bringBack(current, await this.#handed().before(current), this.#again)
    this.current.keepRunning()
  }

  async #takeBack(): Promise<void> {
    if (this.previous) this.#states = await this.#handed().back(this.current, this.previous)
  }

  async #resumePrevious(): Promise<void> {
    if (this.previous) this.previous = await this.#handed().bringBack(this.previous, this.#states, this.#again)
    this.#states = []
  }

  readonly #again = (instance: Instance): Instance => {
    if (this.#closed) throw new OffboxError('STATE_REFUSED', 'the service is being stopped')
    return this.#options.make(instance.bundle, instance.config)
  }

  #discard(instance: Instance | undefined, reason: string): void {
    if (!instance) return
    instance.suspended = true
    void instance.stop(reason)
  }

  #handed(): HandOver {
    if (!this.#state) throw new Error('swap: no state is on its way')
    return this.#state
  }

  #needCandidate(): Instance {
    if (!this.candidate) throw new Error('swap: there is no candidate')
    return this.candidate
  }
}

function rolledBack(error: unknown): OffboxError {
  return new OffboxError('SWAP_ROLLED_BACK', messageOf(error), { cause: error })
}
