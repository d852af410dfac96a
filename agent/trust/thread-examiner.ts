/**
 * Verifies in a thread that lives as long as there is something to verify: calls are routed meanwhile, and an agent at rest pays nothing for
 * it. What brings the thread down (a heap that is full, a pass that never ends) brings down one order and not the agent.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import type { VerifiedBundle } from '../supervisor/types.ts'
import type { Answer, Examiner, Question } from './examiner.ts'
import type { MetadataFindings, MetadataRequest } from './tuf/examine.ts'

/** The orders of one boot follow one another, and a thread that is warm verifies several times as fast as one that has its code to compile. */
export const examinerIdleMs = 30_000
/** A chain of 1,000 stored roots takes a minute on the slowest device. Beyond it something is wrong with the thread. */
export const examinerTimeoutMs = 180_000
/** JavaScript heap, MiB: metadata of 1 MiB, parsed. Files lie outside it. */
export const examinerHeapMbMax = 96

export interface ThreadExaminerOptions {
  /** The script (examiner-thread.ts, built); default: the one beside the agent. */
  readonly text?: string
  readonly clock: Clock
}

interface Waiting {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
}

/** Several questions at once are answered one after the other. */
export class ThreadExaminer implements Examiner {
  readonly #text: string
  readonly #clock: Clock
  readonly #waiting = new Map<number, Waiting>()
  /** Signatures that a thread of before found good: what this thread is told by its own is all that it believes of them. */
  #verdicts: readonly string[] = []
  #worker: Worker | null = null
  #cancelTimer = () => {}
  #ids = 0
  #closed = false

  /** Reads the script at once: that it is missing must not come out at the first order. */
  constructor({ clock, text = readExaminerText() }: ThreadExaminerOptions) {
    this.#text = text
    this.#clock = clock
  }

  async metadata(request: MetadataRequest): Promise<MetadataFindings> {
    return await this.#ask<MetadataFindings>((id) => ({ id, kind: 'metadata', request }))
  }

  async bundle(file: Uint8Array, trusted: TrustedKeys): Promise<VerifiedBundle> {
    // A view of a pool would be sent with all of the pool.
    const own = file.byteLength === file.buffer.byteLength ? file : new Uint8Array(file)
    return await this.#ask<VerifiedBundle>((id) => ({ id, kind: 'bundle', file: own, trusted }))
  }

  /** Whether the thread is there at this moment. */
  get running(): boolean {
    return this.#worker !== null
  }

  /** What is under way fails. */
  close(): void {
    this.#closed = true
    this.#end(new OffboxError('STATE_REFUSED', 'the agent stops'))
  }

  /** @typeParam T what this question is answered with; the script is ours */
  async #ask<T>(question: (id: number) => Question): Promise<T> {
    if (this.#closed) throw new OffboxError('STATE_REFUSED', 'the agent stops')
    const worker = this.#worker ?? this.#start()
    this.#ids += 1
    const id = this.#ids
    const answered = new Promise<T>((resolve, reject) => this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject }))
    this.#arm()
    worker.postMessage(question(id))
    return await answered
  }

  #start(): Worker {
    const worker = new Worker(this.#text, {
      eval: true,
      name: 'examiner',
      execArgv: ['--permission'],
      env: {},
      argv: [],
      resourceLimits: { maxOldGenerationSizeMb: examinerHeapMbMax },
      workerData: { verdicts: this.#verdicts },
    })
    this.#worker = worker
    // Of one that was given up already nothing is heard any more.
    const mine = () => this.#worker === worker
    worker.on('message', (answer: Answer) => mine() && this.#answered(answer))
    worker.on('error', (error) => mine() && this.#end(new OffboxError('LIMIT_REACHED', `verification broke down: ${messageOf(error)}`, { cause: error })))
    worker.on('exit', () => mine() && this.#end(new OffboxError('LIMIT_REACHED', 'verification broke down: its thread ended')))
    return worker
  }

  #answered({ id, ...answer }: Answer): void {
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    this.#arm()
    if (answer.error) waiting?.reject(new OffboxError(answer.error.code, answer.error.message))
    else if ('value' in answer) {
      this.#verdicts = answer.verdicts ?? this.#verdicts
      waiting?.resolve(answer.value)
    }
  }

  /** The thread ends when it has been idle, or silent, for too long. */
  #arm(): void {
    this.#cancelTimer()
    const busy = this.#waiting.size > 0
    const late = new OffboxError('LIMIT_REACHED', `verification took longer than ${examinerTimeoutMs} ms`)
    this.#cancelTimer = this.#clock.after(busy ? examinerTimeoutMs : examinerIdleMs, () => this.#end(late))
  }

  #end(reason: OffboxError): void {
    this.#cancelTimer()
    const [worker, waiting] = [this.#worker, [...this.#waiting.values()]]
    this.#worker = null
    this.#waiting.clear()
    // Not awaited: a thread inside a long native call takes its time to end.
    void worker?.terminate()
    for (const { reject } of waiting) reject(reason)
  }
}

/** As `node build.mjs` made it: beside the bundled agent, or in dist/agent when run from source. */
function readExaminerText(): string {
  const beside = join(import.meta.dirname, 'examiner.js')
  return readFileSync(existsSync(beside) ? beside : join(import.meta.dirname, '../../dist/agent/examiner.js'), 'utf8')
}
