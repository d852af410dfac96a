/**
 * Receipts of this device: one for each change of which version of a service runs (core/receipt.ts), a file each, chained in the order in
 * which they were made. A change has at most one, whatever is cut when: its file bears the id of its change.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { Clock } from '../../core/clock.ts'
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import { type Outcome, readReceipt, RECEIPT_FORMAT, type ReceiptBody, receiptSignedBytes } from '../../core/receipt.ts'
import { receiptsMax } from '../limits.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import type { ChangeRecord } from './types.ts'

const FILE = /^r-(\d{10,})-(c-\d{10,})$/

const SIGNATURE_BYTES = 64

export interface SignedReceipt {
  readonly body: Uint8Array
  /** 64 bytes. */
  readonly signature: Uint8Array
  /** Of the key that signed. */
  readonly chainPem: string
}

export interface ReceiptsOptions {
  readonly files: AtomicFiles
  readonly directory: string
  readonly clock: Clock
  readonly bootId: string
  /** Signs with the device's key, which stays where it is. @throws STATE_REFUSED the device has no identity yet */
  readonly sign: (bytesFor: (deviceId: string) => Uint8Array) => { signature: Uint8Array; chainPem: string }
  readonly log: { error(fields: object, message: string): void }
}

interface Entry {
  readonly name: string
  readonly sequence: number
  readonly changeId: string
}

export class Receipts {
  readonly #options: ReceiptsOptions
  /** Oldest first. */
  #entries: Entry[] = []
  #last = { sequence: 0, digest: '' }
  #work: Promise<unknown> = Promise.resolve()

  constructor(options: ReceiptsOptions) {
    this.#options = options
  }

  /** Once, before the engine recovers. A receipt that cannot be read is set aside: its number is missing from the chain from then on. */
  async load(): Promise<void> {
    for (const name of await this.#options.files.list(this.#options.directory, { setAside: true })) {
      const match = FILE.exec(name.replace(/\.corrupt$/, ''))
      if (!match) continue
      const entry: Entry = { name, sequence: Number(match[1]), changeId: match[2] ?? '' }
      this.#last = { sequence: Math.max(this.#last.sequence, entry.sequence), digest: '' }
      if (FILE.test(name)) this.#entries.push(entry)
    }
    this.#entries.sort((one, other) => one.sequence - other.sequence)
    for (let at = this.#entries.length - 1; at >= 0 && this.#last.digest === ''; at--) {
      const found = await this.#read(this.#entries[at] as Entry)
      if (found) this.#last = { ...this.#last, digest: digestOf(found.body) }
      else this.#entries.splice(at, 1)
    }
  }

  /** The digest of the change's receipt, which is made now unless it is there. Empty for a kind that gets none. @throws STORE_FULL, STATE_REFUSED */
  async give(record: ChangeRecord): Promise<string> {
    const { kind } = record
    if (kind === 'config' || kind === 'certificate') return ''
    const done = this.#work.then(async () => await this.#give(record, kind))
    this.#work = done.catch(() => {})
    return await done
  }

  /** The newest `most` before number `before` (0: of all), of `service` if it is named; oldest first. Those that cannot be read are left out. */
  async list(wanted: { service: string; before: number; most: number }): Promise<SignedReceipt[]> {
    const found: SignedReceipt[] = []
    for (const entry of this.#entries.toReversed()) {
      if (found.length >= wanted.most) break
      if (wanted.before > 0 && entry.sequence >= wanted.before) continue
      const receipt = await this.#read(entry)
      if (receipt && (wanted.service === '' || readReceipt(receipt.body).service === wanted.service)) found.push(receipt)
    }
    return found.reverse()
  }

