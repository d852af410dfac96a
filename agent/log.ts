/**
 * The agent's log: pino JSON lines to stdout, and the newest of them kept for Device.Logs. Bounded in records and in bytes;
 * the agent has no other log.
 */
import { pino, type Logger } from 'pino'
import { auditRecordsMax, logBytesMax, logRecordsMax, watchQueueMax } from './limits.ts'

export type { Logger } from 'pino'

export const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const
export type Level = (typeof LEVELS)[number]

export interface StoredRecord {
  /** Increases by one a record. */
  readonly sequence: number
  readonly line: string
}

export interface AgentLog {
  readonly log: Logger
  readonly ring: LogRing
  /** Audit records alone: reads would push everything else out of the ring, and a serial console is slow. */
  readonly audits: LogRing
}

/** @param write where lines go; stdout by default */
export function createLog(level: Level, write: (line: string) => void = (line) => process.stdout.write(line)): AgentLog {
  const ring = new LogRing(logRecordsMax)
  const stream = {
    write: (line: string) => {
      write(line)
      ring.push(line)
    },
  }
  return {
    log: pino({ level, base: undefined, formatters: { level: (label) => ({ level: label }) } }, stream),
    ring,
    audits: new LogRing(auditRecordsMax, asLogLine),
  }
}

/**
 * Keeps an audit record for reading, and logs those that matter to whoever looks at the console: changes, denials, failures. A
 * read that went well is in the audit log and in `audits` alone. `body` is the record as the audit log has it, without what chains it.
 */
export function showAudit(
  { log, audits }: AgentLog,
  record: { readonly decision: string; readonly status?: string; readonly mutation?: unknown },
  body: string,
): void {
  audits.push(body)
  const fine = record.decision === 'allow' && record.mutation !== true && (record.status === 'OK' || record.status === 'CANCELLED')
  const quiet = fine || record.decision === 'note'
  if (!quiet) log.info({ audit: true, ...record }, 'audit')
}

/** The body of an audit record as a line of the log. */
function asLogLine(body: string): string {
  const [, atMs, rest] = /^"atMs":([\d.]+),(.*)\}$/s.exec(body) ?? []
  return `{"level":"info","time":${atMs},"audit":true,${rest},"msg":"audit"}`
}

/** The newest lines, oldest first, and those who wait for more. */
export class LogRing {
  #records: StoredRecord[] = []
  #sequence = 0
  #bytes = 0
  readonly #recordsMax: number
  readonly #shown: ((line: string) => string) | undefined
  readonly #waiting = new Set<(record: StoredRecord) => void>()

  /** @param shown what readers get for a line: there are far more lines than are ever read */
  constructor(recordsMax: number, shown?: (line: string) => string) {
    this.#recordsMax = recordsMax
    this.#shown = shown
  }

  push(line: string): void {
    this.#sequence += 1
    const record = { sequence: this.#sequence, line }
    this.#records.push(record)
    this.#bytes += line.length
    // Trimmed by an eighth at a time: shifting an array by one for every line is slow.
    if (this.#records.length > this.#recordsMax * 1.125 || this.#bytes > logBytesMax * 1.125) this.#trim()
    for (const listener of this.#waiting) listener(this.#show(record))
  }

  stored(): readonly StoredRecord[] {
    return this.#shown ? this.#records.map((record) => this.#show(record)) : this.#records
  }

  #show(record: StoredRecord): StoredRecord {
    return this.#shown ? { sequence: record.sequence, line: this.#shown(record.line) } : record
  }

  watch(listener: (record: StoredRecord) => void): () => void {
    this.#waiting.add(listener)
    return () => this.#waiting.delete(listener)
  }

  #trim(): void {
    let first = Math.max(0, this.#records.length - this.#recordsMax)
    for (let at = 0; at < first; at++) this.#bytes -= this.#records[at]?.line.length ?? 0
    while (this.#bytes > logBytesMax && first < this.#records.length) {
      this.#bytes -= this.#records[first]?.line.length ?? 0
      first += 1
    }
    this.#records = this.#records.slice(first)
  }
}

/** A bounded queue between something that happens and a reader that may be slow: what does not fit is counted. */
export class Backlog<T> {
  readonly #items: T[] = []
  #dropped = 0
  #wake: (() => void) | null = null
  #ended = false

  push(item: T): void {
    if (this.#items.length >= watchQueueMax) this.#dropped += 1
    else this.#items.push(item)
    this.#wake?.()
  }

  end(): void {
    this.#ended = true
    this.#wake?.()
  }

  /** Next item, with the number lost before it; null once ended. One reader. */
  async next(): Promise<{ item: T; dropped: number } | null> {
    while (!this.#ended) {
      const item = this.#items.shift()
      if (item !== undefined) {
        // Losses happened behind what was still queued: they are told with the first item after the queue ran empty.
        const dropped = this.#items.length === 0 ? this.#dropped : 0
        if (dropped > 0) this.#dropped = 0
        return { item, dropped }
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      this.#wake = null
    }
    return null
  }
}
