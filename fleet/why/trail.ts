/**
 * What an audit log says of the changes of one service. Every record is followed in the chain, whatever it is about; those of the service are
 * kept. What it tells is as good as the signatures around it: `standing` says which were checked.
 */
import { Chain, type Head } from '../../core/audit/chain.ts'
import { readEntry } from '../../core/audit/entries.ts'
import { type AuditRecord, readRecord } from '../../core/audit/record.ts'
import { readCheckpoint, type Signed } from '../../core/audit/statements.ts'
import { type AuditTrust, ExportVerifier, type Verdict } from '../../core/audit/verification.ts'
import { OffboxError } from '../../core/errors.ts'

/** A record about a change: its intent, or what became of it. */
export interface LoggedChange {
  readonly sequence: number
  /** Chapter of the export, from 1; 0: read from the device itself. */
  readonly chapter: number
  readonly atMs: number
  readonly bootId: string
  readonly principal: string
  readonly intent: boolean
  readonly change: string
  readonly kind: string
  readonly from: string
  readonly to: string
  /** "confirmed" or "reverted"; empty for an intent. */
  readonly state: string
  readonly reason: string
  /** SHA-256 of the receipt's body, hex; empty: none. */
  readonly receipt: string
}

export interface Trail {
  /** Oldest first. */
  readonly changes: readonly LoggedChange[]
  /** What was checked, in words. */
  readonly basis: string
  /** What proves that it was tampered with; empty: nothing. */
  readonly findings: readonly string[]
}

/** Changes of one service that are kept; the oldest go first. */
const changesMax = 10_000

/** Takes an export line by line, then what the device has written since. */
export class TrailReader {
  readonly #trust: AuditTrust
  readonly #service: string
  readonly #changes: LoggedChange[] = []
  readonly #verifier: ExportVerifier
  #chapter = 0
  #lines = 0
  #verdict: Verdict | null = null
  /** Behind the export. */
  #chain: Chain | null = null
  #chainName = ''
  #fresh = 0
  #problem = ''
  #broken = ''

  constructor(trust: AuditTrust, service: string) {
    this.#trust = trust
    this.#service = service
    this.#verifier = new ExportVerifier(trust)
  }

  /** @param line of an export, without its line feed */
  take(line: Uint8Array): void {
    this.#lines += 1
    this.#verifier.take(line)
    try {
      const entry = readEntry(line)
      if (entry.kind === 'chapter') this.#chapter += 1
      else if (entry.kind === 'record') this.#keep(readRecord(entry.line))
    } catch (error) {
      // The verifier has found it wrong already.
      if (!(error instanceof OffboxError)) throw error
    }
  }

  /** After the last line: where a stream from the device has to go on; null: at its oldest record, since there was no export. */
  ended(): { chain: string; after: Head } | null {
    this.#verdict = this.#lines === 0 ? null : this.#verifier.end()
    const last = this.#verdict?.head?.chapter
    if (!last) return null
    this.#chainName = last.chain
    this.#chain = new Chain(last)
    return { chain: last.chain, after: { sequence: last.sequence, hash: last.hash } }
  }

  /** A batch from the device. @throws AUDIT_BROKEN, CERTIFICATE_INVALID it does not go on where the export ended, or the device did not sign for it */
  follow(records: readonly Uint8Array[], checkpoint: Signed): void {
    const kept: AuditRecord[] = []
    for (const line of records) {
      const record = readRecord(line)
      this.#chain ??= new Chain({ sequence: record.sequence - 1, hash: record.previous })
      kept.push(this.#chain.follow(line))
    }
    const { chain, sequence, hash } = readCheckpoint(checkpoint, this.#trust)
    const head = this.#chain?.head
    if (sequence !== head?.sequence || hash !== head.hash || (this.#chainName !== '' && chain !== this.#chainName)) {
      throw new OffboxError('AUDIT_BROKEN', `the device signed for another number ${sequence} than the one that it sent`)
    }
    this.#chainName = chain
    this.#fresh += kept.length
    for (const record of kept) this.#keep(record, true)
  }

  /** What the device shows behind the export does not follow it, or is not signed for: it shows another past than it had shown the collector. */
  broken(why: string): void {
    this.#broken = why
  }

  /** What the device has written since could not be had. */
  missed(why: string): void {
    this.#problem = why
  }

  /** @throws AUDIT_NOT_FOUND there is nothing at all */
  trail(): Trail {
    const verdict = this.#verdict
    if (!verdict && this.#fresh === 0 && this.#broken === '') throw new OffboxError('AUDIT_NOT_FOUND', this.#problem || 'nothing of the audit log is there')
    const held = verdict
      ? [`${verdict.records} records that the collector holds, each following the one before, signed by the device and countersigned up to the last`]
      : []
    const fresh =
      this.#fresh > 0 ? [`${this.#fresh} records from the device itself, chained and signed by it${verdict ? '' : ', and by no collector yet'}`] : []
    const missed = this.#problem === '' || !verdict ? [] : [`what came later could not be had (${this.#problem})`]
    return {
      changes: this.#changes,
      basis: [...held, ...fresh, ...missed].join('; '),
      findings: [
        ...(verdict?.findings ?? []).map(({ at, what }) => `${at > 0 ? `number ${at}: ` : ''}${what}`),
        ...(this.#broken === '' ? [] : [`what the device itself shows: ${this.#broken}`]),
      ],
    }
  }

  #keep(record: AuditRecord, fresh = false): void {
    const { method, decision, sequence, atMs, bootId, principal } = record
    if (!method.startsWith('change/') || record['service'] !== this.#service) return
    const text = (name: string) => (typeof record[name] === 'string' ? (record[name] as string) : '')
    this.#changes.push({
      ...{ sequence, chapter: fresh ? 0 : this.#chapter, atMs, bootId, principal, intent: decision === 'intent' },
      ...{ change: text('change'), kind: method.slice('change/'.length), from: text('from'), to: text('to') },
      ...{ state: text('state'), reason: text('reason'), receipt: text('receipt') },
    })
    if (this.#changes.length > changesMax) this.#changes.shift()
  }
}

/** The end of a change and the intent before it, where the log has them. */
export interface Logged {
  readonly end: LoggedChange | undefined
  readonly intent: LoggedChange | undefined
}

/** @param matches says whether a record is the end of the change that is meant; the newest of these is taken */
export function loggedChange(trail: Trail, matches: (end: LoggedChange) => boolean): Logged {
  const at = trail.changes.findLastIndex((one) => !one.intent && matches(one))
  const end = trail.changes[at]
  // Numbers of changes begin anew on a device that lost its disk: the intent is the last one before the end.
  const intent = end && trail.changes.slice(0, at).findLast((one) => one.intent && one.change === end.change)
  return { end, intent }
}
