import type { ChangeRecord } from '../../../agent/change/types.ts'

/** A settled upgrade of "a". */
export function record(over: Partial<ChangeRecord> = {}): ChangeRecord {
  return {
    ...{ id: 'c-0000000001', kind: 'upgrade', service: 'a', from: '', to: '', author: '', proposedAtMs: 0, plan: {}, bakeMs: 0, confirmTimeoutMs: 1 },
    ...{ state: 'confirmed', reason: '', error: '', provisionalAtMs: 0, confirmDeadlineMs: 0, heldMs: 0, heldCalls: 0, settled: true, steps: [], receipt: '' },
    ...over,
  }
}
