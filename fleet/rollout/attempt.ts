/** One device's part in a rollout: look, upgrade, bake, confirm; or go back. Every step is saved before the next. */
import type { Clock } from '../../core/clock.ts'
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import type { Carrier } from '../controller/carrier.ts'
import type { Log } from '../controller/log.ts'
import { changeStateOf, type GateEvidence, type HealthName, healthOf } from '../device/gate.ts'
import type { Inventory } from '../device/inventory.ts'
import { type DeviceRecord, desirersOf } from '../device/record.ts'
import { type Dialer, withSession } from '../device/session.ts'
import { type Outcome, pause, revertChange, settle } from '../device/settle.ts'
import { RpcError } from '../rpc/client.ts'
import type { Registry } from '../registry/registry.ts'
import { attemptsMax, type Opening, opening, orderReason } from './plan.ts'
import type { Rollout, RolloutDevice } from './state.ts'

export const ATTEMPT_LIMITS = {
  /** A device that does not answer before it is touched is given up after this. */
  reachTimeoutMs: 15_000,
  /** Another change on the device has to end within this; it cannot stay provisional longer than its own time-out. */
  blockedTimeoutMs: 120_000,
  /** An order to go back is repeated for this long; then the device's own deadline has to do it. */
  undoTimeoutMs: 30_000,
  pollMs: 1_000,
} as const

export interface DeviceParts {
  readonly dialer: Dialer
  readonly inventory: Inventory
  readonly registry: Registry
  readonly clock: Clock
  readonly log: Log
  floors(): Promise<Uint8Array>
  readonly carrier: Pick<Carrier, 'order'>
  /** Records a step durably; answers the device as it stands now. */
  save(change: Partial<RolloutDevice>): Promise<RolloutDevice>
  /** Told after the device's desired version has changed. */
  desiredChanged(deviceId: string): void
  readonly signal: AbortSignal
}

interface Look {
  readonly version: string
  readonly health: HealthName
  readonly change: { readonly id: string; readonly to: string; readonly reason: string; readonly state: string; readonly heldMs: number } | null
}

export class Attempt {
  readonly #parts: DeviceParts
  readonly #rollout: Rollout
  #device: RolloutDevice
  /** Saved with the decision, and not at every look. */
  #evidence: GateEvidence | undefined

  constructor(parts: DeviceParts, rollout: Rollout, deviceId: string) {
    const device = rollout.devices.find((one) => one.deviceId === deviceId)
    if (!device) throw new Error(`${deviceId} is not in ${rollout.rolloutId}`)
    this.#parts = parts
    this.#rollout = rollout
    this.#device = device
  }

