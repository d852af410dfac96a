/** The audit log as it travels and as it lies in files: records, exported lines. */
import { readEntry } from '../../../core/audit/entries.ts'
import { lineOf, readRecord } from '../../../core/audit/record.ts'
import { holds, jsonBytes, type Target, textBytes } from '../target.ts'

const facts = { atMs: 1_700_000_000_000, monotonicMs: 5, bootId: 'b', principal: 'spiffe://lab/operator/a', method: '/a.B/C', decision: 'allow', status: 'OK' }
const record = textBytes(lineOf(7, 'ab'.repeat(32), JSON.stringify(facts).slice(1)))
const after = { sequence: 6, hash: 'ab'.repeat(32) }

export const auditTargets: readonly Target[] = [
  {
    name: 'audit-record',
    reads: 'core/audit/record.ts readRecord, any line',
    seeds: () => [record, textBytes(lineOf(1, '', JSON.stringify(facts).slice(1)))],
    codes: ['AUDIT_BROKEN'],
    inputBytesMax: 20 * 1024,
    run: (input) => {
      const { sequence, previous, principal, atMs } = readRecord(input)
      holds(Number.isSafeInteger(sequence) && (sequence === 1) === (previous === ''), 'a record that follows nothing')
      holds(typeof principal === 'string' && Number.isFinite(atMs), 'a record without its facts')
      return true
    },
  },
  {
    name: 'audit-entry',
    reads: 'core/audit/entries.ts readEntry, any line of an exported log',
    seeds: () => [
      record,
      jsonBytes({ export: 'offbox.audit.v1', fleet: 'lab', deviceId: 'd' }),
      jsonBytes({ chapter: { chain: 'cd'.repeat(32), reason: 'start', after } }),
      jsonBytes({ checkpoint: '{}', signature: 'AAAA', chainPem: 'PEM' }),
      jsonBytes({ head: '{}', signature: 'AAAA', chainPem: 'PEM' }),
    ],
    codes: ['AUDIT_BROKEN'],
    inputBytesMax: 40 * 1024,
    run: (input) => {
      const entry = readEntry(input)
      if (entry.kind === 'checkpoint' || entry.kind === 'head') holds(typeof entry.signed.chainPem === 'string', 'a statement without a key')
      if (entry.kind === 'chapter') holds(entry.chapter.sequence >= entry.chapter.after.sequence, 'a chapter that ends before it begins')
      return true
    },
  },
]
