/** The decisions of the change engine that are not in its table. Pure. */
import { OffboxError } from '../../core/errors.ts'
import type { ChangeRecord } from './types.ts'

/** Changes of one slot exclude one another: those to which version of a service runs, and each other kind by itself. */
export function slotOf(change: Pick<ChangeRecord, 'kind' | 'service'>): string {
  const version = change.kind === 'install' || change.kind === 'upgrade' || change.kind === 'remove'
  return `${change.service}/${version ? 'version' : change.kind}`
}

/**
 * The guards of Confirm on a provisional change; all times monotonic milliseconds.
 * @throws CONFIRM_NOT_FRESH the connection is older than the change: it would prove nothing about reaching the device now
 * @throws STATE_REFUSED the bake is not over
 */
export function checkConfirm(record: ChangeRecord, openedAtMs: number, provisionalAtMs: number, nowMs: number): void {
  if (!(openedAtMs > provisionalAtMs)) {
    throw new OffboxError('CONFIRM_NOT_FRESH', `this connection is older than change ${record.id}; confirm over one opened after it went live`)
  }
  const leftMs = Math.ceil(provisionalAtMs + record.bakeMs - nowMs)
  if (leftMs > 0) throw new OffboxError('STATE_REFUSED', `change ${record.id} must bake for ${leftMs} ms more`)
}

/**
 * Ids of the settled changes to keep: the newest `max`, and for each service the last confirmed change of its version, with
 * which a repeated order is answered. What still owes its receipt stays as well.
 * @param records newest first
 */
export function kept(records: readonly ChangeRecord[], max: number): Set<string> {
  const settled = records.filter((record) => record.settled)
  const keep = new Set(settled.filter(({ receipt }, at) => at < max || receipt === 'owed').map(({ id }) => id))
  const slots = new Set<string>()
  for (const record of settled) {
    const slot = slotOf(record)
    if (record.state !== 'confirmed' || !slot.endsWith('/version') || slots.has(slot)) continue
    slots.add(slot)
    keep.add(record.id)
  }
  return keep
}
