/** Carries out one step of a reconcile plan on one device. */
import { OffboxError } from '../../core/errors.ts'
import { RoutingConfig } from '../../proto/gen/routing.ts'
import { changeStateOf } from '../device/gate.ts'
import type { DeviceRecord, FailedVersion } from '../device/record.ts'
import { withSession } from '../device/session.ts'
import { type SettleOrder, settle } from '../device/settle.ts'
import { sha256Hex } from '../home/keys.ts'
import { ORDER_REASON, type Step } from './plan.ts'
import type { ReconcileParts } from './reconcile.ts'

/** The device undoes what is not confirmed within this. */
const confirmTimeoutMs = 60_000

/** A routing configuration that we know to be in force. */
export interface RoutingInForce {
  /** RoutingConfig, base64. */
  readonly config: string
  /** The device's name for it. */
  readonly revision: string
  readonly bootId: string
}

export interface Done {
  readonly failed?: FailedVersion & { readonly service: string }
  readonly removed?: string
  readonly routing?: RoutingInForce
}

type Parts = ReconcileParts & { readonly signal: AbortSignal }

/** @throws whatever kept the step from being done; it may be repeated */
export async function carryOut(parts: Parts, record: DeviceRecord, step: Step): Promise<Done> {
  switch (step.do) {
    case 'install':
    case 'upgrade':
      return await supply(parts, record, step.do, step)
    case 'adopt':
      return await seeThrough(parts, record, { ...step, healthBefore: 'unknown', bakeMs: 0, confirmTimeoutMs, liveForMs: 0 })
    case 'remove':
      await withSession(parts.dialer, record, async (session) => await session.remove(step.service, `${ORDER_REASON}: no longer desired`))
      return { removed: step.service }
    case 'setRouting':
      return { routing: await setRouting(parts, record) }
  }
}

async function supply(parts: Parts, record: DeviceRecord, how: 'install' | 'upgrade', want: { service: string; version: string }): Promise<Done> {
  const { service, version } = want
  const bundle = await parts.registry.read(service, version)
  // A first install has nothing to compare with and nothing to lose: it is confirmed as soon as it proves itself.
  const bakeMs = how === 'install' ? 0 : parts.bakeMs
  const timeoutMs = Math.max(confirmTimeoutMs, bakeMs + 50_000)
  const order = { service, version, bakeMs, confirmTimeoutMs: timeoutMs, floors: await parts.floors(), reason: `${ORDER_REASON} of ${record.deviceId}` }
  try {
    const method = how === 'install' ? 'Install' : 'Upgrade'
    const change = await withSession(parts.dialer, record, async (session) => {
      const carried = await parts.carrier.order(session, service)
      return await session.supply(method, { ...order, ...carried }, bundle, { signal: parts.signal })
    })
    if (changeStateOf(change.state) === 'confirmed') return {}
    return await seeThrough(parts, record, {
      service,
      version,
      changeId: change.id,
      healthBefore: 'unknown',
      bakeMs,
      confirmTimeoutMs: timeoutMs,
      liveForMs: 0,
    })
  } catch (error) {
    // The release is bad here. Anything else (disk, network, another change) may pass.
    if (error instanceof OffboxError && error.code === 'SWAP_ROLLED_BACK') {
      return { failed: { service, version, reason: `${error.code}: ${error.message}`, atMs: parts.clock.nowMs() } }
    }
    throw error
  }
}

async function seeThrough(parts: Parts, record: DeviceRecord, order: SettleOrder): Promise<Done> {
  const { service, version } = order
  const outcome = await settle(
    { dialer: parts.dialer, clock: parts.clock, record: () => parts.inventory.get(record.deviceId), signal: parts.signal, progress: async () => {} },
    order,
  )
  if (outcome.kind === 'confirmed') return {}
  if (outcome.kind === 'reverted' && outcome.unhealthy) {
    return { failed: { service, version, reason: outcome.reason, atMs: parts.clock.nowMs() } }
  }
  throw new OffboxError('DEVICE_UNREACHABLE', `${service} ${version} was not confirmed: ${outcome.reason}`)
}

/** Sets the configuration and confirms it over a connection that was opened after it went live: so it did not cut us off. */
async function setRouting(parts: Parts, record: DeviceRecord): Promise<RoutingInForce> {
  const { routingConfig: config } = record.desired
  const bytes = new Uint8Array(Buffer.from(config, 'base64'))
  const comment = `${ORDER_REASON} of ${record.deviceId}, configuration ${sha256Hex(bytes).slice(0, 12)}`
  const answer = await withSession(
    parts.dialer,
    record,
    async (session) => await session.setRouting(RoutingConfig.decode(bytes), { confirmTimeoutMs, comment }),
  )
  if (answer.changeId) {
    await withSession(parts.dialer, record, async (fresh) => {
      const now = await fresh.routing()
      if (now.revision !== answer.revision) throw new OffboxError('CONFIG_INVALID', `the device went back to routing revision ${now.revision || 'none'}`)
      await fresh.confirm(answer.changeId)
    })
  }
  return { config, revision: answer.revision, bootId: record.bootId }
}
