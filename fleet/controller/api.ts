/** The Fleet service of fleet.proto: checks what it is asked, and hands it to the parts. */
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'
import type { CertificateAuthority } from '../../core/x509.ts'
import { DeviceMethods } from '../../proto/gen/device.ts'
import { type FleetDeviceInit, FleetMethods, type StartRolloutRequest } from '../../proto/gen/fleet.ts'
import { LifecycleMethods } from '../../proto/gen/lifecycle.ts'
import type { Collector } from '../audit/collector.ts'
import { auditRoutes } from '../audit/routes.ts'
import type { Inventory } from '../device/inventory.ts'
import { desirersOf } from '../device/record.ts'
import { rotateIdentity } from '../device/rotate.ts'
import { type Dialer, type DeviceSession, openSession, withSession } from '../device/session.ts'
import { gather, type Registry } from '../registry/registry.ts'
import type { Rollouts } from '../rollout/run.ts'
import { isEnded, type Rollout, type RolloutStore } from '../rollout/state.ts'
import { type Caller, clientStream, type Route, serverStream, unary } from '../rpc/server.ts'
import { brokenMessage, bundleMessage, desiredOf, deviceMessage, rolloutMessage } from './convert.ts'
import type { Log } from './log.ts'
import type { Reconciler } from './reconcile.ts'

export interface ApiParts {
  readonly dialer: Dialer
  readonly ca: CertificateAuthority
  readonly inventory: Inventory
  readonly registry: Registry
  readonly reconciler: Reconciler
  readonly rollouts: Rollouts
  readonly store: RolloutStore
  readonly collector: Collector
  readonly log: Log
  /** For a rollout that names none. */
  readonly defaults: { readonly bakeMs: number; readonly confirmTimeoutMs: number }
}

/** GetDevice asks the device as well, but does not let a dead one delay the answer for long. */
const infoTimeoutMs = 3_000
/** Of a bundle that is sent. */
const chunkBytes = 128 * 1024
/** Steps kept for a slow watcher of a rollout; beyond it the oldest are dropped, never the last. */
const watchQueueMax = 256

export function fleetRoutes(parts: ApiParts): Route[] {
  const { dialer, inventory, registry, reconciler, rollouts, store } = parts
  return [
    unary(FleetMethods.AddDevice, async (request) => deviceMessage(await inventory.add(request))),
    unary(FleetMethods.ListDevices, async () => {
      const broken = [...inventory.broken()].map(([id, why]) => brokenMessage(id, why))
      return { devices: [...inventory.list().map(deviceMessage), ...broken].sort((a, b) => (String(a.deviceId) < String(b.deviceId) ? -1 : 1)) }
    }),
    unary(FleetMethods.GetDevice, async ({ deviceId }) => await getDevice(parts, deviceId)),
    serverStream(FleetMethods.DeviceLogs, ({ deviceId, logs }, { signal }) =>
      relay(parts, deviceId, (session) => session.client.serverStream(DeviceMethods.Logs, logs ?? {}, { signal })),
    ),
    unary(FleetMethods.DeviceMetrics, async ({ deviceId }) => await withSession(dialer, inventory.get(deviceId), async (session) => await session.metrics())),
    unary(FleetMethods.ListDeviceServices, async ({ deviceId }) => ({
      services: await withSession(dialer, inventory.get(deviceId), async (session) => await session.services()),
    })),
    ...auditRoutes(parts),
    unary(FleetMethods.ListDeviceReceipts, async ({ deviceId, receipts }) =>
      withSession(dialer, inventory.get(deviceId), async (session) => await session.client.unary(LifecycleMethods.Receipts, receipts ?? {})),
    ),
    unary(FleetMethods.DeviceTrust, async ({ deviceId }) => withSession(dialer, inventory.get(deviceId), async (session) => await session.trustStatus())),
    unary(FleetMethods.GetDeviceRouting, async ({ deviceId }) => withSession(dialer, inventory.get(deviceId), async (session) => await session.routing())),
    serverStream(FleetMethods.WatchDeviceServices, ({ deviceId, service }, { signal }) =>
      relay(parts, deviceId, (session) => session.client.serverStream(LifecycleMethods.Watch, { service }, { signal })),
    ),
    unary(FleetMethods.SetDesired, async (request, { principal }) => await setDesired(parts, request.deviceId, desiredOf(request.desired), principal)),
    unary(FleetMethods.RotateDeviceIdentity, async ({ deviceId, reason }) => {
      if (reason === '') throw new OffboxError('ARGUMENT_INVALID', 'reason is missing')
      return await rotateIdentity({ dialer, ca: parts.ca, nowMs: Date.now() }, inventory.get(deviceId), reason)
    }),
    clientStream(FleetMethods.PutBundle, async (chunks) => bundleMessage(await registry.put(await gather(chunks)))),
    unary(FleetMethods.ListBundles, async () => ({ bundles: (await registry.list()).map(bundleMessage) })),
    serverStream(FleetMethods.GetBundle, async function* ({ service, version }) {
      const file = await registry.read(service, version)
      for (let at = 0; at < file.length; at += chunkBytes) yield { chunk: file.subarray(at, at + chunkBytes) }
    }),
    unary(FleetMethods.StartRollout, async (request, caller) => rolloutMessage(await startRollout(parts, request, caller))),
    unary(FleetMethods.ListRollouts, async () => ({ rollouts: store.list().map(rolloutMessage) })),
    unary(FleetMethods.GetRollout, async ({ rolloutId }) => rolloutMessage(store.get(rolloutId))),
    serverStream(FleetMethods.WatchRollout, async function* ({ rolloutId }, { signal }) {
      for await (const rollout of watchRollout(store, rolloutId, signal)) yield rolloutMessage(rollout)
    }),
    unary(FleetMethods.AbortRollout, async ({ rolloutId, reason }, { principal }) =>
      rolloutMessage(await rollouts.abort(rolloutId, { reason: reason.slice(0, 200), author: principal })),
    ),
  ]

  async function setDesired({ registry }: ApiParts, deviceId: string, desired: ReturnType<typeof desiredOf>, principal: string): Promise<FleetDeviceInit> {
    inventory.get(deviceId)
    for (const { service, version } of desired.services) await registry.require(service, version)
    const record = await inventory.update(deviceId, (before) => {
      const wanted = new Set(desired.services.map(({ service }) => service))
      const dropped = before.desired.services.map(({ service }) => service).filter((service) => !wanted.has(service))
      const dismissed = [...new Set([...before.dismissed, ...dropped])].filter((service) => !wanted.has(service))
      // Whoever states the desired state anew asks for everything in it, also for what failed before.
      const failures = Object.fromEntries(Object.entries(before.failures).filter(([service]) => !wanted.has(service)))
      return { desired, dismissed, failures, ...desirersOf(before, desired, { principal, atMs: Date.now() }) }
    })
    reconciler.ask(deviceId)
    return deviceMessage(record)
  }
}

