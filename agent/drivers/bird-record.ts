/** The configuration that BIRD is to run, and candidates for it: text, document and revision of each in one atomic file. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import type { AtomicFiles } from '../store/atomic.ts'

export interface BirdRecord {
  readonly text: string
  readonly document: Uint8Array
  /** SHA-256 of the text, hex; empty when nothing was ever applied. */
  readonly revision: string
}

export const emptyRecord: BirdRecord = { text: '', document: new Uint8Array(), revision: '' }

export function makeRecord(text: string, document: Uint8Array): BirdRecord {
  return { text, document, revision: createHash('sha256').update(text).digest('hex') }
}

export class BirdRecords {
  readonly #files: AtomicFiles
  readonly #directory: string

  constructor(files: AtomicFiles, stateDir: string) {
    this.#files = files
    this.#directory = join(stateDir, 'bird')
  }

  /** The confirmed one; `emptyRecord` before the first. @throws STORE_CORRUPT */
  async current(): Promise<BirdRecord> {
    return (await this.#read('current')) ?? emptyRecord
  }

  /** Durable when it resolves. @throws STORE_FULL */
  async setCurrent(record: BirdRecord): Promise<void> {
    await this.#write('current', record)
  }

  /** Null when there is none. @throws STORE_CORRUPT */
  async candidate(stageId: string): Promise<BirdRecord | null> {
    return await this.#read(`candidate-${stageId}`)
  }

  /** @throws STORE_FULL */
  async stage(stageId: string, record: BirdRecord): Promise<void> {
    await this.#write(`candidate-${stageId}`, record)
  }

  async discard(stageId: string): Promise<void> {
    await this.#files.remove(this.#path(`candidate-${stageId}`))
  }

  async #read(name: string): Promise<BirdRecord | null> {
    const raw = (await this.#files.readJson(this.#path(name))) as { text?: unknown; document?: unknown } | null
    if (raw === null) return null
    if (typeof raw.text !== 'string' || typeof raw.document !== 'string') {
      await this.#files.setAside(this.#path(name))
      throw new OffboxError('STORE_CORRUPT', `the stored BIRD configuration ${name} lacks a field; it is set aside`)
    }
    return makeRecord(raw.text, new Uint8Array(Buffer.from(raw.document, 'base64')))
  }

  async #write(name: string, { text, document }: BirdRecord): Promise<void> {
    await this.#files.writeJson(this.#path(name), { text, document: Buffer.from(document).toString('base64') })
  }

  #path(name: string): string {
    return join(this.#directory, `${name}.json`)
  }
}
