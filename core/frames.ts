/**
 * Messages over a byte stream: what a service in a process of its own and the agent say to each other. A frame is two lengths (uint32,
 * big-endian: header, bytes), a JSON header and the bytes of all its byte arrays, one after another. The header is `[messages, extras]`;
 * an extra puts back what JSON cannot say: `[kind, value, ...path]`. No deserializer of the runtime sees what the other side wrote.
 */

import { shapeOf } from './json-depth.ts'
import type { Manifest } from './manifest.ts'

export const FRAME_LIMITS = {
  /** JSON of one frame. The largest known message is a table of routes, under 2 MiB. */
  headerBytesMax: 8 * 1024 * 1024,
  /** Byte arrays of one frame together: the largest state that is handed over at a swap, and room for what shares its frame. */
  bytesMax: 65 * 1024 * 1024,
  /** A sender ends a frame once its payloads are this large; only a single one makes a larger frame. */
  frameBytesTarget: 256 * 1024,
  /** Deeper values are cut off by the sender and refused by the reader. */
  depthMax: 32,
  /** Objects and arrays of one header: they take more memory than their text, and the agent's is bounded. A table of routes has 50,000. */
  containersMax: 256 * 1024,
} as const

/** The only message that a process gets before it serves: which service it is. */
export interface ProcessStart {
  /** UTF-8 text of the payload. */
  readonly code: Uint8Array
  readonly manifest: Manifest
  readonly quiesceTimeoutMs: number
}

/** Byte arrays from here on are written as they are, smaller ones are copied into their frame. */
const COPIED_BYTES_MAX = 64 * 1024
const LENGTHS_BYTES = 8
/** The parser takes seconds for megabytes of brackets; up to here it is not worth a look. */
const UNLOOKED_BYTES_MAX = 16 * 1024
/** The header's own list and the list of messages are around what `depthMax` counts. */
const HEADER_DEPTH_MAX = FRAME_LIMITS.depthMax + 2

// Taken when the module is loaded: a sandbox may remove the global later.
const NodeBuffer = Buffer
const decoder = new TextDecoder('utf-8', { fatal: true })

type Extra = readonly [kind: 'bytes' | 'number' | 'bigint' | 'undefined', value: number | string, ...path: (string | number)[]]

/**
 * One frame with these messages; what to write, in order. Byte arrays of 64 KiB and more are not copied: they must not change until they
 * are written. Functions, symbols and the insides of maps and sets do not cross.
 */
export function encodeFrame(batch: readonly unknown[]): Uint8Array[] {
  const pieces: Uint8Array[] = []
  const frame = new FrameWriter()
  for (const message of batch) frame.add(message)
  frame.writeTo(pieces)
  return pieces
}

/** Writes pieces to a stream in one go. To cork it costs more than it saves for the one piece that most batches are. */
export function writeAll(stream: { cork(): void; uncork(): void; write(piece: Uint8Array): unknown }, pieces: readonly Uint8Array[]): void {
  if (pieces.length > 1) stream.cork()
  for (const piece of pieces) stream.write(piece)
  if (pieces.length > 1) stream.uncork()
}

/**
 * A batch that crosses as a few wrapped portions, each in a frame of its own. A portion that turns out too large for a frame goes in halves;
 * only a single message that is too large is left to the reader to refuse.
 * @param wrap makes of a portion what is to cross; called again for its halves, so it must leave the messages as they are
 */
export function framesOf<Message extends object>(batch: readonly Message[], wrap: (portion: readonly Message[]) => unknown): Uint8Array[] {
  const pieces: Uint8Array[] = []
  const write = (portion: readonly Message[]): void => {
    const frame = new FrameWriter()
    frame.add(wrap(portion))
    if (frame.fits || portion.length === 1) {
      frame.writeTo(pieces)
      return
    }
    const half = portion.length >> 1
    write(portion.slice(0, half))
    write(portion.slice(half))
  }
  for (const portion of portionsOf(batch)) write(portion)
  return pieces
}

/** A batch in portions whose payloads (`bytes`) stay within one frame; a payload alone may be larger than the target. */
function portionsOf<Message extends object>(batch: readonly Message[]): readonly (readonly Message[])[] {
  const sizeOf = (message: Message & { bytes?: unknown }) => (message.bytes instanceof Uint8Array ? message.bytes.byteLength : 0)
  const portions: Message[][] = []
  let sizeBytes = Number.POSITIVE_INFINITY
  for (const message of batch) {
    if (sizeBytes >= FRAME_LIMITS.frameBytesTarget) {
      portions.push([])
      sizeBytes = 0
    }
    portions.at(-1)?.push(message)
    sizeBytes += sizeOf(message)
  }
  return portions
}

