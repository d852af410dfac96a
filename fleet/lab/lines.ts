/** Text of a console as lines: kept up to a bound, written to a file, waited on by pattern. */
import { createWriteStream, type WriteStream } from 'node:fs'
import { OffboxError } from '../../core/errors.ts'

const LINES_KEPT_MAX = 2_000
const LINE_CHARACTERS_MAX = 4_096
// Escape sequences of BIOS and boot ROM, and the carriage returns and NULs between them.
// biome-ignore lint/suspicious/noControlCharactersInRegex: that is what a serial console carries
const CONTROL = /\u001b(?:\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|c)|[\u0000-\u0008\u000b-\u001f\u007f]/g

/** Lines of one console, over all power cycles. Several readers may follow at once. */
export class ConsoleLines {
  readonly #file: WriteStream | null
  readonly #kept: string[] = []
  #total = 0
  #ended = false
  #wake = Promise.withResolvers<void>()

  /** @param file appended to, with the lines as they came but for control characters */
  constructor(file?: string) {
    this.#file = file === undefined ? null : createWriteStream(file, { flags: 'a', mode: 0o600 })
    // A console that cannot be written down is still shown and waited on.
    this.#file?.on('error', () => {})
  }

  /** Lines so far; a position for `from`. */
  get count(): number {
    return this.#total
  }

  push(raw: string): void {
    const line = raw.replace(CONTROL, '').slice(0, LINE_CHARACTERS_MAX)
    this.#kept.push(line)
    this.#total++
    if (this.#kept.length > LINES_KEPT_MAX) this.#kept.shift()
    this.#file?.write(`${line}\n`)
    this.#notify()
  }

  /** The last lines, for a message that explains a failure. */
  tail(count = 15): string[] {
    return this.#kept.slice(-count)
  }

  /** Ends all readers. */
  end(): void {
    this.#ended = true
    this.#file?.end()
    this.#notify()
  }

  /**
   * Lines from position `from` (default: only new ones) until the console ends or `signal` aborts, which ends it quietly. A reader
   * that falls more than 2,000 lines behind misses the oldest.
   */
  async *follow(from = this.#total, signal?: AbortSignal): AsyncGenerator<string, void, undefined> {
    const aborted = Promise.withResolvers<void>()
    const abort = () => aborted.resolve()
    signal?.addEventListener('abort', abort, { once: true })
    try {
      for (let next = from; !signal?.aborted; ) {
        next = Math.max(next, this.#total - this.#kept.length)
        const line = this.#kept[next - (this.#total - this.#kept.length)]
        if (line !== undefined) {
          next++
          yield line
        } else if (this.#ended) return
        else await Promise.race([this.#wake.promise, aborted.promise])
      }
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  /**
   * @returns the first line from position `from` that matches
   * @throws DEADLINE_PASSED not within `timeoutMs`, or the console ended before; the message has its last lines
   */
  async waitFor(pattern: RegExp, options: { timeoutMs: number; from?: number; signal?: AbortSignal }): Promise<string> {
    const late = AbortSignal.timeout(options.timeoutMs)
    const signal = options.signal ? AbortSignal.any([late, options.signal]) : late
    for await (const line of this.follow(options.from ?? 0, signal)) {
      if (pattern.test(line)) return line
    }
    options.signal?.throwIfAborted()
    const why = late.aborted ? `within ${options.timeoutMs / 1000} s` : 'before the console ended'
    throw new OffboxError('DEADLINE_PASSED', `no line that matches ${pattern} ${why}; the last ones:\n  ${this.tail().join('\n  ')}`)
  }

  #notify(): void {
    this.#wake.resolve()
    this.#wake = Promise.withResolvers()
  }
}
