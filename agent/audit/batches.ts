/** Reads of the log: what is on disk in bounded batches, then what comes. */
import { hashOf } from '../../core/audit/record.ts'
import type { Signed } from '../../core/audit/statements.ts'
import { OffboxError } from '../../core/errors.ts'
import { auditReadersMax, batchBytes } from './limits.ts'
import type { AuditLog } from './log.ts'

export interface Batch {
  /** Number of its first record. */
  readonly first: number
  /** Without line feeds. */
  readonly lines: readonly Uint8Array[]
  readonly head: { readonly sequence: number; readonly hash: string }
}

export interface ReadOptions {
  /** Number of the first record; what is gone is left out. */
  readonly from: number
  readonly follow: boolean
  readonly signal: AbortSignal
}

const readers = new WeakMap<AuditLog, number>()

/**
 * From `from` on to the newest on disk; then, with `follow`, whatever comes, until the signal.
 * @throws LIMIT_REACHED too many read at once; STORE_CORRUPT what is on disk is not what was written
 */
export async function* batchesOf(audit: AuditLog, { from, follow, signal }: ReadOptions): AsyncGenerator<Batch> {
  const open = readers.get(audit) ?? 0
  if (open >= auditReadersMax) throw new OffboxError('LIMIT_REACHED', `${auditReadersMax} readers of the audit log are open`)
  readers.set(audit, open + 1)
  let changed = true
  let wake = () => {}
  const tell = () => {
    changed = true
    wake()
  }
  const unwatch = audit.watch(tell)
  signal.addEventListener('abort', tell, { once: true })
  try {
    let next = Math.max(1, from)
    while (!signal.aborted) {
      changed = false
      const { oldest, head } = audit.status
      next = Math.max(next, oldest)
      while (next <= head.sequence && !signal.aborted) {
        const before = next
        for await (const lines of audit.read(next, head.sequence)) {
          for (const batch of cut(lines, next)) {
            if (batch.head.sequence === head.sequence && batch.head.hash !== head.hash) throw rotten(next)
            yield batch
            next = batch.head.sequence + 1
          }
        }
        // A segment that was acknowledged may have gone while it was read.
        next = Math.max(next, audit.status.oldest)
        if (next === before) throw rotten(next)
      }
      if (!follow) return
      if (!changed && !signal.aborted) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
  } finally {
    unwatch()
    signal.removeEventListener('abort', tell)
    readers.set(audit, (readers.get(audit) ?? 1) - 1)
  }
}

/** What the device signs about a batch. */
export function checkpointOf(audit: AuditLog, { head }: Batch): Signed {
  return audit.checkpoint(head)
}

function* cut(lines: readonly Uint8Array[], first: number): Generator<Batch> {
  for (let at = 0; at < lines.length; ) {
    const begin = at
    for (let bytes = 0; at < lines.length && (at === begin || bytes + (lines[at] as Uint8Array).length <= batchBytes); at++)
      bytes += (lines[at] as Uint8Array).length
    const hash = hashOf(lines[at - 1] as Uint8Array)
    const sequence = first + at - 1
    // Whoever signs for a record has to have read the one that was written, and not what became of it on a rotting disk.
    const after = lines[at]
    if (
      after &&
      !Buffer.from(after.subarray(0, 128))
        .toString('latin1')
        .startsWith(`{"sequence":${sequence + 1},"previous":"${hash}",`)
    )
      throw rotten(sequence)
    yield { first: first + begin, lines: lines.slice(begin, at), head: { sequence, hash } }
  }
}

function rotten(sequence: number): OffboxError {
  return new OffboxError('STORE_CORRUPT', `the audit log on this device's disk is damaged at number ${sequence}`)
}