class FrameWriter {
  #count = 0
  readonly #messages: string[] = []
  readonly #extras: Extra[] = []
  readonly #bytes: Uint8Array[] = []
  #text: string | undefined

  /** Whether the reader takes it. */
  get fits(): boolean {
    return NodeBuffer.byteLength(this.#header) <= FRAME_LIMITS.headerBytesMax && this.#bytesBytes <= FRAME_LIMITS.bytesMax
  }

  add(message: unknown): void {
    const text = JSON.stringify(this.#plain(message, [this.#count]) ?? null)
    this.#count++
    this.#messages.push(text)
  }

  writeTo(pieces: Uint8Array[]): void {
    const text = this.#header
    const headerBytes = NodeBuffer.byteLength(text)
    let copiedBytes = LENGTHS_BYTES + headerBytes
    for (const { byteLength } of this.#bytes) if (byteLength < COPIED_BYTES_MAX) copiedBytes += byteLength
    const copied = NodeBuffer.allocUnsafe(copiedBytes)
    copied.writeUInt32BE(headerBytes, 0)
    copied.writeUInt32BE(this.#bytesBytes, 4)
    let end = LENGTHS_BYTES + copied.write(text, LENGTHS_BYTES)
    let start = 0
    for (const bytes of this.#bytes) {
      if (bytes.byteLength < COPIED_BYTES_MAX) {
        copied.set(bytes, end)
        end += bytes.byteLength
        continue
      }
      if (end > start) pieces.push(copied.subarray(start, end))
      pieces.push(bytes)
      start = end
    }
    if (end > start) pieces.push(copied.subarray(start, end))
  }

  /** Made once, when all messages are in. */
  get #header(): string {
    this.#text ??= `[[${this.#messages.join()}],${JSON.stringify(this.#extras)}]`
    return this.#text
  }

  get #bytesBytes(): number {
    return this.#bytes.reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  /** `value` with what JSON cannot say taken out. Returns it unchanged where nothing had to be. */
  #plain(value: unknown, path: readonly (string | number)[]): unknown {
    if (typeof value === 'number' && !Number.isFinite(value)) return this.#extra('number', String(value), path)
    if (typeof value === 'bigint') return this.#extra('bigint', String(value), path)
    if (typeof value !== 'object' || value === null) return value
    if (value instanceof Uint8Array) {
      this.#bytes.push(value)
      return this.#extra('bytes', value.byteLength, path)
    }
    if (path.length > FRAME_LIMITS.depthMax) return null
    if (Array.isArray(value)) {
      return value.map((one, index) => {
        if (isSimple(one)) return one
        return one === undefined ? this.#extra('undefined', 0, [...path, index]) : this.#plain(one, [...path, index])
      })
    }
    const copy: Record<string, unknown> = {}
    for (const key of Object.keys(value)) {
      const one = (value as Record<string, unknown>)[key]
      if (key !== '__proto__' && one !== undefined) copy[key] = isSimple(one) ? one : this.#plain(one, [...path, key])
    }
    return copy
  }

  #extra(kind: Extra[0], value: number | string, path: readonly (string | number)[]): null {
    this.#extras.push([kind, value, ...path])
    return null
  }
}

/** By far the most are strings and small numbers: no path is made for them. */
function isSimple(value: unknown): boolean {
  return typeof value === 'string' || typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value))
}

type Phase = 'lengths' | 'header' | 'bytes'

/** Takes frames apart, whatever the pieces they come in. Byte arrays come out with buffers of their own, of exact size. */
export class FrameReader {
  readonly #onBatch: (messages: unknown[]) => void
  #phase: Phase = 'lengths'
  #target: Uint8Array = new Uint8Array(LENGTHS_BYTES)
  #filled = 0
  /** Ended in the present call of `push`. */
  #frames = 0
  #bytesBytes = 0
  #messages: unknown[] = []
  /** Byte arrays of this frame, the one being filled first. */
  #arrays: Uint8Array[] = []

  /** `onBatch` is called from within `push`, once a frame. */
  constructor(onBatch: (messages: unknown[]) => void) {
    this.#onBatch = onBatch
  }

  /** Whether a frame has begun and not ended. */
  get torn(): boolean {
    return this.#phase !== 'lengths' || this.#filled > 0
  }

