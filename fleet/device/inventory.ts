/** Every device of the fleet, in memory and in one file each. Each change is on disk before it is seen. */
import { readdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { readIfThere, writeAtomic } from '../home/atomic.ts'
import { checkRegistration, type DeviceRecord, isDeviceId, newRecord, parseRecord, type Registration } from './record.ts'

/** A record that nobody registered cannot appear, so this bounds only what operators do. */
export const devicesMax = 10_000

type Listener = (record: DeviceRecord) => void

export class Inventory {
  readonly #directory: string
  readonly #records = new Map<string, DeviceRecord>()
  readonly #broken = new Map<string, string>()
  readonly #listeners = new Set<Listener>()
  /** Changes to one device follow one another. */
  readonly #queues = new Map<string, Promise<unknown>>()

  private constructor(directory: string) {
    this.#directory = directory
  }

  /** Reads all records. One that cannot be read stays where it is and is listed as broken; the others are not affected. */
  static async open(directory: string): Promise<Inventory> {
    const inventory = new Inventory(directory)
    for (const name of (await readdir(directory)).sort()) {
      const id = name.endsWith('.json') ? name.slice(0, -5) : ''
      if (!isDeviceId(id)) continue
      try {
        const record = parseRecord(String(await readIfThere(join(directory, name))), id)
        // What was true before the controller stopped is not known to be true now.
        const seen = record.enrolments > 0
        inventory.#records.set(id, seen ? { ...record, phase: 'unknown', reason: 'the controller has just started and has not looked yet' } : record)
      } catch (error) {
        inventory.#broken.set(id, messageOf(error))
      }
    }
    return inventory
  }

  /** In order of their ids. */
  list(): DeviceRecord[] {
    return [...this.#records.values()].sort((a, b) => (a.deviceId < b.deviceId ? -1 : 1))
  }

  /** Devices whose record cannot be read, with the reason. */
  broken(): ReadonlyMap<string, string> {
    return this.#broken
  }

  /** @throws DEVICE_NOT_FOUND, STORE_CORRUPT */
  get(deviceId: string): DeviceRecord {
    const record = this.#records.get(deviceId)
    if (record) return record
    const why = this.#broken.get(deviceId)
    if (why) throw new OffboxError('STORE_CORRUPT', `${why}; register it again with offbox device add`)
    throw new OffboxError('DEVICE_NOT_FOUND', `no device ${JSON.stringify(deviceId.slice(0, 80))} is registered`)
  }

  /** The device with this serial and MAC; undefined when none has both. */
  find(serial: string, mac: string): DeviceRecord | undefined {
    return this.list().find((record) => record.serial === serial && record.mac === mac.toLowerCase())
  }

  /**
   * Registers a device; the same registration again answers it. A broken record of the same id is set aside, not deleted.
   * @throws ARGUMENT_INVALID, DEVICE_EXISTS, LIMIT_REACHED
   */
  async add(input: Registration): Promise<DeviceRecord> {
    const registration = checkRegistration(input)
    // One queue for all additions: two devices must not register one serial at the same time.
    return await this.#inTurn('', async () => {
      for (const other of this.#records.values()) {
        const same = (['deviceId', 'serial', 'mac'] as const).filter((field) => other[field] === registration[field])
        if (same.length === 3) return other
        if (same.length > 0) {
          throw new OffboxError(
            'DEVICE_EXISTS',
            `${same.join(' and ')} ${same.length > 1 ? 'belong' : 'belongs'} to ${other.deviceId} (serial ${other.serial}, MAC ${other.mac})`,
          )
        }
      }
      if (this.#records.size >= devicesMax) throw new OffboxError('LIMIT_REACHED', `${devicesMax} devices are registered`)
      const { deviceId } = registration
      if (this.#broken.has(deviceId)) {
        await rename(this.#path(deviceId), `${this.#path(deviceId)}.corrupt-${Date.now()}`)
        this.#broken.delete(deviceId)
      }
      return await this.#put(newRecord(registration))
    })
  }

  /** Changes a record; `change` gets the newest and returns the fields that differ. @throws DEVICE_NOT_FOUND, STORE_FULL */
  async update(deviceId: string, change: (record: DeviceRecord) => Partial<DeviceRecord>): Promise<DeviceRecord> {
    return await this.#inTurn(deviceId, async () => {
      const record = this.get(deviceId)
      const next = { ...record, ...change(record) }
      return JSON.stringify(next) === JSON.stringify(record) ? record : await this.#put(next)
    })
  }

  /** Called after every change. Returns the way to stop listening. */
  watch(listener: Listener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  async #put(record: DeviceRecord): Promise<DeviceRecord> {
    await writeAtomic(this.#path(record.deviceId), `${JSON.stringify(record, null, 2)}\n`)
    this.#records.set(record.deviceId, record)
    for (const listener of this.#listeners) listener(record)
    return record
  }

  #path(deviceId: string): string {
    return join(this.#directory, `${deviceId}.json`)
  }

  async #inTurn<T>(key: string, act: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(key) ?? Promise.resolve()
    const mine = before.then(act, act)
    this.#queues.set(key, mine)
    try {
      return await mine
    } finally {
      if (this.#queues.get(key) === mine) this.#queues.delete(key)
    }
  }
}
