/**
 * Verifies an exported log with nothing but the CA of its fleet: that every record follows the one before it, that the device signed for them, and
 * that they go exactly as far as the collector signed for. Takes one line after another; keeps none.
 */
import { messageOf } from '../errors.ts'
import { Chain, type Head } from './chain.ts'
import { readEntry } from './entries.ts'
import { type Chapter, chaptersDigest, type CollectedHead, readCheckpoint, readHead, type Signed } from './statements.ts'

export interface AuditTrust {
  readonly fleet: string
  readonly caPem: string
  readonly deviceId: string
}

export interface Finding {
  /** Number of the record at which it shows; 0: at none. */
  readonly at: number
  readonly what: string
}

export interface Verdict {
  readonly records: number
  readonly checkpoints: number
  readonly chapters: readonly Chapter[]
  /** What the export itself ends with; null: without one. */
  readonly head: CollectedHead | null
  /** What proves that it was tampered with, or fails to prove that it was not; empty: it is what the device wrote. The first of them. */
  readonly findings: readonly Finding[]
  /** What is not there, and rightly so. */
  readonly notes: readonly string[]
}

/** More than these are not told. */
export const findingsMax = 100

export class ExportVerifier {
  readonly #trust: AuditTrust
  readonly #kept: CollectedHead | null
  readonly #findings: Finding[] = []
  readonly #notes: string[] = []
  readonly #done: Chapter[] = []
  #lines = 0
  #records = 0
  #checkpoints = 0
  #chapter: Chapter | null = null
  #chain = new Chain()
  /** Up to which record of the chapter the device has signed. */
  #signed = 0
  /** Whether the record that the kept head names was seen. */
  #keptSeen = false
  #head: CollectedHead | null = null

  /**
   * @param kept a head of the collector's that was kept apart from the export: with it, an end that was cut off shows even when it was cut where the
   *   collector had signed before
   * @throws CERTIFICATE_INVALID, AUDIT_BROKEN `kept` proves nothing
   */
  constructor(trust: AuditTrust, kept: Signed | null = null) {
    this.#trust = trust
    this.#kept = kept && readHead(kept, trust)
  }

  /** Findings so far: a log with one is refused, whatever follows. */
  get found(): number {
    return this.#findings.length
  }

