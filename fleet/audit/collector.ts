/**
 * Fetches the audit log of every device that has enrolled, checks it while it comes, keeps it, signs for it and tells the device so. One stream
 * a device, opened anew when it breaks; a device that shows another past than before is held to it in a chapter of its own, for good.
 */
import { BEFORE_FIRST, type Head } from '../../core/audit/chain.ts'
import { readRecord } from '../../core/audit/record.ts'
import type { Chapter, ChapterReason } from '../../core/audit/statements.ts'
import type { Clock } from '../../core/clock.ts'
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import { AuditMethods, type AuditStatusResponse } from '../../proto/gen/audit.ts'
import type { Log } from '../controller/log.ts'
import type { Inventory } from '../device/inventory.ts'
import { type DeviceSession, type Dialer, withSession } from '../device/session.ts'
import type { HeadSigner } from './identity.ts'
import { AuditStore } from './store.ts'

export const COLLECT_LIMITS = {
  /** A head is signed, and the device told, at most this often while records come; a device that waits for room is told at once. */
  signEveryMs: 10_000,
  /** Sooner than that when this much waits. */
  signBytes: 256 * 1024,
  retryMsMin: 1_000,
  retryMsMax: 30_000,
  callTimeoutMs: 10_000,
} as const

export interface CollectorParts {
  readonly dialer: Dialer
  readonly inventory: Inventory
  readonly clock: Clock
  readonly log: Log
  readonly sign: HeadSigner
  /** Where the log of a device is kept. */
  directoryOf(deviceId: string): string
}

interface Device {
  readonly deviceId: string
  /** Ends the wait for the next attempt. */
  wake: () => void
  /** One at a time: the store is not to be read at a start twice. */
  store: Promise<AuditStore> | null
  /** Why the last attempt ended; empty while it goes on. */
  problem: string
  ended: Promise<void>
}

/** What is known of the collection of one device. */
export interface Collection {
  readonly deviceId: string
  readonly chapters: readonly Chapter[]
  readonly countersigned: AuditStore['countersigned']
  readonly problem: string
}

export class Collector {
  readonly #parts: CollectorParts
  readonly #devices = new Map<string, Device>()
  readonly #stop = new AbortController()
  #unwatch = () => {}

  constructor(parts: CollectorParts) {
    this.#parts = parts
  }

  /** Collects from every device that has enrolled, and from each that does. */
  start(): void {
    const { inventory } = this.#parts
    for (const { deviceId, enrolments } of inventory.list()) if (enrolments > 0) this.poke(deviceId)
    this.#unwatch = inventory.watch(({ deviceId, enrolments }) => void (enrolments > 0 && !this.#devices.has(deviceId) && this.poke(deviceId)))
  }

  /** Tries now, whatever it waited for: a device has just enrolled. */
  poke(deviceId: string): void {
    const known = this.#devices.get(deviceId)
    if (known) known.wake()
    else if (!this.#stop.signal.aborted) {
      const device: Device = { deviceId, wake: () => {}, store: null, problem: '', ended: Promise.resolve() }
      this.#devices.set(deviceId, device)
      device.ended = this.#run(device)
    }
  }

