/** offbox.v1.Audit: how the audit log leaves the box. */
import { readHead } from '../../core/audit/statements.ts'
import { OffboxError } from '../../core/errors.ts'
import { AuditMethods, type AuditBatchInit } from '../../proto/gen/audit.ts'
import { batchesOf, checkpointOf } from '../audit/batches.ts'
import type { AuditLog } from '../audit/log.ts'
import type { Serve } from './serve.ts'

export interface AuditParts {
  readonly audit: AuditLog
  readonly fleet: string
  readonly caPem: string
  readonly deviceId: () => string
}

export function serveAudit(serve: Serve, { audit, fleet, caPem, deviceId }: AuditParts): void {
  serve.unary(AuditMethods.Status, () => {
    const { head, acknowledged, ...rest } = audit.status
    return { ...rest, sequence: head.sequence, hash: head.hash, acknowledged: acknowledged.sequence }
  })

  serve.serverStream(AuditMethods.Tail, async function* ({ chain, from, follow }, { signal }): AsyncGenerator<AuditBatchInit> {
    const own = audit.status.chain
    if (chain !== '' && chain !== own) throw new OffboxError('STATE_REFUSED', `this device keeps the log ${own || 'that is about to begin'}, not ${chain}`)
    for await (const batch of batchesOf(audit, { from, follow, signal })) {
      yield { records: batch.lines as Uint8Array[], checkpoint: checkpointOf(audit, batch) }
    }
  })

  serve.unary(AuditMethods.Acknowledge, async ({ head }) => {
    if (!head) throw new OffboxError('ARGUMENT_INVALID', 'head is missing')
    const { chapter, atMs } = readHead(head, { fleet, caPem, deviceId: deviceId() })
    await audit.acknowledge(chapter.chain, { sequence: chapter.sequence, hash: chapter.hash }, atMs, head)
    return { acknowledged: audit.status.acknowledged.sequence }
  })
}
