/** Carries rollouts out, one device after the other. What is done is on disk before the next step begins. */
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { DeviceParts } from './attempt.ts'
import { Attempt } from './attempt.ts'
import { nextStep, skipRest } from './plan.ts'
import { isEnded, newDevice, type Rollout, type RolloutDevice, type RolloutStore } from './state.ts'

export const ROLLOUT_LIMITS = {
  /** Longest bake, milliseconds. */
  bakeMsMax: 24 * 60 * 60 * 1000,
  /** The controller needs this long after the bake to probe and confirm. */
  confirmAfterBakeMsMin: 5_000,
  devicesMax: 10_000,
  /** Between tries to write a step that could not be written (full disk). */
  retryWriteMs: 2_000,
} as const

export interface RolloutParts extends Omit<DeviceParts, 'save' | 'signal'> {
  readonly store: RolloutStore
}

export interface RolloutOrder {
  readonly service: string
  readonly version: string
  readonly deviceIds: readonly string[]
  /** Empty: the first of them. */
  readonly canary: string
  readonly bakeMs: number
  readonly confirmTimeoutMs: number
  readonly allowDowngrade: boolean
  readonly author: string
}

interface Running {
  /** Aborts with `ABORT` when the rollout is to be undone, with something else when the controller stops. */
  readonly stop: AbortController
  readonly ended: Promise<void>
}

export class Rollouts {
  readonly #parts: RolloutParts
  readonly #running = new Map<string, Running>()
  /** Services between the check that no rollout is active and its record. */
  readonly #starting = new Set<string>()

  constructor(parts: RolloutParts) {
    this.#parts = parts
  }

  /** Goes on with what an earlier controller left unfinished. */
  resume(): void {
    for (const rollout of this.#parts.store.list()) {
      if (isEnded(rollout)) continue
      this.#parts.log.info({ rollout: rollout.rolloutId, state: rollout.state }, 'rollout resumed')
      this.#run(rollout.rolloutId)
    }
  }

  /** @throws ROLLOUT_ACTIVE, BUNDLE_NOT_FOUND, DEVICE_NOT_FOUND, ARGUMENT_INVALID */
  async start(order: RolloutOrder): Promise<Rollout> {
    const { store, registry, inventory, clock, log } = this.#parts
    const deviceIds = inOrder(order)
    for (const deviceId of deviceIds) inventory.get(deviceId)
    const active = store.list().find((rollout) => rollout.service === order.service && !isEnded(rollout))
    if (active || this.#starting.has(order.service)) {
      throw new OffboxError(
        'ROLLOUT_ACTIVE',
        `rollout ${active?.rolloutId ?? ''} of ${order.service} ${active?.version ?? ''} is ${active?.state ?? 'starting'}`,
      )
    }
    this.#starting.add(order.service)
    try {
      await registry.require(order.service, order.version)
      const devices = deviceIds.map((id, index) => newDevice(id, index === 0, index === 0 ? 'goes first' : `waits for ${deviceIds[index - 1]}`))
      const { service, version, bakeMs, confirmTimeoutMs, allowDowngrade, author } = order
      const facts = { service, version, bakeMs, confirmTimeoutMs, allowDowngrade, author, devices }
      const rollout = await store.add({ ...facts, state: 'running', reason: 'running', startedAtMs: clock.nowMs(), endedAtMs: 0 })
      log.info({ rollout: rollout.rolloutId, service, version, author, devices: deviceIds }, 'rollout started')
      this.#run(rollout.rolloutId)
      return rollout
    } finally {
      this.#starting.delete(order.service)
    }
  }

  /** Resolves once it has ended. An ended rollout is answered as it is. @throws ROLLOUT_NOT_FOUND */
  async abort(rolloutId: string, input: { reason: string; author: string }): Promise<Rollout> {
    const { store, log } = this.#parts
    const rollout = store.get(rolloutId)
    const id = rollout.rolloutId
    if (isEnded(rollout)) return rollout
    log.info({ rollout: id, ...input }, 'rollout aborted')
    const reason = `aborted by ${input.author}${input.reason ? `: ${input.reason}` : ''}`
    await store.update(id, (now) => (now.state === 'running' ? { ...now, state: 'aborting', reason } : now))
    const running = this.#running.get(id)
    running?.stop.abort(ABORT)
    await running?.ended
    return store.get(id)
  }

  /** Services that a rollout is changing on a device at this moment; nobody else touches them. */
  inRollout(deviceId: string): ReadonlySet<string> {
    const services = new Set<string>()
    for (const rollout of this.#parts.store.list()) {
      if (!isEnded(rollout) && rollout.devices.some((device) => device.deviceId === deviceId && isOpen(device))) services.add(rollout.service)
    }
    return services
  }