async function getDevice({ dialer, inventory }: ApiParts, deviceId: string): Promise<FleetDeviceInit> {
  const why = inventory.broken().get(deviceId)
  if (why) return brokenMessage(deviceId, why)
  const record = inventory.get(deviceId)
  if (record.enrolments === 0) return deviceMessage(record)
  try {
    const info = await withSession(dialer, record, async (session) => await session.info({ deadlineMs: infoTimeoutMs }))
    return { ...deviceMessage(record), info }
  } catch (error) {
    // The record is the answer; `info` is there only where the device answered (fleet.proto).
    if (error instanceof OffboxError) return deviceMessage(record)
    throw error
  }
}

async function* relay<T>(parts: ApiParts, deviceId: string, open: (session: DeviceSession) => AsyncIterable<T>): AsyncIterable<T> {
  const session = openSession(parts.dialer, parts.inventory.get(deviceId))
  try {
    yield* open(session)
  } finally {
    session.close()
  }
}

async function startRollout(parts: ApiParts, request: StartRolloutRequest, caller: Caller): Promise<Rollout> {
  const { service, version, canary, allowDowngrade } = request
  if (!isServiceName(service)) throw new OffboxError('ARGUMENT_INVALID', `${JSON.stringify(request.service.slice(0, 64))} is no service name`)
  // `optional` fields are undefined when absent, which the type does not tell (proto/codec.ts).
  const bakeMs = request.bakeMs ?? parts.defaults.bakeMs
  const confirmTimeoutMs = request.confirmTimeoutMs ?? Math.max(parts.defaults.confirmTimeoutMs, bakeMs + 50_000)
  const deviceIds = request.deviceIds.length > 0 ? request.deviceIds : devicesWith(parts, service)
  return await parts.rollouts.start({ service, version, deviceIds, canary, bakeMs, confirmTimeoutMs, allowDowngrade, author: caller.principal })
}

/** Every enrolled device that is wanted to run a service, or was seen running it. */
function devicesWith({ inventory, reconciler }: ApiParts, service: string): string[] {
  return inventory
    .list()
    .filter((record) => record.enrolments > 0)
    .filter(({ deviceId, desired }) => [...desired.services, ...reconciler.seen(deviceId)].some((one) => one.service === service))
    .map(({ deviceId }) => deviceId)
}

/** The rollout as it is, then after every step, until it has ended. */
export async function* watchRollout(store: RolloutStore, rolloutId: string, signal: AbortSignal): AsyncIterable<Rollout> {
  const first = store.get(rolloutId)
  const queue: Rollout[] = [first]
  let wake = () => {}
  const unwatch = store.watch((rollout) => {
    if (rollout.rolloutId !== first.rolloutId) return
    queue.push(rollout)
    if (queue.length > watchQueueMax) queue.shift()
    wake()
  })
  const stop = () => wake()
  signal.addEventListener('abort', stop, { once: true })
  try {
    while (!signal.aborted) {
      const next = queue.shift()
      if (next) {
        yield next
        if (isEnded(next)) return
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
  } finally {
    unwatch()
    signal.removeEventListener('abort', stop)
  }
}