  /** Ends every stream, and signs for what is held. */
  async close(): Promise<void> {
    this.#unwatch()
    this.#stop.abort(new OffboxError('STATE_REFUSED', 'the controller is stopping'))
    for (const device of this.#devices.values()) device.wake()
    await Promise.all([...this.#devices.values()].map(({ ended }) => ended))
  }

  /** @throws DEVICE_NOT_FOUND, STORE_CORRUPT */
  async collection(deviceId: string): Promise<Collection> {
    this.#parts.inventory.get(deviceId)
    const device = this.#devices.get(deviceId)
    const store = await this.store(deviceId)
    return { deviceId, chapters: store.chapters, countersigned: store.countersigned, problem: device?.problem ?? 'it has never enrolled' }
  }

  /** @throws STORE_CORRUPT what is held cannot be used */
  async store(deviceId: string): Promise<AuditStore> {
    const { anchors } = this.#parts.dialer
    const open = async () => await AuditStore.open({ directory: this.#parts.directoryOf(deviceId), fleet: anchors.fleet, caPem: anchors.caPem, deviceId })
    const device = this.#devices.get(deviceId)
    if (!device) return await open()
    device.store ??= open()
    try {
      return await device.store
    } catch (error) {
      device.store = null
      throw error
    }
  }

  /** Never rejects. */
  async #run(device: Device): Promise<void> {
    const { clock, log, inventory, dialer } = this.#parts
    const { deviceId } = device
    const { retryMsMin, retryMsMax } = COLLECT_LIMITS
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      try {
        const store = await this.store(deviceId)
        await withSession(dialer, inventory.get(deviceId), async (session) => {
          await new Collecting(this.#parts, session, store, this.#stop.signal, () => {
            failures = 0
            device.problem = ''
          }).run()
        })
        device.problem = 'the device ended the stream'
      } catch (error) {
        if (this.#stop.signal.aborted) break
        device.problem = `${codeOf(error)}: ${messageOf(error)}`
        log[codeOf(error) === 'DEVICE_UNREACHABLE' ? 'debug' : 'warn']({ deviceId, reason: device.problem }, 'audit log not collected')
      }
      failures += 1
      const delayMs = Math.min(retryMsMax, retryMsMin * 2 ** Math.min(failures - 1, 10))
      await new Promise<void>((resolve) => {
        const disarm = clock.after(delayMs, resolve)
        device.wake = () => {
          disarm()
          resolve()
        }
        if (this.#stop.signal.aborted) device.wake()
      })
      device.wake = () => {}
    }
  }
}

/** One connection to one device, from what is held to what it writes now. */
class Collecting {
  readonly #parts: CollectorParts
  readonly #session: DeviceSession
  readonly #store: AuditStore
  readonly #stop: AbortSignal
  readonly #progress: () => void
  readonly #broken = new AbortController()
  #unsignedBytes = 0
  #signedAtMs = Number.NEGATIVE_INFINITY
  #disarm: (() => void) | null = null
  /** Adding and signing, one after the other. */
  #work: Promise<unknown> = Promise.resolve()

  constructor(parts: CollectorParts, session: DeviceSession, store: AuditStore, stop: AbortSignal, progress: () => void) {
    this.#parts = parts
    this.#session = session
    this.#store = store
    this.#stop = stop
    this.#progress = progress
  }

  /** Resolves when the device ends the stream. @throws whatever broke it */
  async run(): Promise<void> {
    const { clock, sign, log } = this.#parts
    const signal = AbortSignal.any([this.#stop, this.#broken.signal])
    try {
      const status = await this.#session.client.unary(AuditMethods.Status, {}, { deadlineMs: COLLECT_LIMITS.callTimeoutMs, signal })
      if (status.chain === '') throw new OffboxError('STATE_REFUSED', 'the device has not begun its audit log yet')
      await this.#place(status)
      // What was held but not signed for when the last connection broke, and what the device was not told of.
      if (this.#owes(status)) await this.#sign()
      const from = (this.#store.chapter?.sequence ?? 0) + 1
      for await (const { records, checkpoint } of this.#session.client.serverStream(
        AuditMethods.Tail,
        { chain: status.chain, from, follow: true },
        { signal },
      )) {
        if (!checkpoint) throw new OffboxError('AUDIT_BROKEN', 'a batch without a checkpoint')
        await this.#inTurn(async () => await this.#add(records, checkpoint))
        this.#progress()
        if (!records.some(isNews)) continue
        for (const line of records) this.#unsignedBytes += line.length
        const waitMs = this.#unsignedBytes >= COLLECT_LIMITS.signBytes ? 0 : this.#signedAtMs + COLLECT_LIMITS.signEveryMs - clock.monotonicMs()
        if (waitMs <= 0) await this.#inTurn(async () => await this.#sign())
        else this.#disarm ??= clock.after(waitMs, () => this.#signLater())
      }
      if (this.#broken.signal.aborted) throw this.#broken.signal.reason
    } finally {
      this.#disarm?.()
      await this.#work.catch(() => {})
      // The device is told at the next connection; whoever asks for an export before that gets all the same what is held.
      if (this.#unsignedBytes > 0) await this.#store.countersign(sign, clock.nowMs()).catch((error) => log.error({ err: error }, 'a head could not be signed'))
    }
  }

  /** A device that never was told, or was told less than it could have been. */
  #owes({ chain, acknowledged }: AuditStatusResponse): boolean {
    const { chapter, countersigned, chapters } = this.#store
    if (!chapter || chapter.chain !== chain || chapter.sequence === chapter.after.sequence) return false
    return countersigned?.chapters !== chapters.length || countersigned.sequence < chapter.sequence || acknowledged < countersigned.sequence
  }

  /** Sees whether what the device has follows what is held; begins a chapter where it does not. */
  async #place({ chain, oldest, sequence, hash }: AuditStatusResponse): Promise<void> {
    const { chapter } = this.#store
    const from = Math.max(1, oldest)
    if (!chapter) return await this.#begin('first', chain, from)
    // A log that was left behind does not come back of itself.
    if (chapter.chain !== chain) return await this.#begin(this.#store.chapters.some((one) => one.chain === chain) ? 'forked' : 'new log', chain, from)
    if (sequence < chapter.sequence) return await this.#begin('forked', chain, from)
    if (sequence === chapter.sequence) {
      if (hash !== chapter.hash) await this.#begin('forked', chain, from)
    } else if (from > chapter.sequence + 1) await this.#begin('missed', chain, from)
  }

  /** @param from number of the first record that is there */
  async #begin(reason: ChapterReason, chain: string, from: number): Promise<void> {
    const { log } = this.#parts
    const { deviceId } = this.#session
    const after = await this.#before(chain, from)
    const facts = { deviceId, chain, from, reason, held: this.#store.chapter?.sequence ?? 0 }
    if (reason === 'forked') log.error(facts, 'a device shows another past than before: its audit log was forked')
    else log[reason === 'first' ? 'info' : 'warn'](facts, 'a chapter of an audit log begins')
    await this.#store.begin(reason, chain, after)
  }

  /** What the oldest record that the device has follows. */
  async #before(chain: string, from: number): Promise<Head> {
    if (from === 1) return BEFORE_FIRST
    const tail = { chain, from, follow: false }
    for await (const { records } of this.#session.client.serverStream(AuditMethods.Tail, tail, { deadlineMs: COLLECT_LIMITS.callTimeoutMs })) {
      if (records[0]) {
        const { sequence, previous } = readRecord(records[0])
        return { sequence: sequence - 1, hash: previous }
      }
    }
    throw new OffboxError('AUDIT_BROKEN', `the device has no record ${from}, which it says is its oldest`)
  }

  async #add(records: Uint8Array[], checkpoint: Parameters<AuditStore['add']>[0]['checkpoint']): Promise<void> {
    const { chapter } = this.#store
    try {
      await this.#store.add({ records, checkpoint })
    } catch (error) {
      const first = records[0]
      if (codeOf(error) !== 'AUDIT_BROKEN' || !chapter || !first) throw error
      const { sequence, previous } = readRecord(first)
      if (sequence > chapter.sequence + 1) {
        // It dropped what was acknowledged, or what nobody fetched in time, while we asked.
        await this.#store.begin('missed', chapter.chain, { sequence: sequence - 1, hash: previous })
      } else if (sequence === chapter.sequence + 1 && previous !== chapter.hash) {
        this.#parts.log.error(
          { deviceId: this.#session.deviceId, chain: chapter.chain, sequence },
          'a device shows another past than before: its audit log was forked',
        )
        await this.#store.begin('forked', chapter.chain, { sequence: sequence - 1, hash: previous })
      } else throw error
      await this.#store.add({ records, checkpoint })
    }
  }

  async #sign(): Promise<void> {
    this.#disarm?.()
    this.#disarm = null
    const { clock, sign } = this.#parts
    const head = await this.#store.countersign(sign, clock.nowMs())
    this.#unsignedBytes = 0
    this.#signedAtMs = clock.monotonicMs()
    await this.#session.client.unary(AuditMethods.Acknowledge, { head }, { deadlineMs: COLLECT_LIMITS.callTimeoutMs })
  }

  #signLater(): void {
    this.#disarm = null
    this.#inTurn(async () => await this.#sign()).catch((error) => this.#broken.abort(error))
  }

  async #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const done = this.#work.catch(() => {}).then(act)
    this.#work = done
    return await done
  }
}

/** What collecting itself leaves in the log is no reason to sign for it again: that would never end. */
function isNews(line: Uint8Array): boolean {
  const { method } = readRecord(line)
  return !method.startsWith('/offbox.v1.Audit/') && method !== 'audit/acknowledged'
}