  /** Stops after the write under way. The next controller resumes. */
  async close(): Promise<void> {
    for (const running of this.#running.values()) running.stop.abort(new OffboxError('STATE_REFUSED', 'the controller is stopping'))
    await Promise.all([...this.#running.values()].map(async (running) => await running.ended))
  }

  #run(rolloutId: string): void {
    const stop = new AbortController()
    const ended = this.#loop(rolloutId, stop.signal).finally(() => this.#running.delete(rolloutId))
    this.#running.set(rolloutId, { stop, ended })
  }

  /** Never rejects. */
  async #loop(rolloutId: string, signal: AbortSignal): Promise<void> {
    const { store, clock, log } = this.#parts
    const stopping = () => signal.aborted && signal.reason !== ABORT
    while (!stopping()) {
      let undoing = false
      try {
        const rollout = store.get(rolloutId)
        const step = nextStep(rollout)
        if (step.do === 'end') {
          const { state, reason } = await store.update(rolloutId, (now) => {
            // An abort that came meanwhile changes the words: plan again.
            if (now !== rollout) return now
            return { ...now, devices: skipRest(now, clock.nowMs()), state: step.state, reason: step.reason, endedAtMs: clock.nowMs() }
          })
          if (state !== step.state) continue
          log.info({ rollout: rolloutId, state, reason }, 'rollout ended')
          return
        }
        const save = async (change: Partial<RolloutDevice>) => await this.#save(rolloutId, step.deviceId, change)
        const attempt = new Attempt({ ...this.#parts, save, signal }, rollout, step.deviceId)
        undoing = step.do === 'undo'
        if (undoing) await attempt.undo()
        else await attempt.advance()
      } catch (error) {
        // An abort wakes whatever waited; the next turn undoes. Anything else is ours or the disk's and is tried again.
        if (signal.aborted && !undoing) continue
        log.error({ rollout: rolloutId, err: error, reason: messageOf(error) }, 'rollout step failed; tried again')
        await new Promise<void>((resolve) => clock.after(ROLLOUT_LIMITS.retryWriteMs, resolve))
      }
    }
  }

  async #save(rolloutId: string, deviceId: string, change: Partial<RolloutDevice>): Promise<RolloutDevice> {
    const { store, clock, log } = this.#parts
    const find = (rollout: Rollout) => {
      const device = rollout.devices.find((one) => one.deviceId === deviceId)
      if (!device) throw new Error(`${deviceId} is not in ${rolloutId}`)
      return device
    }
    const before = find(store.get(rolloutId))
    const same = (Object.keys(change) as (keyof RolloutDevice)[]).every((key) => before[key] === change[key])
    if (same) return before
    const now = { ...before, ...change, atMs: clock.nowMs() }
    await store.update(rolloutId, (rollout) => ({ ...rollout, devices: rollout.devices.map((device) => (device.deviceId === deviceId ? now : device)) }))
    if (now.state !== before.state)
      log.info({ rollout: rolloutId, deviceId, from: before.state, state: now.state, reason: now.reason, error: now.error }, 'rollout step')
    return now
  }
}

/** Reason of an abort, apart from a controller that stops. */
export const ABORT = new OffboxError('STATE_REFUSED', 'the rollout was aborted')

function isOpen(device: RolloutDevice): boolean {
  return ['pending', 'upgrading', 'baking', 'confirming'].includes(device.state)
}

/** Canary first, the others as given, none twice. */
function inOrder(order: RolloutOrder): string[] {
  const { deviceIds, canary, bakeMs, confirmTimeoutMs } = order
  const refuse = (why: string) => new OffboxError('ARGUMENT_INVALID', why)
  const unique = [...new Set(deviceIds)]
  if (unique.length === 0) throw refuse(`no device to roll ${order.service} out to: none runs it`)
  if (unique.length > ROLLOUT_LIMITS.devicesMax) throw refuse(`more than ${ROLLOUT_LIMITS.devicesMax} devices`)
  if (canary !== '' && !unique.includes(canary)) throw refuse(`the canary ${JSON.stringify(canary.slice(0, 40))} is not among the devices`)
  if (bakeMs > ROLLOUT_LIMITS.bakeMsMax) throw refuse(`bake_ms must be at most ${ROLLOUT_LIMITS.bakeMsMax}`)
  const least = bakeMs + ROLLOUT_LIMITS.confirmAfterBakeMsMin
  if (confirmTimeoutMs < least) throw refuse(`confirm_timeout_ms must be at least bake_ms + ${ROLLOUT_LIMITS.confirmAfterBakeMsMin}, ${least} here`)
  return canary === '' ? unique : [canary, ...unique.filter((id) => id !== canary)]
}
