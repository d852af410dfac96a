/** Brings every device to its desired state and keeps it there: after each enrolment, on every order, and every so often. */
import type { Clock } from '../../core/clock.ts'
import { codeOf, type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import { ServiceState, type ServiceStatus } from '../../proto/gen/lifecycle.ts'
import type { Inventory } from '../device/inventory.ts'
import type { DeviceRecord, Phase } from '../device/record.ts'
import { type DeviceSession, type Dialer, withSession } from '../device/session.ts'
import { changeStateOf, healthOf } from '../device/gate.ts'
import type { Registry } from '../registry/registry.ts'
import type { Carrier } from './carrier.ts'
import type { Log } from './log.ts'
import { type ObservedService, plan, type Step } from './plan.ts'
import { carryOut, type Done, type RoutingInForce } from './steps.ts'

export const RECONCILE_LIMITS = {
  /** Between two looks at a device that is as desired. */
  intervalMs: 15_000,
  /** While something on the device ends by itself. */
  waitingMs: 2_000,
  /** After a failed look or step, doubled each time. */
  retryMsMin: 1_000,
  retryMsMax: 30_000,
  /** A device enrols before it opens its port; a look that fails so soon afterwards says nothing. */
  startGraceMs: 10_000,
  /** Steps of one run; a device that needs more is looked at anew. */
  stepsMax: 64,
} as const

/** Answers of a device that trying again does not change; a look still comes every so often, for who mends the cause elsewhere. */
const NEEDS_SOMEBODY: ReadonlySet<ErrorCode> = new Set([
  ...(['BUNDLE_MALFORMED', 'BUNDLE_UNTRUSTED', 'BUNDLE_ROLLBACK', 'BUNDLE_NOT_FOUND', 'FLOORS_UNTRUSTED'] as const),
  ...(['TRUST_MALFORMED', 'TRUST_THRESHOLD', 'TRUST_ROLLBACK', 'TRUST_EXPIRED', 'TRUST_MISMATCH', 'TRUST_UNLISTED', 'POLICY_DENIED'] as const),
  ...(['METHOD_CONFLICT', 'CAPABILITY_DENIED', 'CONFIG_INVALID', 'ROLE_DENIED'] as const),
])

export interface ReconcileParts {
  readonly dialer: Dialer
  readonly inventory: Inventory
  readonly registry: Registry
  readonly clock: Clock
  readonly log: Log
  /** Bake of an upgrade that was not asked for by a rollout, milliseconds. */
  readonly bakeMs: number
  /** Signed floors that go with every order; empty: none. */
  floors(): Promise<Uint8Array>
  readonly carrier: Pick<Carrier, 'order' | 'refresh'>
  /** Services that a rollout is changing on a device now. */
  inRollout(deviceId: string): ReadonlySet<string>
}

interface Device {
  running: boolean
  /** Asked for again while it ran. */
  again: boolean
  failures: number
  /** Something on it ends by itself soon. */
  waiting: boolean
  disarm: () => void
  routing: RoutingInForce | null
  seen: readonly ObservedService[]
  /** Why it could not be told what is new in the repository; empty: it was. */
  untold: string
  /** By service: when the device went back from a version by itself, as far as that is on record. */
  readonly leftAtMs: Map<string, number>
  /** Its desired state was stated anew since the last look: what the device shows until then was known to whoever did. */
  asked: boolean
}

export class Reconciler {
  readonly #parts: ReconcileParts
  readonly #devices = new Map<string, Device>()
  readonly #stop = new AbortController()
  readonly #runs = new Set<Promise<void>>()

  constructor(parts: ReconcileParts) {
    this.#parts = parts
  }

  /** Looks at every device now. */
  start(): void {
    for (const { deviceId } of this.#parts.inventory.list()) this.poke(deviceId)
  }

  /** Looks at a device now, whatever it waited for. Runs of one device never overlap; those of several do. */
  poke(deviceId: string): void {
    const device = this.#device(deviceId)
    device.failures = 0
    if (device.running) device.again = true
    else this.#begin(deviceId, device)
  }

  /** Looks at a device whose desired state somebody has stated anew: what it went back from until now is asked for, and no news. */
  ask(deviceId: string): void {
    this.#device(deviceId).asked = true
    this.poke(deviceId)
  }

  /** What the last look showed; empty before it. */
  seen(deviceId: string): readonly ObservedService[] {
    return this.#devices.get(deviceId)?.seen ?? []
  }

  /** Starts nothing more and waits for what runs. */
  async close(): Promise<void> {
    this.#stop.abort(new OffboxError('STATE_REFUSED', 'the controller is stopping'))
    for (const device of this.#devices.values()) device.disarm()
    await Promise.all(this.#runs)
  }

  #device(deviceId: string): Device {
    const known = this.#devices.get(deviceId)
    if (known) return known
    const idle = { running: false, again: false, failures: 0, waiting: false, asked: false }
    const device: Device = { ...idle, disarm: () => {}, routing: null, seen: [], untold: '', leftAtMs: new Map() }
    this.#devices.set(deviceId, device)
    return device
  }

  #begin(deviceId: string, device: Device): void {
    if (this.#stop.signal.aborted) return
    device.disarm()
    device.running = true
    const run = this.#run(deviceId, device).finally(() => {
      this.#runs.delete(run)
      device.running = false
      if (this.#stop.signal.aborted) return
      if (device.again) {
        device.again = false
        this.#begin(deviceId, device)
        return
      }
      device.disarm = this.#parts.clock.after(this.#delayMs(device), () => this.#begin(deviceId, device))
    })
    this.#runs.add(run)
  }

  #delayMs(device: Device): number {
    const { intervalMs, waitingMs, retryMsMin, retryMsMax } = RECONCILE_LIMITS
    if (device.failures === 0) return device.waiting ? waitingMs : intervalMs
    return Math.min(retryMsMax, retryMsMin * 2 ** Math.min(device.failures - 1, 10))
  }

  /** Never rejects: whatever goes wrong becomes the device's phase and reason. */
  async #run(deviceId: string, device: Device): Promise<void> {
    const { log } = this.#parts
    let looked = false
    try {
      if (this.#parts.inventory.get(deviceId).enrolments === 0) return
      const deferred = new Map<string, string>()
      for (let steps = 0; steps < RECONCILE_LIMITS.stepsMax; steps++) {
        const record = this.#parts.inventory.get(deviceId)
        looked = false
        device.seen = await this.#look(record, device, steps === 0)
        looked = true
        if (await this.#noteLeft(record, device)) continue
        const step = await this.#next(record, device, deferred)
        if (!step) break
        const refused = await this.#carryOut(record, device, step)
        // What a service requires may come with a later step: each that succeeds gives the others another try.
        if (refused) deferred.set(refused.service, refused.reason)
        else deferred.clear()
        this.#stop.signal.throwIfAborted()
      }
      device.failures = 0
    } catch (error) {
      if (this.#stop.signal.aborted) return
      device.failures++
      const reason = `${codeOf(error)}: ${messageOf(error)}`
      log.warn({ deviceId, reason, failures: device.failures, ...(codeOf(error) === 'INTERNAL' ? { err: error } : {}) }, 'device not reconciled')
      if (!looked && this.#startsNow(deviceId)) return await this.#show(deviceId, 'enrolled', 'it has just enrolled and does not serve yet')
      if (looked && NEEDS_SOMEBODY.has(codeOf(error))) return await this.#show(deviceId, 'failed', reason)
      // Unless the look itself went through, nothing is known of the device now.
      await this.#show(deviceId, looked ? 'reconciling' : 'unknown', looked ? `${reason}; tried again` : `the last look failed: ${reason}`)
    }
  }

  #startsNow(deviceId: string): boolean {
    const { enrolledAtMs, inSyncAtMs } = this.#parts.inventory.get(deviceId)
    return inSyncAtMs === 0 && this.#parts.clock.nowMs() - enrolledAtMs < RECONCILE_LIMITS.startGraceMs
  }

  /** @param tell of what is new in the repository as well */
  async #look(record: DeviceRecord, device: Device, tell: boolean): Promise<ObservedService[]> {
    const services = await withSession(this.#parts.dialer, record, async (session) => {
      const found = await session.services({ signal: this.#stop.signal })
      if (tell) device.untold = await this.#tell(session)
      return found
    })
    return services.map((status) => {
      const { service, version, change } = status
      const own = change !== null && ['install', 'upgrade', 'remove'].includes(change.kind) && ['pending', 'provisional'].includes(changeStateOf(change.state))
      return {
        service,
        version,
        state: ServiceState[status.state] ?? 'UNKNOWN',
        health: healthOf(status),
        healthReason: status.health?.reason ?? '',
        ...leftBehind(status),
        change: own ? { id: change.id, to: change.to, provisional: changeStateOf(change.state) === 'provisional', reason: change.reason } : null,
      }
    })
  }

  /** What is revoked, and another policy, reach devices also without an order. What keeps them from it keeps nothing else from going on. */
  async #tell(session: DeviceSession): Promise<string> {
    try {
      await this.#parts.carrier.refresh(session)
      return ''
    } catch (error) {
      if (!(error instanceof OffboxError)) throw error
      this.#parts.log.warn({ deviceId: session.deviceId, code: error.code, error: error.message }, 'device not told what is new in the trust repository')
      return `it does not know what is new in the trust repository: ${error.code}: ${error.message}`
    }
  }

  /** Plans, shows where the device is, and answers the step to take. */
  async #next(record: DeviceRecord, device: Device, deferred: ReadonlyMap<string, string>): Promise<Step | null> {
    const { deviceId, desired, dismissed, failures } = record
    const rollouts = this.#parts.inRollout(deviceId)
    const routingWanted = desired.routingConfig !== '' && !(await this.#routingHolds(record, device))
    const { step, waiting, stuck } = plan({ desired: desired.services, dismissed, routingWanted, observed: device.seen, rollouts, failures, deferred })
    device.waiting = waiting.length > 0
    if (step) {
      await this.#show(deviceId, 'reconciling', describe(step))
    } else if (stuck.length > 0) {
      await this.#show(deviceId, 'failed', [...stuck, ...waiting].join('; '))
    } else if (waiting.length > 0) {
      await this.#show(deviceId, 'reconciling', waiting.join('; '))
    } else {
      await this.#show(deviceId, 'in-sync', remarks(device, rollouts))
    }
    return step
  }

  async #routingHolds(record: DeviceRecord, device: Device): Promise<boolean> {
    const { routing } = device
    if (!routing || routing.config !== record.desired.routingConfig || routing.bootId !== record.bootId) return false
    if (!device.seen.some(({ service, state }) => service === 'routing' && state === 'READY')) return false
    const now = await withSession(this.#parts.dialer, record, async (session) => await session.routing())
    return now.revision === routing.revision && !now.provisional
  }

  /** A version that the device went back from by itself has failed there; true when that is news. Who desires it anew asks for it. */
  async #noteLeft({ deviceId, desired }: DeviceRecord, device: Device): Promise<boolean> {
    const rollouts = this.#parts.inRollout(deviceId)
    const { asked } = device
    device.asked = false
    let news = false
    for (const { service, left } of device.seen) {
      if (!left || device.leftAtMs.get(service) === left.atMs) continue
      const wanted = desired.services.some((one) => one.service === service && one.version === left.version)
      if (wanted && !asked) {
        // Judged when the rollout has ended: until then it is the rollout's.
        if (rollouts.has(service)) continue
        this.#parts.log.warn({ deviceId, service, ...left }, 'device went back from a version')
        await this.#parts.inventory.update(deviceId, ({ failures }) => ({ failures: { ...failures, [service]: left } }))
        news = true
      }
      // Also of a version that nobody wants now: wanted later, it is no news any more.
      device.leftAtMs.set(service, left.atMs)
    }
    return news
  }

  /** Answers what the device refused because of what other services require or provide; it has touched nothing. */
  async #carryOut(record: DeviceRecord, device: Device, step: Step): Promise<{ service: string; reason: string } | undefined> {
    const { deviceId } = record
    this.#parts.log.info({ deviceId, ...step }, 'reconcile step')
    let done: Done
    try {
      done = await carryOut({ ...this.#parts, signal: this.#stop.signal }, record, step)
    } catch (error) {
      if (codeOf(error) !== 'DEPENDENCY_UNSATISFIED' || !('service' in step)) throw error
      this.#parts.log.warn({ deviceId, ...step, reason: messageOf(error) }, 'reconcile step refused for now')
      return { service: step.service, reason: messageOf(error) }
    }
    if (done.routing) device.routing = done.routing
    if (done.failed) {
      const { service, ...failure } = done.failed
      this.#parts.log.warn({ deviceId, service, ...failure }, 'version failed on device')
      await this.#parts.inventory.update(deviceId, ({ failures }) => ({ failures: { ...failures, [service]: failure } }))
    }
    if (done.removed) {
      await this.#parts.inventory.update(deviceId, ({ dismissed }) => ({ dismissed: dismissed.filter((name) => name !== done.removed) }))
    }
    return undefined
  }

  async #show(deviceId: string, phase: Phase, reason: string): Promise<void> {
    const { inventory, clock, log } = this.#parts
    try {
      const before = inventory.get(deviceId)
      const now = await inventory.update(deviceId, (record) => ({
        phase,
        reason,
        inSyncAtMs: phase === 'in-sync' && record.inSyncAtMs === 0 ? clock.nowMs() : record.inSyncAtMs,
      }))
      if (before.phase !== now.phase) log.info({ deviceId, phase, reason }, 'device phase')
    } catch (error) {
      // A full disk must not end the loop: the phase is shown at the next run.
      log.error({ deviceId, phase, err: error }, 'device phase could not be recorded')
    }
  }
}

function leftBehind({ version, history }: ServiceStatus): Pick<ObservedService, 'left'> {
  const failed = history.filter((one) => one.to === ServiceState.FAILED && one.version !== version).at(-1)
  return failed ? { left: { version: failed.version, reason: failed.reason || 'it crashed too often', atMs: failed.atMs } } : {}
}

function describe(step: Step): string {
  if (step.do === 'setRouting') return 'sets the routing configuration'
  if (step.do === 'remove') return `removes ${step.service}`
  const verb = { install: 'installs', upgrade: 'upgrades to', adopt: 'finishes' }[step.do]
  return `${verb} ${step.service} ${step.version}`
}

function remarks({ seen, untold }: Device, rollouts: ReadonlySet<string>): string {
  const degraded = seen.filter(({ health }) => health === 'degraded').map(({ service, healthReason }) => `${service} is degraded: ${healthReason}`)
  const rolling = [...rollouts].map((service) => `a rollout is changing ${service}`)
  return [...degraded, ...rolling, ...(untold ? [untold] : [])].join('; ')
}
