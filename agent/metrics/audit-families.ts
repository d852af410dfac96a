/** What the audit log tells in numbers: above all, what of it has not left the box. Pure: facts come through `status`. */
import type { AuditStatus } from '../audit/log.ts'
import type { Family } from './open-metrics.ts'

export function auditFamilies(status: () => AuditStatus): Family[] {
  const one = (read: (now: AuditStatus) => number) => () => [{ value: read(status()) }]
  const gauge = { type: 'gauge' } as const
  const counter = { type: 'counter' } as const
  return [
    { name: 'offbox_audit_sequence', ...gauge, help: 'Number of the newest audit record on disk.', read: one(({ head }) => head.sequence) },
    {
      name: 'offbox_audit_acknowledged',
      ...gauge,
      help: 'Number of the newest audit record that the collector has signed for.',
      read: one(({ acknowledged }) => acknowledged.sequence),
    },
    {
      name: 'offbox_audit_unacknowledged_bytes',
      ...gauge,
      unit: 'bytes',
      help: 'Audit records that exist on this device alone.',
      read: one(({ unacknowledgedBytes }) => unacknowledgedBytes),
    },
    { name: 'offbox_audit_full', ...gauge, help: '1 while changes are refused because of it.', read: one(({ full }) => Number(full)) },
    {
      name: 'offbox_audit_counted',
      ...counter,
      help: 'Reads counted instead of recorded, for want of acknowledged room.',
      read: one(({ counted }) => counted),
    },
    { name: 'offbox_audit_dropped', ...counter, help: 'Audit records lost because they could not be written.', read: one(({ dropped }) => dropped) },
    { name: 'offbox_audit_refused', ...counter, help: 'Changes refused because the audit log was full.', read: one(({ refused }) => refused) },
  ]
}
