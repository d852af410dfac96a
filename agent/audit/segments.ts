/**
 * The audit log on disk: files of whole records, one after another, each begun anew by every process that writes, so that nothing is ever added
 * to what a crash tore. GENERATION-FIRST.log; a generation is one chain, and another one begins only when the one before cannot go on.
 */
import { join } from 'node:path'
import { Chain, type Head, BEFORE_FIRST } from '../../core/audit/chain.ts'
import { isHash } from '../../core/audit/record.ts'
import { codeOf, messageOf } from '../../core/errors.ts'
import { storeError } from '../store/atomic.ts'
import type { FileSystem } from '../store/file-system.ts'
import { segmentBytes } from './limits.ts'

const FORMAT = 'offbox.audit.segment.v1'
const FILE = /^(\d{6})-(\d{12})\.log$/
const LINE_FEED = 10

/** Records in one buffer, each with its line feed. */
export interface Chunk {
  readonly bytes: Uint8Array
  /** What its first record follows, and its last one. */
  readonly after: Head
  readonly head: Head
}

interface Segment {
  readonly path: string
  readonly first: number
  /** Last record known to be on disk. */
  last: number
  bytes: number
}

export interface Loaded {
  readonly head: Head
  /** Hash of the first record; empty when there is none yet. */
  readonly chain: string
  /** Why the chain that was there cannot go on; empty when it can, or when there was none. */
  readonly damage: string
}

export class Segments {
  readonly #directory: string
  readonly #files: FileSystem
  #generation = 1
  #segments: Segment[] = []
  #current: Segment | null = null

  constructor(directory: string, files: FileSystem) {
    this.#directory = directory
    this.#files = files
  }

  /** Number of the oldest record kept; 0 when there is none. */
  get oldest(): number {
    return this.#segments[0]?.first ?? 0
  }