  /**
   * Keeps nothing of `chunk`.
   * @param framesMax stops after so many frames
   * @returns how much of the chunk was read
   * @throws Error naming what is wrong; of no use afterwards
   */
  push(chunk: Uint8Array, framesMax = Number.POSITIVE_INFINITY): number {
    let at = 0
    for (this.#frames = 0; at < chunk.byteLength && this.#frames < framesMax; ) {
      const length = Math.min(this.#target.byteLength - this.#filled, chunk.byteLength - at)
      this.#target.set(chunk.subarray(at, at + length), this.#filled)
      this.#filled += length
      at += length
      if (this.#filled === this.#target.byteLength) this.#complete()
    }
    return at
  }

  #complete(): void {
    if (this.#phase === 'lengths') this.#readLengths()
    else if (this.#phase === 'header') this.#readHeader()
    else this.#nextArray()
  }

  #readLengths(): void {
    const view = new DataView(this.#target.buffer, 0, LENGTHS_BYTES)
    const headerBytes = view.getUint32(0)
    this.#bytesBytes = view.getUint32(4)
    if (headerBytes === 0 || headerBytes > FRAME_LIMITS.headerBytesMax) throw new Error(`a frame with a header of ${headerBytes} bytes`)
    if (this.#bytesBytes > FRAME_LIMITS.bytesMax) throw new Error(`a frame of ${this.#bytesBytes} bytes`)
    this.#expect('header', new Uint8Array(headerBytes))
  }

  #readHeader(): void {
    if (this.#target.byteLength > UNLOOKED_BYTES_MAX) {
      const { depth, containers } = shapeOf(this.#target)
      if (depth > HEADER_DEPTH_MAX) throw new Error('a frame that is nested too deep')
      if (containers > FRAME_LIMITS.containersMax) throw new Error(`a frame of more than ${FRAME_LIMITS.containersMax} objects and arrays`)
    }
    const header: unknown = JSON.parse(decoder.decode(this.#target))
    if (!Array.isArray(header) || header.length !== 2 || !Array.isArray(header[0]) || !Array.isArray(header[1])) throw new Error('a frame without a header')
    const [messages, extras] = header as [unknown[], unknown[]]
    this.#messages = messages
    this.#arrays = []
    let left = this.#bytesBytes
    for (const extra of extras) {
      const value = readExtra(extra)
      if (value instanceof Uint8Array) {
        left -= value.byteLength
        this.#arrays.push(value)
      }
      if (left < 0) break
      place(messages, extra as Extra, value)
    }
    if (left !== 0) throw new Error('a frame whose lengths disagree')
    this.#arrays.reverse()
    this.#fill()
  }

  #nextArray(): void {
    this.#arrays.pop()
    this.#fill()
  }

  /** Goes on with the next byte array that is not empty, or ends the frame. */
  #fill(): void {
    while (this.#arrays.at(-1)?.byteLength === 0) this.#arrays.pop()
    const next = this.#arrays.at(-1)
    if (next) {
      this.#expect('bytes', next)
      return
    }
    const messages = this.#messages
    this.#messages = []
    this.#expect('lengths', new Uint8Array(LENGTHS_BYTES))
    this.#frames++
    this.#onBatch(messages)
  }

  #expect(phase: Phase, target: Uint8Array): void {
    this.#phase = phase
    this.#target = target
    this.#filled = 0
  }
}

/** @throws Error */
function readExtra(extra: unknown): unknown {
  if (!Array.isArray(extra) || extra.length < 3 || extra.length > FRAME_LIMITS.depthMax + 4) throw new Error('a frame with a malformed extra')
  const [kind, value] = extra as unknown as Extra
  if (kind === 'bytes' && Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= FRAME_LIMITS.bytesMax)
    return new Uint8Array(value as number)
  if (kind === 'number' && typeof value === 'string') return Number(value)
  if (kind === 'bigint' && typeof value === 'string' && /^-?\d{1,100}$/.test(value)) return BigInt(value)
  if (kind === 'undefined') return undefined
  throw new Error('a frame with a malformed extra')
}

/** Only where the sender left room: a path cannot add a property, or reach a prototype. @throws Error */
function place(messages: unknown[], [, , ...path]: Extra, value: unknown): void {
  const last = path.pop() as string | number
  let target: unknown = messages
  for (const key of path) target = isOwn(target, key) ? target[key] : undefined
  if (!isOwn(target, last) || target[last] !== null || (Array.isArray(target) && last === 'length')) throw new Error('a frame with an extra out of place')
  target[last] = value
}

function isOwn(target: unknown, key: unknown): target is Record<string | number, unknown> {
  return typeof target === 'object' && target !== null && (typeof key === 'string' || typeof key === 'number') && Object.hasOwn(target, key)
}
