/** Follows a log record by record: each must bear the next number and the hash of the one before it. */
import { OffboxError } from '../errors.ts'
import { type AuditRecord, hashOf, readRecord } from './record.ts'

/** Up to and with which record a log is known. */
export interface Head {
  /** 0 before the first. */
  readonly sequence: number
  /** SHA-256 of that record's line, hex; empty before the first. */
  readonly hash: string
}

export const BEFORE_FIRST: Head = { sequence: 0, hash: '' }

export class Chain {
  #head: Head

  /** @param head what is known already: the next record has to follow it */
  constructor(head: Head = BEFORE_FIRST) {
    this.#head = head
  }

  get head(): Head {
    return this.#head
  }

  /** @param line without its line feed. @throws AUDIT_BROKEN it does not follow; the chain stays where it was */
  follow(line: Uint8Array): AuditRecord {
    const record = readRecord(line)
    const { sequence, hash } = this.#head
    if (record.sequence !== sequence + 1) {
      throw new OffboxError('AUDIT_BROKEN', `number ${record.sequence} stands where ${sequence + 1} belongs`)
    }
    if (!this.fits(record.previous, hash)) {
      throw new OffboxError('AUDIT_BROKEN', `number ${record.sequence} follows another record ${sequence} than the one that is shown`)
    }
    this.#head = { sequence: record.sequence, hash: hashOf(line) }
    return record
  }

  /** Goes on behind a record that did not follow, to see whether more is wrong. @throws AUDIT_BROKEN it is no record at all */
  jump(line: Uint8Array): AuditRecord {
    const record = readRecord(line)
    this.#head = { sequence: record.sequence, hash: hashOf(line) }
    return record
  }

  /** Whether `previous` is the hash of the record before. A method, so that a drill can leave it out and see that it is what holds. */
  fits(previous: string, hash: string): boolean {
    return previous === hash
  }
}