  /** Takes the device to the end of its part. @throws the signal's reason when it aborts; STORE_FULL */
  async advance(): Promise<void> {
    const { state } = this.#device
    if (state === 'pending' || state === 'upgrading') await this.#open()
    if (['baking', 'confirming'].includes(this.#device.state)) await this.#seeThrough()
  }

  /** Undoes what is under way. Ends in bounded time whatever the device does. */
  async undo(): Promise<void> {
    const { clock } = this.#parts
    const { rolloutId, confirmTimeoutMs } = this.#rollout
    const tag = orderReason(rolloutId, this.#device.attempt)
    const untilMs = clock.monotonicMs() + ATTEMPT_LIMITS.undoTimeoutMs
    let quiet = 0
    let last = ''
    while (clock.monotonicMs() < untilMs) {
      try {
        const known = this.#device.changeId === '' ? 'forgotten' : await this.#revert(this.#device.changeId, tag)
        if (known === 'reverted') return await this.#end('reverted', 'aborted; the version before runs')
        if (known === 'confirmed') return await this.#done()
        const look = await this.#look()
        const change = look?.change ?? null
        const ours = change !== null && change.reason === tag
        if (ours && change.state === 'provisional') {
          await this.#save({ changeId: change.id })
          continue
        }
        // An upload that was cut off may still turn into a change: only a second quiet look counts.
        quiet = ours ? 0 : quiet + 1
        if (quiet >= 2) return await this.#end('reverted', `aborted; it runs ${look?.version ?? 'nothing of it'}`)
      } catch (error) {
        if (!(error instanceof OffboxError)) throw error
        last = messageOf(error)
      }
      await new Promise<void>((resolve) => clock.after(ATTEMPT_LIMITS.pollMs, resolve))
    }
    await this.#end(
      'failed',
      `aborted, but the order to go back did not arrive (${last}); the device does so by itself within ${confirmTimeoutMs} ms of going live`,
      'DEVICE_UNREACHABLE',
    )
  }

  /** By id, whatever else is open on the device. A device that booted anew has forgotten the change, and with it the version. */
  async #revert(changeId: string, tag: string): Promise<'reverted' | 'confirmed' | 'forgotten'> {
    try {
      const change = await revertChange({ dialer: this.#parts.dialer, record: () => this.#record() }, changeId, `${tag}: aborted`)
      return change ? 'reverted' : 'confirmed'
    } catch (error) {
      if (error instanceof OffboxError && error.code === 'CHANGE_NOT_FOUND') return 'forgotten'
      throw error
    }
  }

  /** From the first look to a live version. */
  async #open(): Promise<void> {
    const { clock, signal } = this.#parts
    const { version, rolloutId } = this.#rollout
    const startedMs = clock.monotonicMs()
    for (;;) {
      signal.throwIfAborted()
      const elapsedMs = clock.monotonicMs() - startedMs
      const tag = this.#device.attempt > 0 ? orderReason(rolloutId, this.#device.attempt) : ''
      let look: Look | null = null
      let next: Opening
      try {
        look = await this.#look()
        next = opening({ version, tag, seen: look })
      } catch (error) {
        if (!(error instanceof OffboxError)) throw error
        signal.throwIfAborted()
        const touched = this.#device.state === 'upgrading'
        const patienceMs = touched ? this.#rollout.confirmTimeoutMs : ATTEMPT_LIMITS.reachTimeoutMs
        if (codeOf(error) !== 'DEVICE_UNREACHABLE' && codeOf(error) !== 'DEADLINE_PASSED') return await this.#end('failed', messageOf(error), codeOf(error))
        if (elapsedMs > patienceMs)
          return await this.#end(
            'failed',
            `${touched ? 'lost during the upgrade' : 'not reachable, and not touched'}: ${messageOf(error)}`,
            'DEVICE_UNREACHABLE',
          )
        next = { do: 'wait', reason: `does not answer: ${messageOf(error)}` }
      }
      if (next.do === 'done') return await this.#done(look?.version)
      if (next.do === 'fail') return await this.#end('failed', next.reason, next.error)
      if (next.do === 'resume') return await this.#live(next.changeId, look?.change?.heldMs ?? 0)
      if (next.do === 'upgrade' && look) {
        if (this.#device.attempt >= attemptsMax)
          return await this.#end('failed', `the connection broke in ${attemptsMax} attempts; it runs ${look.version}`, 'DEVICE_UNREACHABLE')
        if (await this.#upgrade(look)) return
      } else {
        if (elapsedMs > ATTEMPT_LIMITS.blockedTimeoutMs && look) return await this.#end('failed', next.do === 'wait' ? next.reason : '', 'SWAP_IN_PROGRESS')
        await this.#save({ reason: next.do === 'wait' ? next.reason : '' })
      }
      await pause(clock, ATTEMPT_LIMITS.pollMs, signal)
    }
  }

  /** Orders the upgrade. False: the connection broke, so the next look has to tell what became of it. */
  async #upgrade(look: Look): Promise<boolean> {
    const { registry, dialer, signal, floors } = this.#parts
    const { service, version, rolloutId, bakeMs, confirmTimeoutMs, allowDowngrade } = this.#rollout
    const attempt = this.#device.attempt + 1
    try {
      const bundle = await registry.read(service, version)
      const order = { service, version, bakeMs, confirmTimeoutMs, allowDowngrade, floors: await floors(), reason: orderReason(rolloutId, attempt) }
      await this.#save({ state: 'upgrading', reason: `${look.version} -> ${version}`, fromVersion: look.version, healthBefore: look.health, attempt })
      const change = await withSession(dialer, this.#record(), async (session) => {
        const carried = await this.#parts.carrier.order(session, service)
        return await session.supply('Upgrade', { ...order, ...carried }, bundle, { signal })
      })
      if (changeStateOf(change.state) === 'confirmed') await this.#done()
      else await this.#live(change.id, change.heldMs)
      return true
    } catch (error) {
      signal.throwIfAborted()
      // What did not come over the wire is about this machine, e.g. its full disk; a bundle that is not there is for the rollout to tell.
      if (!(error instanceof OffboxError) || (!(error instanceof RpcError) && error.code === 'STORE_FULL')) throw error
      if (error.code === 'DEVICE_UNREACHABLE' || error.code === 'DEADLINE_PASSED') return false
      if (error.code === 'SWAP_ROLLED_BACK') await this.#condemn(error.message)
      await this.#end(error.code === 'SWAP_ROLLED_BACK' ? 'reverted' : 'failed', error.message, error.code)
      return true
    }
  }

  async #live(changeId: string, heldMs: number): Promise<void> {
    await this.#save({ state: 'baking', reason: 'live; baking', changeId, heldMs, liveAtMs: this.#device.liveAtMs || this.#parts.clock.nowMs() })
  }

