/** The conversation with one started version of a service, over whatever its tier runs it in. */
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { LogLimit, Outbox, plainFields, readFromWorker, type Control, type FromWorker, type LogLevel, type ToWorker } from '../../services/sdk/wire.ts'
import type { SupervisorLimits } from './limits.ts'
import { patiently } from './patience.ts'
import type { StartTransport, Transport, Usage } from './transport.ts'
import type { VerifiedBundle } from './types.ts'

export interface LinkOptions {
  readonly bundle: VerifiedBundle
  readonly startTransport: StartTransport
  readonly clock: Clock
  readonly limits: SupervisorLimits
  readonly on: LinkListener
}

export interface LinkListener {
  message(message: Exclude<FromWorker, { type: 'done' | 'log' | 'logsDropped' }>): void
  log(level: LogLevel, message: string, fields: Record<string, unknown>): void
  /** So many lines were over the limit, since the last time it was told. */
  logsDropped(count: number): void
  /** Nothing more is heard or sent; the thread may live on for a while. Once. */
  cut(reason: string): void
  /** The thread is gone. Once, after `cut`. */
  exit(reason: string): void
}

/** Heard from one service before others have their turn. */
const MESSAGES_PER_TURN = 256

export class Link {
  readonly #options: LinkOptions
  readonly #transport: Transport
  readonly #outbox: Outbox<ToWorker>
  readonly #controls = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void; cancelTimer: () => void }>()
  readonly #logLimit: LogLimit
  #inbox: FromWorker[] = []
  #nextControl = 1
  #open = true
  #reason = ''

  /** @throws when no thread or process can be had */
  constructor(options: LinkOptions) {
    const { bundle, limits, clock, on } = options
    this.#options = options
    const perSecond = bundle.manifest.limits?.logLinesPerSecondMax
    this.#logLimit = new LogLimit({ perSecond, later: (delayMs, callback) => clock.after(delayMs, callback), tell: (count) => on.logsDropped(count) })
    this.#transport = options.startTransport(
      { bundle, limits },
      {
        batch: (batch) => this.#receive(batch),
        printed: (stream, text) => this.#log('info', 'the service printed', { [stream]: text.slice(0, 1_000) }),
        error: (reason) => {
          this.#reason ||= reason
        },
        exit: (reason) => {
          this.#cut(reason)
          on.exit(this.#reason)
        },
      },
    )
    this.#outbox = new Outbox((batch, transfer) => this.#transport.post(batch, transfer))
  }

  /** What confines it; and what should but cannot here. */
  get confinement(): readonly string[] {
    return this.#transport.confinement
  }

  /** What it uses now; undefined once it is gone. */
  async usage(): Promise<Usage | undefined> {
    return this.#open ? await this.#transport.usage() : undefined
  }

  /** False once it is cut: what is sent then goes nowhere. */
  get open(): boolean {
    return this.#open
  }

  send(message: ToWorker, owned?: Uint8Array): void {
    if (this.#open) this.#outbox.send(message, owned, message.type === 'control')
  }

  /** @param owned bytes of the control that are given away @throws DEADLINE_PASSED, SERVICE_CRASHED, or the service's own error */
  async ask(control: Control, timeoutMs: number, owned?: Uint8Array): Promise<unknown> {
    if (!this.#open) throw new OffboxError('SERVICE_CRASHED', this.#reason)
    const id = this.#nextControl++
    return await new Promise((resolve, reject) => {
      const cancelTimer = patiently(this.#options.clock, timeoutMs, () => {
        this.#controls.delete(id)
        reject(new OffboxError('DEADLINE_PASSED', `${control.action} took more than ${timeoutMs} ms`))
      })
      this.#controls.set(id, { resolve, reject, cancelTimer })
      this.send({ type: 'control', id, ...control }, owned)
    })
  }

  /** Ends the thread now. Not awaited: one in a system call, or deep in garbage collection, may take many seconds. */
  kill(reason: string): void {
    if (!this.#open) return
    this.#cut(reason)
    this.#transport.kill()
  }

  #cut(reason: string): void {
    if (!this.#open) return
    this.#reason ||= reason
    this.#open = false
    this.#transport.close()
    for (const { reject, cancelTimer } of this.#controls.values()) {
      cancelTimer()
      reject(new OffboxError('SERVICE_CRASHED', this.#reason))
    }
    this.#controls.clear()
    this.#options.on.cut(this.#reason)
  }

  #receive(batch: unknown): void {
    let messages: FromWorker[]
    try {
      messages = readFromWorker(batch)
    } catch (error) {
      this.kill(`it broke the protocol: ${messageOf(error)}`)
      return
    }
    const waiting = this.#inbox.length > 0
    for (const message of messages) this.#inbox.push(message)
    if (!waiting) this.#hear()
  }

  /** A few at a time: a service that says much must not keep the agent's thread from the others. In order. */
  #hear(): void {
    const turn = this.#inbox.splice(0, MESSAGES_PER_TURN)
    if (this.#inbox.length > 0) setImmediate(() => this.#hear())
    for (const message of turn) {
      if (!this.#open) return
      if (message.type === 'done') this.#answered(message)
      else if (message.type === 'log') this.#log(message.level, message.message, message.fields)
      else if (message.type === 'logsDropped') this.#logLimit.dropped(message.count)
      else this.#options.on.message(message)
    }
  }

  #answered({ id, value, error }: Extract<FromWorker, { type: 'done' }>): void {
    const control = this.#controls.get(id)
    if (!control) return
    this.#controls.delete(id)
    control.cancelTimer()
    if (error) control.reject(new OffboxError(error.code, error.message))
    else control.resolve(value)
  }

  #log(level: LogLevel, message: string, fields: Record<string, unknown>): void {
    if (this.#logLimit.admit(this.#options.clock.monotonicMs())) this.#options.on.log(level, message, plainFields(fields))
  }
}
