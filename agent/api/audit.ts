/**
 * Who called what, and what came of it: one JSON line a call. A mutation's intent is on disk before its effect; reads and
 * denials are written in batches, so a crash may lose the last second of those. Two files of auditBytesMax each.
 */
import type { Clock } from '../../core/clock.ts'
import { auditBytesMax, auditFlushMs, auditQueueMax } from '../limits.ts'
import { storeError } from '../store/atomic.ts'
import { type FileSystem, nodeFileSystem } from '../store/file-system.ts'
import { dirname } from 'node:path'

export interface AuditRecord {
  readonly principal: string
  readonly peer?: string
  readonly method: string
  /** `intent`: about to be carried out. */
  readonly decision: 'allow' | 'deny' | 'intent'
  /** "OK", "CANCELLED" or an error code. */
  readonly status?: string
  readonly durationMs?: number
  readonly [fact: string]: unknown
}

export interface AuditOptions {
  readonly path: string
  readonly clock: Clock
  /** Also told of every record, for the log; `line` is what is written, since to make a text of each twice is felt. */
  readonly show: (record: AuditRecord, line: string) => void
  readonly log: { error(fields: object, message: string): void }
  readonly files?: FileSystem
}

export class Audit {
  readonly #options: AuditOptions
  readonly #files: FileSystem
  #queue: string[] = []
  #dropped = 0
  #writing: Promise<unknown> = Promise.resolve()
  #disarm: (() => void) | null = null

  constructor(options: AuditOptions) {
    this.#options = options
    this.#files = options.files ?? nodeFileSystem
  }

  /**
   * For what has happened: written within auditFlushMs, or sooner when half the queue waits.
   * @param json the record as JSON, from a caller that has most of it ready; a call of it costs less than half that way
   */
  record(record: AuditRecord, json = JSON.stringify(record)): void {
    const line = this.#line(json)
    this.#options.show(record, line)
    if (this.#queue.length >= auditQueueMax) this.#dropped += 1
    else this.#queue.push(line)
    // Once a crossing: on a disk that cannot be written, only the timer tries again.
    if (this.#queue.length === auditQueueMax / 2) this.#flush()
    this.#disarm ??= this.#options.clock.after(auditFlushMs, () => {
      this.#disarm = null
      this.#flush()
    })
  }

  /**
   * For what is about to happen: on disk when it resolves.
   * @throws STORE_FULL the effect must not happen
   */
  async intent(record: AuditRecord): Promise<void> {
    const line = this.#line(JSON.stringify(record))
    this.#options.show(record, line)
    await this.#write(line)
  }

  /** Writes what waits. */
  async close(): Promise<void> {
    this.#disarm?.()
    this.#disarm = null
    await this.#write()
  }

  #flush(): void {
    this.#write().catch((error) => this.#options.log.error({ err: error }, 'audit records could not be written'))
  }

  /** @param json an object with at least one member */
  #line(json: string): string {
    return `{"atMs":${this.#options.clock.nowMs()},${json.slice(1)}\n`
  }

  /** Everything waiting and `line`, in one append and one fsync; one at a time. */
  async #write(line = ''): Promise<void> {
    const done = this.#writing
      .catch(() => {})
      .then(async () => {
        const lost = this.#dropped > 0 ? this.#line(JSON.stringify({ principal: '', method: '', decision: 'allow', dropped: this.#dropped })) : ''
        const waiting = this.#queue
        const bytes = Buffer.from(waiting.join('') + lost + line)
        if (bytes.length === 0) return
        this.#queue = []
        this.#dropped = 0
        await this.#append(bytes).catch((error) => {
          // A full disk: what waited is kept as far as there is room, a line being told to its caller is not.
          this.#queue = [...waiting, ...this.#queue].slice(0, auditQueueMax)
          throw storeError(this.#options.path, error)
        })
      })
    this.#writing = done
    await done
  }

  async #append(bytes: Uint8Array): Promise<void> {
    const { path } = this.#options
    await this.#files.makeDirectory(dirname(path))
    const sizeBytes = await this.#files.sizeBytes(path)
    if (sizeBytes > 0 && sizeBytes + bytes.length > auditBytesMax) await this.#files.rename(path, `${path}.1`)
    await this.#files.append(path, bytes, 0o600)
    await this.#files.sync(path)
    if (sizeBytes === 0 || sizeBytes + bytes.length > auditBytesMax) await this.#files.sync(dirname(path))
  }
}
