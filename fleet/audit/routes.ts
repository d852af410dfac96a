/** The audit logs of devices as the controller gives them out. */
import { AuditMethods } from '../../proto/gen/audit.ts'
import { FleetMethods } from '../../proto/gen/fleet.ts'
import type { Inventory } from '../device/inventory.ts'
import { type Dialer, openSession } from '../device/session.ts'
import { type Route, serverStream, unary } from '../rpc/server.ts'
import type { Collector } from './collector.ts'

export interface AuditRouteParts {
  readonly dialer: Dialer
  readonly inventory: Inventory
  readonly collector: Collector
}

export function auditRoutes({ dialer, inventory, collector }: AuditRouteParts): Route[] {
  return [
    serverStream(FleetMethods.TailDeviceAudit, async function* ({ deviceId, tail }, { signal }) {
      const session = openSession(dialer, inventory.get(deviceId))
      try {
        yield* session.client.serverStream(AuditMethods.Tail, tail ?? {}, { signal })
      } finally {
        session.close()
      }
    }),
    unary(FleetMethods.GetDeviceAudit, async ({ deviceId }) => {
      const { chapters, countersigned, problem } = await collector.collection(deviceId)
      return {
        deviceId,
        chapters: chapters.map(({ chain, reason, after, sequence }) => ({ chain, reason, after: after.sequence, sequence })),
        countersigned: countersigned?.sequence ?? 0,
        countersignedAtMs: countersigned?.atMs ?? 0,
        head: countersigned?.head ?? null,
        problem,
      }
    }),
    serverStream(FleetMethods.ExportDeviceAudit, async function* ({ deviceId }) {
      inventory.get(deviceId)
      const store = await collector.store(deviceId)
      for await (const content of store.export()) yield { content }
    }),
  ]
}