  /** @param line without its line feed */
  take(line: Uint8Array): void {
    this.#lines += 1
    try {
      const entry = readEntry(line)
      if (this.#head) throw new Error('something stands behind the head')
      if ((this.#lines === 1) !== (entry.kind === 'export')) throw new Error('the first line, and no other, says what is exported')
      if (entry.kind === 'export') this.#begin(entry)
      else if (entry.kind === 'chapter') this.#open(entry.chapter)
      else if (entry.kind === 'record') this.#follow(entry.line)
      else if (entry.kind === 'checkpoint') this.#check(entry.signed)
      else this.#finish(entry.signed)
    } catch (error) {
      this.#find(messageOf(error))
    }
  }

  /** After the last line. */
  end(): Verdict {
    const kept = this.#kept
    if (!this.#head) {
      this.#close()
      if (!kept) this.#find('it does not end with a head that the collector signed: whether its end was cut off cannot be told')
      else if (!this.#keptSeen || this.#done.length !== kept.earlier.count + 1 || this.#chain.head.sequence !== kept.chapter.sequence) {
        this.#find('it ends elsewhere than the collector signed for')
      }
    }
    if (kept && !this.#keptSeen) {
      this.#find(`the collector signed for number ${kept.chapter.sequence} of chapter ${kept.earlier.count + 1}, which is not in it, or is another one`)
    }
    const head = this.#head
    if (kept && head && head.earlier.count === kept.earlier.count && head.chapter.sequence < kept.chapter.sequence) {
      this.#find(`it ends with number ${head.chapter.sequence}, and the collector signed for number ${kept.chapter.sequence}`)
    }
    return {
      records: this.#records,
      checkpoints: this.#checkpoints,
      chapters: this.#done,
      head,
      findings: this.#findings,
      notes: this.#notes,
    }
  }

  #begin({ fleet, deviceId }: { fleet: string; deviceId: string }): void {
    if (fleet !== this.#trust.fleet || deviceId !== this.#trust.deviceId) throw new Error(`it is the log of ${deviceId} of ${fleet}`)
  }

  #open(chapter: Chapter): void {
    this.#close()
    const before = this.#done.at(-1)
    this.#chapter = chapter
    this.#chain = new Chain(chapter.after)
    this.#signed = chapter.after.sequence
    const number = this.#done.length + 1
    if ((chapter.reason === 'first') !== (number === 1)) this.#find(`chapter ${number} is said to be ${chapter.reason}`)
    if (chapter.reason === 'forked') this.#find(`in chapter ${number} the device shows another past than it had shown before: its log was forked`)
    if (chapter.reason === 'new log') this.#notes.push(`chapter ${number}: the device began a new log; what it had written last before was not collected`)
    if (chapter.after.sequence > 0 && chapter.reason !== 'forked') {
      const from = before?.chain === chapter.chain ? before.sequence + 1 : 1
      this.#notes.push(`chapter ${number}: numbers ${from} to ${chapter.after.sequence} were gone from the device before they were collected`)
    }
  }

  #follow(line: Uint8Array): void {
    this.#records += 1
    const chapter = this.#chapter
    if (!chapter) throw new Error('records stand before the first chapter')
    try {
      this.#chain.follow(line)
    } catch (error) {
      this.#find(messageOf(error))
      // On from here, to tell whether it is one record or many; one that is none at all is passed over.
      this.#chain.jump(line)
    }
    const { head } = this.#chain
    if (head.sequence === 1 && head.hash !== chapter.chain) this.#find('its first record is not the one that the log is named after')
    if (this.#kept && this.#done.length === this.#kept.earlier.count && head.sequence === this.#kept.chapter.sequence) this.#compare(this.#kept, chapter, head)
  }

  #compare(kept: CollectedHead, chapter: Chapter, head: Head): void {
    const same = kept.chapter.chain === chapter.chain && kept.chapter.hash === head.hash && kept.earlier.digest === chaptersDigest(this.#done)
    if (same) this.#keptSeen = true
    else this.#find(`number ${head.sequence} is another one than the collector signed for`)
  }

  #check(signed: Signed): void {
    this.#checkpoints += 1
    const { chain, sequence, hash } = readCheckpoint(signed, this.#trust)
    const { head } = this.#chain
    if (chain !== this.#chapter?.chain || sequence !== head.sequence || hash !== head.hash) {
      throw new Error(`the device signed for another number ${sequence} than the one that is shown`)
    }
    if (sequence <= this.#signed) throw new Error(`the device's signature for number ${sequence} stands there twice`)
    this.#signed = sequence
  }

  #close(): void {
    const chapter = this.#chapter
    if (!chapter) return
    const { head } = this.#chain
    if (this.#signed !== head.sequence) this.#find(`the device did not sign for the records behind number ${this.#signed}`)
    this.#done.push({ ...chapter, ...head })
    this.#chapter = null
  }

  #finish(signed: Signed): void {
    this.#close()
    const head = readHead(signed, this.#trust)
    this.#head = head
    const last = this.#done.at(-1)
    const earlier = this.#done.slice(0, -1)
    if (!last || chaptersDigest([last]) !== chaptersDigest([head.chapter])) {
      this.#find(`it ends with number ${last?.sequence ?? 0}, and the collector signed for number ${head.chapter.sequence} or another one of that number`)
    }
    if (earlier.length !== head.earlier.count || chaptersDigest(earlier) !== head.earlier.digest) {
      this.#find('the chapters before the last are not those that the collector signed for')
    }
  }

  #find(what: string): void {
    if (this.#findings.length < findingsMax) this.#findings.push({ at: this.#chain.head.sequence, what })
  }
}