  async #seeThrough(): Promise<void> {
    const { dialer, clock, signal } = this.#parts
    const { service, version, bakeMs, confirmTimeoutMs } = this.#rollout
    const { changeId, healthBefore, liveAtMs } = this.#device
    const liveForMs = Math.max(0, clock.nowMs() - liveAtMs)
    const progress = async (state: 'baking' | 'confirming', reason: string) => await this.#progress(state, reason)
    const judged = (evidence: GateEvidence) => {
      this.#evidence = evidence
    }
    const outcome: Outcome = await settle(
      { dialer, clock, record: () => this.#record(), signal, progress, judged },
      { service, version, changeId, healthBefore, bakeMs, confirmTimeoutMs, liveForMs },
    )
    if (outcome.kind === 'confirmed') return await this.#done()
    if (outcome.kind === 'lost') return await this.#end('failed', outcome.reason, 'DEVICE_UNREACHABLE')
    if (outcome.unhealthy) await this.#condemn(outcome.reason)
    await this.#end('reverted', outcome.reason, outcome.error || 'SWAP_ROLLED_BACK')
  }

  /** The countdown of a bake changes each second: only a change of state is worth a write. */
  async #progress(state: 'baking' | 'confirming', reason: string): Promise<void> {
    const { state: before } = this.#device
    if (before === state) return
    await this.#save({ state, reason })
  }

  /** The device keeps the version: that is what it is to run from now on, also after a boot. */
  async #done(found?: string): Promise<void> {
    const { inventory, clock } = this.#parts
    const { service, version, author } = this.#rollout
    const { deviceId } = this.#device
    // First the desired state: a restart between the two finds the device confirmed and gets here again.
    await inventory.update(deviceId, (before) => {
      const { desired, failures } = before
      const others = desired.services.filter((one) => one.service !== service)
      const at = desired.services.findIndex((one) => one.service === service)
      const services = at < 0 ? [...others, { service, version }] : desired.services.with(at, { service, version })
      const { [service]: _, ...rest } = failures
      const next = { ...desired, services }
      return { desired: next, failures: rest, ...desirersOf(before, next, { principal: author, atMs: clock.nowMs() }) }
    })
    const untouched = found !== undefined && this.#device.attempt === 0
    await this.#save({
      state: 'done',
      reason: untouched ? `ran ${version} already` : `runs ${version}, confirmed`,
      error: '',
      ...(untouched ? { fromVersion: found } : {}),
    })
    this.#parts.desiredChanged(deviceId)
  }

  async #condemn(reason: string): Promise<void> {
    const { inventory, clock } = this.#parts
    const { service, version } = this.#rollout
    const failure = { version, reason, atMs: clock.nowMs() }
    await inventory.update(this.#device.deviceId, ({ failures }) => ({ failures: { ...failures, [service]: failure } }))
  }

  async #end(state: 'reverted' | 'failed', reason: string, error = ''): Promise<void> {
    await this.#save({ state, reason, error })
    this.#parts.desiredChanged(this.#device.deviceId)
  }

  async #look(): Promise<Look | null> {
    const status = await withSession(this.#parts.dialer, this.#record(), async (session) => await session.service(this.#rollout.service))
    if (!status) return null
    const { change } = status
    return {
      version: status.version,
      health: healthOf(status),
      change: change ? { id: change.id, to: change.to, reason: change.reason, state: changeStateOf(change.state), heldMs: change.heldMs } : null,
    }
  }

  #record(): DeviceRecord {
    return this.#parts.inventory.get(this.#device.deviceId)
  }

  async #save(change: Partial<RolloutDevice>): Promise<void> {
    this.#device = await this.#parts.save(this.#evidence ? { ...change, evidence: this.#evidence } : change)
  }
}
