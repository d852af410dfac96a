/**
 * How a batch of messages crosses a MessagePort: one flat list and one buffer, in place of an object and a buffer for each message.
 * To clone an object costs its keys, and to transfer a buffer costs more than to copy a few kilobytes (docs/decisions/0010 has the
 * figures). Both ends check what they unpack, as they check the messages.
 */
import type { FromWorker, ToWorker } from './wire.ts'

/** `list` holds each message's type and then its fields; the small payloads stand in `bytes`, one after the other. */
export interface PackedBatch {
  readonly list: readonly unknown[]
  readonly bytes: Uint8Array | undefined
}

/** Payloads up to this size are copied into the common buffer; larger ones are transferred, each in a buffer of its own. */
export const PACKED_BYTES_MAX = 8 * 1024
/** In place of a size: there is no payload; the payload itself follows. */
const NONE = -1
const APART = -2

type Message = ToWorker | FromWorker
type Open = Extract<ToWorker, { type: 'open' }>

/**
 * The payloads (`bytes`) are given away: the sender does not use them again.
 * @param transfer what is to be transferred is added to it
 */
export function pack(messages: readonly Message[], transfer: ArrayBuffer[]): PackedBatch {
  const writer = new Writer(messages, transfer)
  for (const message of messages) writer.add(message)
  return writer.finish()
}

class Writer {
  readonly #list: unknown[] = []
  readonly #bytes: Uint8Array | undefined
  readonly #transfer: ArrayBuffer[]
  #at = 0

  constructor(messages: readonly Message[], transfer: ArrayBuffer[]) {
    let sizeBytes = 0
    for (const message of messages) {
      const bytes = 'bytes' in message ? message.bytes : undefined
      if (bytes && bytes.byteLength <= PACKED_BYTES_MAX) sizeBytes += bytes.byteLength
    }
    this.#bytes = sizeBytes > 0 ? new Uint8Array(sizeBytes) : undefined
    this.#transfer = transfer
  }

  add(message: Message): void {
    const list = this.#list
    switch (message.type) {
      case 'open':
        if (message.onBehalfOf === undefined && message.cursor === undefined) this.#addOpen(message)
        else this.#addOther(message)
        break
      case 'data':
        list.push('data', message.call)
        this.#addBytes(message.bytes)
        break
      case 'end':
        if (message.error === undefined && message.trailers === undefined) {
          list.push('end', message.call)
          this.#addBytes(message.bytes)
        } else this.#addOther(message)
        break
      case 'credit':
        list.push('credit', message.call, message.count)
        break
      default:
        this.#addOther(message)
    }
  }

  finish(): PackedBatch {
    if (this.#bytes) this.#transfer.push(this.#bytes.buffer as ArrayBuffer)
    return { list: this.#list, bytes: this.#bytes }
  }

  #addOpen({ call, method, principal, deadlineMs, metadata, bytes }: Open): void {
    this.#list.push('open', call, method, principal, deadlineMs, metadata)
    this.#addBytes(bytes)
  }

  /** The object itself, its payload apart: the rest of what a message may hold is rare. */
  #addOther(message: Message): void {
    if (!('bytes' in message) || message.bytes === undefined) {
      this.#list.push('other', message)
      return
    }
    const { bytes, ...rest } = message
    this.#list.push('bytes', rest)
    this.#addBytes(bytes)
  }

  #addBytes(bytes: Uint8Array | undefined): void {
    if (!bytes) this.#list.push(NONE)
    else if (bytes.byteLength <= PACKED_BYTES_MAX) {
      this.#bytes?.set(bytes, this.#at)
      this.#at += bytes.byteLength
      this.#list.push(bytes.byteLength)
    } else {
      // A view would take all of its buffer with it.
      const own = bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes)
      if (!this.#transfer.includes(own.buffer as ArrayBuffer)) this.#transfer.push(own.buffer as ArrayBuffer)
      this.#list.push(APART, own)
    }
  }
}

/**
 * The messages of a batch. `copy` gives each payload a buffer of its own, for code that must not see its neighbours'; without it they are
 * views. Fields are handed on as they are: the reader checks the messages.
 * @throws Error it is no batch, or a payload lies outside its buffer
 */
export function unpack(raw: unknown, copy: boolean): unknown[] {
  const { list, bytes } = (raw ?? {}) as { list?: unknown; bytes?: unknown }
  if (!Array.isArray(list) || (bytes !== undefined && !(bytes instanceof Uint8Array))) throw new Error('not a batch')
  const all = bytes ?? new Uint8Array(0)
  const messages: unknown[] = []
  let next = 0
  let at = 0
  const takeBytes = (): unknown => {
    const size: unknown = list[next++]
    if (size === NONE) return undefined
    if (size === APART) return list[next++]
    const end = at + (Number.isSafeInteger(size) && (size as number) >= 0 ? (size as number) : Number.NaN)
    if (!(end <= all.byteLength)) throw new Error('a payload lies outside its batch')
    const start = at
    at = end
    return copy ? all.slice(start, end) : all.subarray(start, end)
  }
  while (next < list.length) {
    const type: unknown = list[next++]
    if (type === 'open') {
      const message = { type, call: list[next], method: list[next + 1], principal: list[next + 2], deadlineMs: list[next + 3], metadata: list[next + 4] }
      next += 5
      messages.push({ ...message, bytes: takeBytes() })
    } else if (type === 'data' || type === 'end') {
      const call: unknown = list[next++]
      messages.push({ type, call, bytes: takeBytes() })
    } else if (type === 'credit') {
      messages.push({ type, call: list[next], count: list[next + 1] })
      next += 2
    } else if (type === 'bytes') {
      const rest: unknown = list[next++]
      const bytes = takeBytes()
      // A text or an array would become an object with a key for each of its millions of parts; the reader refuses it as it is.
      messages.push(isPlain(rest) ? { ...rest, bytes } : rest)
    } else messages.push(list[next++])
  }
  return messages
}

function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}
