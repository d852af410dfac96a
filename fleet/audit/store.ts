/**
 * What the collector holds of one device's audit log: files that are only ever added to, and the head that it signed last. What lies behind that
 * head is followed anew at a start, and cut off where it cannot be followed: it was not acknowledged, so the device has it still.
 */
import { open, readdir, readFile, stat, truncate, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Chain, type Head } from '../../core/audit/chain.ts'
import { chapterLine, exportLine, readEntry, signedLine } from '../../core/audit/entries.ts'
import { type Chapter, type ChapterReason, chaptersDigest, readChapter, readCheckpoint, readHead, type Signed } from '../../core/audit/statements.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { cleanTemporaries, makeDirectory, readIfThere, syncDirectory, writeAtomic } from '../home/atomic.ts'
import type { HeadSigner } from './identity.ts'

/** A file of a chapter is followed by another one behind this. */
export const auditFileBytesMax = 16 * 1024 * 1024
/** A diskless device begins one at each boot. */
export const chaptersMax = 65_536
const CHUNK_BYTES = 256 * 1024
const FILE = /^\d{5}-\d{12}\.log$/
const HEAD_FILE = 'head.json'

export interface StoreOptions {
  readonly directory: string
  readonly fleet: string
  readonly caPem: string
  readonly deviceId: string
}

interface Batch {
  /** Without line feeds. */
  readonly records: readonly Uint8Array[]
  readonly checkpoint: Signed
}

/** One at a time; `export` may run beside the others. */
export class AuditStore {
  readonly #options: StoreOptions
  #earlier: Chapter[] = []
  #chapter: Chapter | null = null
  /** The newest file, and how much of it is on disk. */
  #file = ''
  #bytes = 0
  /** What the collector signed last, and where that ends. */
  #signed: { head: Signed; sequence: number; atMs: number; file: string; bytes: number; chapters: number } | null = null

  private constructor(options: StoreOptions) {
    this.#options = options
  }

  /** @throws STORE_CORRUPT what was signed for is not there any more */
  static async open(options: StoreOptions): Promise<AuditStore> {
    const store = new AuditStore(options)
    await makeDirectory(options.directory)
    await cleanTemporaries(options.directory)
    await store.#load()
    return store
  }

  /** The chapter that goes on, as far as it is on disk; null before the first. */
  get chapter(): Chapter | null {
    return this.#chapter
  }

  /** All of them, oldest first. */
  get chapters(): readonly Chapter[] {
    return this.#chapter ? [...this.#earlier, this.#chapter] : this.#earlier
  }

  /** When the collector signed last, Unix milliseconds, and up to which record of which chapter (1 is the first). Null: never. */
  get countersigned(): { sequence: number; atMs: number; chapters: number; head: Signed } | null {
    return this.#signed
  }