  /** @throws RECEIPT_NOT_FOUND */
  async of(changeId: string): Promise<SignedReceipt> {
    const entry = this.#entries.find((one) => one.changeId === changeId)
    const receipt = entry && (await this.#read(entry))
    if (!receipt) throw new OffboxError('RECEIPT_NOT_FOUND', `no receipt of change ${JSON.stringify(changeId)} is kept on this device`)
    return receipt
  }

  async #give(record: ChangeRecord, kind: ReceiptBody['kind']): Promise<string> {
    const { files, directory, sign, bootId, clock } = this.#options
    const present = this.#entries.find(({ changeId }) => changeId === record.id)
    const found = present && (await this.#read(present))
    if (found) return digestOf(found.body)
    const sequence = this.#last.sequence + 1
    const about = { sequence, previous: this.#last.digest, bootId, endedAtMs: clock.nowMs(), endedMonotonicMs: Math.round(clock.monotonicMs()) }
    let body = Buffer.alloc(0)
    const { signature, chainPem } = sign((deviceId) => {
      body = Buffer.from(JSON.stringify(bodyOf(record, kind, { ...about, deviceId })))
      return receiptSignedBytes(body)
    })
    const name = `r-${String(sequence).padStart(10, '0')}-${record.id}`
    await files.writeJson(join(directory, name), { body: body.toString('utf8'), signature: Buffer.from(signature).toString('base64'), chainPem })
    const digest = digestOf(body)
    this.#entries.push({ name, sequence, changeId: record.id })
    this.#last = { sequence, digest }
    await this.#prune()
    return digest
  }

  async #prune(): Promise<void> {
    while (this.#entries.length > receiptsMax) {
      const [oldest] = this.#entries.splice(0, 1)
      // One that stays is found again at the next start.
      if (oldest) await this.#options.files.remove(join(this.#options.directory, oldest.name)).catch(() => {})
    }
  }

  async #read({ name }: Entry): Promise<SignedReceipt | null> {
    try {
      const raw = await this.#options.files.readJson(join(this.#options.directory, name))
      return raw === null ? null : signedReceipt(raw)
    } catch (error) {
      this.#options.log.error({ receipt: name, code: codeOf(error), error: messageOf(error) }, 'a receipt cannot be read')
      return null
    }
  }
}

/** @throws STORE_CORRUPT, ARGUMENT_INVALID not of the shape in which it is stored */
function signedReceipt(raw: unknown): SignedReceipt {
  const { body, signature, chainPem } = (raw ?? {}) as { [key: string]: unknown }
  if (typeof body !== 'string' || typeof signature !== 'string' || typeof chainPem !== 'string') {
    throw new OffboxError('STORE_CORRUPT', 'a stored receipt is not in the shape it is stored in')
  }
  const receipt = { body: Buffer.from(body, 'utf8'), signature: Buffer.from(signature, 'base64'), chainPem }
  if (receipt.signature.length !== SIGNATURE_BYTES)
    throw new OffboxError('STORE_CORRUPT', `a stored receipt has a signature of ${receipt.signature.length} bytes`)
  readReceipt(receipt.body)
  return receipt
}

type About = Pick<ReceiptBody, 'deviceId' | 'sequence' | 'previous' | 'bootId' | 'endedAtMs' | 'endedMonotonicMs'>

function bodyOf(record: ChangeRecord, kind: ReceiptBody['kind'], about: About): ReceiptBody {
  const { id: changeId, service, from, to, reason, error, author, heldMs, heldCalls, steps, proposedAtMs } = record
  const { deviceId, sequence, previous, ...times } = about
  const manifests = (record.plan as { manifests?: ReceiptBody['manifests'] } | null)?.manifests ?? { from: '', to: '' }
  const order = { changeId, kind, service, from, to, manifests }
  const end = { outcome: outcomeOf(record), reason, error, author, heldMs, heldCalls, steps, proposedAtMs }
  return { format: RECEIPT_FORMAT, deviceId, sequence, previous, ...order, ...end, ...times }
}

function outcomeOf({ state, provisionalAtMs }: ChangeRecord): Outcome {
  if (state === 'confirmed') return 'confirmed'
  return provisionalAtMs > 0 ? 'reverted' : 'rolled back'
}

function digestOf(body: Uint8Array): string {
  return createHash('sha256').update(body).digest('hex')
}