  /** Bytes of the segments that hold records above `sequence`. */
  bytesAbove(sequence: number): number {
    let bytes = 0
    for (const segment of this.#segments) if (segment.last > sequence) bytes += segment.bytes
    return bytes
  }

  /** Reads and follows everything of the newest generation. Once, before anything else. */
  async load(): Promise<Loaded> {
    await this.#files.makeDirectory(this.#directory)
    const names = (await this.#files.list(this.#directory)).map(({ name }) => FILE.exec(name)).filter((match) => match !== null)
    if (names.length === 0) return { head: BEFORE_FIRST, chain: '', damage: '' }
    this.#generation = Math.max(...names.map((match) => Number(match[1])))
    const found = names.filter((match) => Number(match[1]) === this.#generation).sort((one, other) => Number(one[2]) - Number(other[2]))
    let chain = ''
    let head: Head | undefined
    try {
      for (const [at, match] of found.entries()) {
        const next = found[at + 1]
        const named = (name: string) => {
          if (chain !== '' && name !== chain) throw new Error(`${match[0]} belongs to another log`)
          chain = name
        }
        // One that was begun and never written to: its name is free again.
        head = (await this.#loadOne(match[0], named, head, next ? Number(next[2]) : undefined)) ?? head
      }
    } catch (error) {
      const known = head ?? BEFORE_FIRST
      return { head: known, chain, damage: `${codeOf(error)}: ${messageOf(error)}; it can be followed up to number ${known.sequence}` }
    }
    // An agent that was killed may have left records in the page cache; what follows them must not be found without them.
    const newest = this.#segments.at(-1)
    if (newest) await this.#files.sync(newest.path)
    return { head: head ?? BEFORE_FIRST, chain, damage: '' }
  }

  /** Leaves what is there where it is, for whoever looks into it, in place of what was left there before. */
  async beginAnew(): Promise<void> {
    const left = `${String(this.#generation).padStart(6, '0')}-`
    for (const { name } of await this.#files.list(this.#directory)) {
      if (FILE.test(name) && !name.startsWith(left)) await this.#files.remove(join(this.#directory, name))
    }
    this.#generation += 1
    this.#segments = []
    this.#current = null
  }

  /**
   * Writes chunks that follow one another, as far as they fit into the segment: on disk when it resolves. A failed one is written again, whole.
   * @param seal a last line for a segment that is full; null for none
   * @returns how many were written, one at least
   * @throws STORE_FULL
   */
  async append(chunks: readonly Chunk[], chain: string, seal: (head: Head) => Uint8Array | null): Promise<number> {
    const first = chunks[0] as Chunk
    const segment = this.#current ?? (await this.#begin(first.after))
    const fresh = segment.bytes === 0
    const parts: Uint8Array[] = fresh ? [headerOf(chain, first.after)] : []
    let bytes = parts[0]?.length ?? 0
    let count = 0
    while (count < chunks.length && (count === 0 || segment.bytes + bytes < segmentBytes)) {
      const { bytes: some } = chunks[count] as Chunk
      parts.push(some)
      bytes += some.length
      count += 1
    }
    const { head } = chunks[count - 1] as Chunk
    const full = segment.bytes + bytes >= segmentBytes
    const last = full ? seal(head) : null
    if (last) {
      parts.push(last)
      bytes += last.length
    }
    try {
      await this.#files.append(segment.path, Buffer.concat(parts), 0o600)
      await this.#files.sync(segment.path)
      if (fresh) await this.#files.sync(this.#directory)
    } catch (error) {
      // Whatever of it is there now is never added to: it ends where the next segment begins.
      this.#current = null
      throw storeError(segment.path, error)
    }
    if (fresh) this.#segments.push(segment)
    segment.last = head.sequence
    segment.bytes += bytes
    this.#current = full ? null : segment
    return count
  }

  /** Removes the oldest segments whose records were all acknowledged, while more than `keepBytes` are there. */
  async drop(acknowledged: number, keepBytes: number): Promise<void> {
    let bytes = this.bytesAbove(-1)
    while (this.#segments.length > 1 && bytes > keepBytes) {
      const [oldest] = this.#segments
      if (!oldest || oldest === this.#current || oldest.last > acknowledged) return
      await this.#files.remove(oldest.path)
      bytes -= oldest.bytes
      this.#segments.shift()
    }
  }

  /** Records `from` to `to`, a segment at a time, without line feeds. Ends early where a segment was dropped meanwhile. */
  async *read(from: number, to: number): AsyncGenerator<Uint8Array[]> {
    for (let next = from; next <= to; ) {
      const segment = this.#segments.find(({ last }) => last >= next)
      if (!segment || segment.first > next) return
      const last = Math.min(segment.last, to)
      const bytes = await this.#files.read(segment.path)
      if (!bytes) return
      const lines = linesOf(bytes).lines.slice(1)
      yield lines.slice(next - segment.first, last + 1 - segment.first)
      next = last + 1
    }
  }

  async #begin(after: Head): Promise<Segment> {
    const first = after.sequence + 1
    const name = `${String(this.#generation).padStart(6, '0')}-${String(first).padStart(12, '0')}.log`
    const path = join(this.#directory, name)
    // Of a write that failed: nothing in it counts.
    if ((await this.#files.sizeBytes(path)) > 0) {
      this.#segments = this.#segments.filter((segment) => segment.path !== path)
      await this.#files.remove(path)
    }
    return { path, first, last: after.sequence, bytes: 0 }
  }

  /**
   * @param named told the name of the log that the segment says it belongs to, before it is followed
   * @param next number with which the next segment begins: what this one has from there on was written there again
   */
  async #loadOne(name: string, named: (chain: string) => void, before: Head | undefined, next: number | undefined): Promise<Head | null> {
    const path = join(this.#directory, name)
    const bytes = (await this.#files.read(path)) ?? new Uint8Array()
    const { lines, rest } = linesOf(bytes)
    const [header, ...records] = lines
    const first = Number(FILE.exec(name)?.[2])
    if (!header) {
      if (next === undefined || next === first) return null
      throw new Error(`${name} is empty`)
    }
    const { chain, after } = readHeader(header, name)
    named(chain)
    if (after.sequence !== first - 1 || (before && (before.sequence !== after.sequence || before.hash !== after.hash))) {
      throw new Error(`${name} does not follow what comes before it`)
    }
    const followed = new Chain(after)
    let torn = records.length
    for (const [at, line] of records.entries()) {
      if (next !== undefined && followed.head.sequence >= next - 1) break
      if (isCheckpoint(line)) continue
      try {
        followed.follow(line)
      } catch (error) {
        torn = at
        if (next !== undefined) throw error
        break
      }
    }
    const { head } = followed
    if (next !== undefined && head.sequence !== next - 1) throw new Error(`${name} ends with number ${head.sequence}`)
    // A cut tears the end of what was being written; whole records behind the tear were there before it.
    const behind = [...records.slice(torn + 1), rest].find(looksLikeRecord)
    if (next === undefined && torn < records.length && behind) throw new Error(`${name} is damaged behind number ${head.sequence}`)
    if (head.sequence < first) return null
    this.#segments.push({ path, first, last: head.sequence, bytes: bytes.length })
    if (first === 1 && chain !== nameOf(records)) throw new Error(`${name} bears another log's name`)
    return head
  }
}

function headerOf(chain: string, after: Head): Uint8Array {
  return Buffer.from(`${JSON.stringify({ segment: FORMAT, chain, after })}\n`)
}

function readHeader(line: Uint8Array, name: string): { chain: string; after: Head } {
  const raw = JSON.parse(Buffer.from(line).toString('latin1')) as { segment?: unknown; chain?: unknown; after?: Head } | null
  const { chain, after } = raw ?? {}
  const fits = raw?.segment === FORMAT && isHash(chain) && Number.isSafeInteger(after?.sequence) && (after?.hash === '' || isHash(after?.hash))
  if (!fits || !after) throw new Error(`${name} does not begin as a segment`)
  return { chain: chain as string, after: { sequence: after.sequence, hash: after.hash } }
}

/** What a log is called: the hash of its first record. */
function nameOf(records: readonly Uint8Array[]): string {
  const one = new Chain()
  if (records[0]) one.follow(records[0])
  return one.head.hash
}

/** The line that seals a segment. */
function isCheckpoint(line: Uint8Array): boolean {
  return Buffer.from(line.buffer, line.byteOffset, Math.min(line.length, 16)).toString('latin1').startsWith('{"checkpoint":')
}

function looksLikeRecord(line: Uint8Array): boolean {
  return Buffer.from(line.buffer, line.byteOffset, Math.min(line.length, 16)).toString('latin1').startsWith('{"sequence":')
}

/** Whole lines without their line feeds, and what is left behind the last of them. */
function linesOf(bytes: Uint8Array): { lines: Uint8Array[]; rest: Uint8Array } {
  const lines: Uint8Array[] = []
  let at = 0
  for (let end = bytes.indexOf(LINE_FEED); end >= 0; end = bytes.indexOf(LINE_FEED, at)) {
    lines.push(bytes.subarray(at, end))
    at = end + 1
  }
  return { lines, rest: bytes.subarray(at) }
}