  /** Begins a chapter: what comes now does not follow what is there. @throws STORE_FULL, LIMIT_REACHED */
  async begin(reason: ChapterReason, chain: string, after: Head): Promise<void> {
    if (this.#earlier.length + 1 >= chaptersMax) throw new OffboxError('LIMIT_REACHED', `${chaptersMax} chapters of this device's audit log are held`)
    const first = this.#chapter
    this.#file = this.#nameOf(this.#earlier.length + (first ? 2 : 1), after.sequence + 1)
    this.#bytes = 0
    // One that a start found no record in is begun again under the same name.
    await unlink(this.#path(this.#file)).catch(() => {})
    await this.#append(`${chapterLine({ chain, reason, after })}\n`)
    if (first) this.#earlier.push(first)
    this.#chapter = { chain, reason, after, ...after }
  }

  /** Checks a batch and adds it: on disk when it resolves. @throws AUDIT_BROKEN, CERTIFICATE_INVALID nothing of it was added; STORE_FULL */
  async add({ records, checkpoint }: Batch): Promise<Head> {
    const chapter = this.#chapter
    if (!chapter) throw new Error('no chapter is open')
    const chain = new Chain(chapter)
    for (const line of records) chain.follow(line)
    if (records.length === 0) throw new OffboxError('AUDIT_BROKEN', 'a batch without records')
    const stated = readCheckpoint(checkpoint, this.#options)
    const { head } = chain
    if (stated.chain !== chapter.chain || stated.sequence !== head.sequence || stated.hash !== head.hash) {
      throw new OffboxError('AUDIT_BROKEN', `the device signed for another number ${stated.sequence} than the one that it sent`)
    }
    if (this.#bytes > auditFileBytesMax) {
      this.#file = this.#nameOf(this.#earlier.length + 1, chapter.sequence + 1)
      this.#bytes = 0
    }
    const feed = Buffer.from('\n')
    await this.#append(Buffer.concat([...records.flatMap((line) => [line, feed]), Buffer.from(`${signedLine('checkpoint', checkpoint)}\n`)]))
    this.#chapter = { ...chapter, ...head }
    return head
  }

  /** Signs for all that is held. @throws STORE_FULL */
  async countersign(sign: HeadSigner, atMs: number): Promise<Signed> {
    const { fleet, deviceId } = this.#options
    const chapter = this.#chapter
    if (!chapter) throw new Error('nothing is held')
    const earlier = { count: this.#earlier.length, digest: chaptersDigest(this.#earlier) }
    const head = sign({ fleet, deviceId, chapter, earlier, atMs })
    const [file, bytes] = [this.#file, this.#bytes]
    await writeAtomic(
      this.#path(HEAD_FILE),
      `${JSON.stringify({ schema: 1, file, bytes, earlier: this.#earlier, head: JSON.parse(signedLine('head', head)) })}\n`,
    )
    this.#signed = { head, sequence: chapter.sequence, atMs, file, bytes, chapters: this.#earlier.length + 1 }
    return head
  }

  /** The log up to what was signed for last, as offbox audit verify reads it. @throws AUDIT_NOT_FOUND nothing was signed for yet */
  async *export(): AsyncGenerator<Uint8Array> {
    const { fleet, deviceId } = this.#options
    const signed = this.#signed
    if (!signed) throw new OffboxError('AUDIT_NOT_FOUND', `nothing of the audit log of ${deviceId} has been collected and signed for yet`)
    yield Buffer.from(`${exportLine(fleet, deviceId)}\n`)
    for (const name of await this.#names()) {
      if (name > signed.file) break
      yield* chunksOf(this.#path(name), name === signed.file ? signed.bytes : Number.POSITIVE_INFINITY)
    }
    yield Buffer.from(`${signedLine('head', signed.head)}\n`)
  }

  async #load(): Promise<void> {
    const { deviceId } = this.#options
    const raw = await readIfThere(this.#path(HEAD_FILE))
    let from = { file: '', bytes: 0 }
    if (raw) {
      try {
        const { file, bytes, earlier, head } = JSON.parse(String(raw)) as { file: string; bytes: number; earlier: unknown[]; head: object }
        const entry = readEntry(Buffer.from(JSON.stringify(head)))
        if (entry.kind !== 'head' || !FILE.test(file) || !Number.isSafeInteger(bytes)) throw new Error('it holds no head')
        const { chapter, earlier: stated, atMs } = readHead(entry.signed, this.#options)
        this.#earlier = earlier.map(readChapter)
        if (chaptersDigest(this.#earlier) !== stated.digest || this.#earlier.length !== stated.count) throw new Error('its chapters are not those signed for')
        if ((await stat(this.#path(file))).size < bytes) throw new Error(`${file} is shorter than what was signed for`)
        this.#chapter = chapter
        this.#signed = { head: entry.signed, sequence: chapter.sequence, atMs, file, bytes, chapters: stated.count + 1 }
        from = { file, bytes }
      } catch (error) {
        throw new OffboxError('STORE_CORRUPT', `what is held of the audit log of ${deviceId} cannot be used: ${messageOf(error)}`, { cause: error })
      }
    }
    await this.#resume(from)
  }

  /** Takes up what was added behind the signed head, up to the device's last checkpoint that fits. */
  async #resume(from: { file: string; bytes: number }): Promise<void> {
    this.#file = from.file
    this.#bytes = from.bytes
    let broken = false
    for (const name of (await this.#names()).filter((one) => one >= from.file)) {
      const start = name === from.file ? from.bytes : 0
      const good = broken ? start : await this.#follow(name, start)
      if (good > start) {
        this.#file = name
        this.#bytes = good
      }
      if (good < (await stat(this.#path(name))).size) {
        broken = true
        if (good === 0) await unlink(this.#path(name))
        else await truncate(this.#path(name), good)
      }
    }
  }

  /** How far a file can be followed. */
  async #follow(name: string, start: number): Promise<number> {
    const bytes = (await readFile(this.#path(name))).subarray(start)
    let good = 0
    let [earlier, chapter] = [this.#earlier, this.#chapter]
    let chain = new Chain(chapter ?? undefined)
    try {
      for (let at = 0, end = bytes.indexOf(10); end >= 0; at = end + 1, end = bytes.indexOf(10, at)) {
        const entry = readEntry(bytes.subarray(at, end))
        if (entry.kind === 'chapter') {
          if (chapter) earlier = [...earlier, { ...chapter, ...chain.head }]
          chapter = entry.chapter
          chain = new Chain(chapter.after)
        } else if (entry.kind === 'record') chain.follow(entry.line)
        else if (entry.kind === 'checkpoint') {
          const stated = readCheckpoint(entry.signed, this.#options)
          if (!chapter || stated.chain !== chapter.chain || stated.hash !== chain.head.hash || stated.sequence !== chain.head.sequence) break
          chapter = { ...chapter, ...chain.head }
          good = end + 1
          this.#earlier = earlier
          this.#chapter = chapter
        } else break
      }
    } catch {
      // What cannot be followed is cut off: the device has it still.
    }
    return start + good
  }

  async #names(): Promise<string[]> {
    return (await readdir(this.#options.directory)).filter((name) => FILE.test(name)).sort()
  }

  async #append(data: string | Uint8Array): Promise<void> {
    const bytes = Buffer.from(data as Uint8Array)
    const path = this.#path(this.#file)
    try {
      const file = await open(path, 'a', 0o600)
      try {
        const { size } = await file.stat()
        if (size < this.#bytes) throw new OffboxError('STORE_CORRUPT', `${path} is shorter than what was written to it`)
        // What a failed write left behind the good end is written over.
        if (size > this.#bytes) await file.truncate(this.#bytes)
        await file.writeFile(bytes)
        await file.sync()
      } finally {
        await file.close()
      }
      if (this.#bytes === 0) await syncDirectory(this.#options.directory)
    } catch (error) {
      const errno = (error as NodeJS.ErrnoException).code
      if (errno === 'ENOSPC' || errno === 'EDQUOT') throw new OffboxError('STORE_FULL', `no space left to write ${path}`, { cause: error })
      throw error
    }
    this.#bytes += bytes.length
  }

  #nameOf(chapter: number, first: number): string {
    return `${String(chapter).padStart(5, '0')}-${String(first).padStart(12, '0')}.log`
  }

  #path(name: string): string {
    return join(this.#options.directory, name)
  }
}

async function* chunksOf(path: string, bytesMax: number): AsyncGenerator<Uint8Array> {
  const file = await open(path, 'r')
  try {
    for (let at = 0; at < bytesMax; ) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(Math.min(CHUNK_BYTES, bytesMax - at)), 0, undefined, at)
      if (bytesRead === 0) return
      yield buffer.subarray(0, bytesRead)
      at += bytesRead
    }
  } finally {
    await file.close()
  }
}
