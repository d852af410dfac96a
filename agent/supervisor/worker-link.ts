/** One thread and the conversation with it: the only place that makes a Worker. */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { LogLimit, Outbox, readFromWorker, type Control, type FromWorker, type LogLevel, type ToWorker, type WorkerStart } from '../../services/sdk/wire.ts'
import type { SupervisorLimits } from './limits.ts'
import { patiently } from './patience.ts'
import type { VerifiedBundle } from './types.ts'

export interface LinkOptions {
  readonly bundle: VerifiedBundle
  readonly hostText: string
  readonly clock: Clock
  readonly limits: SupervisorLimits
  readonly on: LinkListener
}

export interface LinkListener {
  message(message: Exclude<FromWorker, { type: 'done' | 'log' }>): void
  log(level: LogLevel, message: string, fields: Record<string, unknown>): void
  /** Nothing more is heard or sent; the thread may live on for a while. Once. */
  cut(reason: string): void
  /** The thread is gone. Once, after `cut`. */
  exit(reason: string): void
}

export class WorkerLink {
  readonly #options: LinkOptions
  readonly #worker: Worker
  readonly #port: MessagePort
  readonly #outbox: Outbox<ToWorker>
  readonly #controls = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void; cancelTimer: () => void }>()
  readonly #logLimit = new LogLimit()
  #nextControl = 1
  #open = true
  #reason = ''

  constructor(options: LinkOptions) {
    const { bundle, hostText, limits, on } = options
    const { port1, port2 } = new MessageChannel()
    const workerData: WorkerStart = {
      port: port2,
      code: new TextDecoder().decode(bundle.payload),
      manifest: bundle.manifest,
      quiesceTimeoutMs: limits.quiesceTimeoutMs,
    }
    this.#options = options
    this.#port = port1
    this.#outbox = new Outbox((batch, transfer) => port1.postMessage(batch, transfer))
    port1.on('message', (batch) => this.#receive(batch))
    this.#worker = new Worker(hostText, {
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
    for (const name of ['stdout', 'stderr'] as const) {
      this.#worker[name].on('data', (chunk) => this.#log('info', 'the service printed', { [name]: String(chunk).slice(0, 1_000) }))
    }
    this.#worker.on('error', (error) => {
      this.#reason ||= messageOf(error)
    })
    this.#worker.on('exit', (code) => {
      this.#cut(`its worker ended with code ${code}`)
      on.exit(this.#reason)
    })
  }

  /** False once it is cut: what is sent then goes nowhere. */
  get open(): boolean {
    return this.#open
  }

  send(message: ToWorker, owned?: Uint8Array): void {
    if (this.#open) this.#outbox.send(message, owned)
  }

  /** @throws DEADLINE_PASSED, SERVICE_CRASHED, or the service's own error */
  async ask(control: Control, timeoutMs: number): Promise<unknown> {
    if (!this.#open) throw new OffboxError('SERVICE_CRASHED', this.#reason)
    const id = this.#nextControl++
    return await new Promise((resolve, reject) => {
      const cancelTimer = patiently(this.#options.clock, timeoutMs, () => {
        this.#controls.delete(id)
        reject(new OffboxError('DEADLINE_PASSED', `${control.action} took more than ${timeoutMs} ms`))
      })
      this.#controls.set(id, { resolve, reject, cancelTimer })
      this.send({ type: 'control', id, ...control })
    })
  }

  /** Ends the thread now. Not awaited: one in a system call, or deep in garbage collection, may take many seconds. */
  kill(reason: string): void {
    if (!this.#open) return
    this.#cut(reason)
    void this.#worker.terminate()
  }

  #cut(reason: string): void {
    if (!this.#open) return
    this.#reason ||= reason
    this.#open = false
    this.#port.close()
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
    for (const message of messages) {
      if (!this.#open) return
      if (message.type === 'done') this.#answered(message)
      else if (message.type === 'log') this.#log(message.level, message.message, message.fields)
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
    if (this.#logLimit.admit(this.#options.clock.monotonicMs()) !== undefined) this.#options.on.log(level, message, fields)
  }
}
