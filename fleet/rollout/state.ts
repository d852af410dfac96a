/** Rollouts as they stand: in memory and in one atomic file each, so that a controller that restarts goes on where it was. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { GateEvidence, HealthName } from '../device/gate.ts'
import { readIfThere, writeAtomic } from '../home/atomic.ts'

export const DEVICE_STATES = ['pending', 'upgrading', 'baking', 'confirming', 'done', 'reverted', 'failed', 'skipped'] as const
export type DeviceState = (typeof DEVICE_STATES)[number]
export const ROLLOUT_STATES = ['running', 'succeeded', 'stopped', 'aborting', 'aborted'] as const
export type RolloutState = (typeof ROLLOUT_STATES)[number]

export interface RolloutDevice {
  readonly deviceId: string
  readonly state: DeviceState
  readonly reason: string
  /** Code of docs/errors.md; empty without a failure. */
  readonly error: string
  readonly fromVersion: string
  readonly atMs: number
  readonly attempt: number
  readonly changeId: string
  readonly canary: boolean
  readonly heldMs: number
  /** Of the version before, which the new one is compared with. */
  readonly healthBefore: HealthName
  /** Wall time at which the new version went live, Unix milliseconds; 0: not yet. */
  readonly liveAtMs: number
  /** What the gate judged last; none before it did, and in records of controllers that did not keep it. */
  readonly evidence?: GateEvidence
}

export interface Rollout {
  readonly schema: 1
  /** "r-" and four digits or more. */
  readonly rolloutId: string
  readonly service: string
  readonly version: string
  readonly state: RolloutState
  readonly reason: string
  /** In the order in which they are touched. */
  readonly devices: readonly RolloutDevice[]
  readonly startedAtMs: number
  readonly endedAtMs: number
  readonly bakeMs: number
  readonly confirmTimeoutMs: number
  readonly allowDowngrade: boolean
  readonly author: string
}

/** Ended rollouts kept in memory and listed; their files stay. */
export const rolloutsListedMax = 500

export function isEnded(rollout: Rollout): boolean {
  return rollout.state !== 'running' && rollout.state !== 'aborting'
}

export function newDevice(deviceId: string, canary: boolean, reason: string): RolloutDevice {
  const blank = { error: '', fromVersion: '', atMs: 0, attempt: 0, changeId: '', heldMs: 0, healthBefore: 'unknown' as const, liveAtMs: 0 }
  return { deviceId, state: 'pending', reason, canary, ...blank }
}

export class RolloutStore {
  readonly #directory: string
  readonly #rollouts = new Map<string, Rollout>()
  readonly #broken = new Map<string, string>()
  readonly #listeners = new Set<(rollout: Rollout) => void>()
  #highest = 0
  #queue: Promise<unknown> = Promise.resolve()

  private constructor(directory: string) {
    this.#directory = directory
  }

  /** A file that cannot be read is kept and reported, and its number is not given again. */
  static async open(directory: string): Promise<RolloutStore> {
    const store = new RolloutStore(directory)
    const ids = (await readdir(directory)).map((name) => /^(r-(\d{4,12}))\.json$/.exec(name)).filter((match) => match !== null)
    ids.sort((a, b) => Number(a[2]) - Number(b[2]))
    for (const [, id = '', number] of ids) {
      store.#highest = Math.max(store.#highest, Number(number))
      try {
        store.#rollouts.set(id, parseRollout(String(await readIfThere(join(directory, `${id}.json`))), id))
      } catch (error) {
        store.#broken.set(id, messageOf(error))
      }
    }
    store.#forget()
    return store
  }

  /** Newest first. */
  list(): Rollout[] {
    return [...this.#rollouts.values()].reverse()
  }

  broken(): ReadonlyMap<string, string> {
    return this.#broken
  }

  /** @param rolloutId empty: the newest. @throws ROLLOUT_NOT_FOUND, STORE_CORRUPT */
  get(rolloutId: string): Rollout {
    const rollout = rolloutId === '' ? this.list()[0] : this.#rollouts.get(rolloutId)
    if (rollout) return rollout
    const why = this.#broken.get(rolloutId)
    if (why) throw new OffboxError('STORE_CORRUPT', why)
    throw new OffboxError('ROLLOUT_NOT_FOUND', rolloutId === '' ? 'there was no rollout yet' : `no rollout ${JSON.stringify(rolloutId.slice(0, 40))}`)
  }

  /** Gives the rollout its id and keeps it. */
  async add(rollout: Omit<Rollout, 'rolloutId' | 'schema'>): Promise<Rollout> {
    this.#highest++
    const rolloutId = `r-${String(this.#highest).padStart(4, '0')}`
    return await this.#put({ schema: 1, rolloutId, ...rollout })
  }

  /** Changes a rollout; `change` gets the newest. On disk when it resolves, and seen only then. @throws ROLLOUT_NOT_FOUND, STORE_FULL */
  async update(rolloutId: string, change: (rollout: Rollout) => Rollout): Promise<Rollout> {
    const act = async () => {
      const before = this.get(rolloutId)
      const next = change(before)
      return next === before ? before : await this.#put(next)
    }
    // An abort and a step may come at once: the second has to see the first.
    const mine = this.#queue.then(act, act)
    this.#queue = mine
    return await mine
  }

  async #put(rollout: Rollout): Promise<Rollout> {
    await writeAtomic(join(this.#directory, `${rollout.rolloutId}.json`), `${JSON.stringify(rollout, null, 2)}\n`)
    this.#rollouts.set(rollout.rolloutId, rollout)
    this.#forget()
    for (const listener of this.#listeners) listener(rollout)
    return rollout
  }

  /** Called after every step. Returns the way to stop listening. */
  watch(listener: (rollout: Rollout) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  #forget(): void {
    for (const [id, rollout] of this.#rollouts) {
      if (this.#rollouts.size <= rolloutsListedMax) return
      if (isEnded(rollout)) this.#rollouts.delete(id)
    }
  }
}

/** @throws STORE_CORRUPT */
export function parseRollout(text: string, rolloutId: string): Rollout {
  const corrupt = (why: string, cause?: unknown) => new OffboxError('STORE_CORRUPT', `the record of rollout ${rolloutId} cannot be used: ${why}`, { cause })
  let raw: Rollout
  try {
    raw = JSON.parse(text)
  } catch (error) {
    throw corrupt('it is not JSON', error)
  }
  if (raw?.schema !== 1 || raw.rolloutId !== rolloutId) throw corrupt('it is of another schema or rollout')
  if (!ROLLOUT_STATES.includes(raw.state)) throw corrupt(`state must be of ${ROLLOUT_STATES.join(', ')}`)
  for (const field of ['service', 'version', 'reason', 'author'] as const) if (typeof raw[field] !== 'string') throw corrupt(`${field} must be text`)
  for (const field of ['startedAtMs', 'endedAtMs', 'bakeMs', 'confirmTimeoutMs'] as const) {
    if (!Number.isFinite(raw[field])) throw corrupt(`${field} must be a number`)
  }
  const sound = (device: RolloutDevice) => typeof device?.deviceId === 'string' && DEVICE_STATES.includes(device.state) && Number.isSafeInteger(device.attempt)
  if (!Array.isArray(raw.devices) || !raw.devices.every(sound)) throw corrupt('devices must list devices with state and attempt')
  return raw
}
