/** What the change engine knows on disk: one atomic file a change, the newest settled ones kept as history. */
import { join } from 'node:path'
import { codeOf, messageOf } from '../../core/errors.ts'
import { type AtomicFiles, CORRUPT_SUFFIX } from '../store/atomic.ts'
import { CHANGE_STATES } from './change.ts'
import type { ChangeRecord } from './types.ts'

const FILE = /^(c-(\d{10,}))(\.corrupt)?$/

export class Journal {
  readonly #files: AtomicFiles
  readonly #directory: string
  readonly #report: (fields: Record<string, unknown>, message: string) => void
  #newest = 0

  /** @param report told of a record that cannot be read */
  constructor(files: AtomicFiles, directory: string, report: (fields: Record<string, unknown>, message: string) => void) {
    this.#files = files
    this.#directory = directory
    this.#report = report
  }

  /** Every readable record, oldest first. One that cannot be read is set aside and reported; its number is not used again. */
  async load(): Promise<ChangeRecord[]> {
    const records: ChangeRecord[] = []
    for (const name of await this.#files.list(this.#directory, { setAside: true })) {
      const match = FILE.exec(name)
      if (!match) continue
      this.#newest = Math.max(this.#newest, Number(match[2]))
      if (match[3]) continue
      try {
        const record = (await this.#files.readJson(join(this.#directory, name))) as ChangeRecord | null
        if (record?.id === name && CHANGE_STATES.includes(record.state)) records.push(record)
      } catch (error) {
        this.#report({ change: name, code: codeOf(error), error: messageOf(error) }, 'a change in the journal cannot be read')
      }
    }
    return records
  }

  /** The next id, e.g. "c-0000000012"; never one that a file of this journal has had. */
  nextId(): string {
    this.#newest += 1
    return `c-${String(this.#newest).padStart(10, '0')}`
  }

  /** Durable when it resolves. @throws STORE_FULL */
  async write(record: ChangeRecord): Promise<void> {
    await this.#files.writeJson(join(this.#directory, record.id), record)
  }

  async forget(id: string): Promise<void> {
    await this.#files.remove(join(this.#directory, id))
    await this.#files.remove(join(this.#directory, id + CORRUPT_SUFFIX))
  }
}
