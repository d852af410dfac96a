/** The bytes and headers of gRPC over HTTP/2, server side. Pure. Source: grpc/doc/PROTOCOL-HTTP2.md of the gRPC project. */

/** Before every message: one flag (compressed), four bytes of length, big-endian. */
export const FRAME_BYTES = 5

export const RESPONSE_HEADERS = {
  ':status': 200,
  'content-type': 'application/grpc+proto',
  'grpc-encoding': 'identity',
  'grpc-accept-encoding': 'identity,deflate,gzip',
} as const

/** The same as node:http2 takes them with the least work: names and values in turn. It adds the date: each answer gets a list of its own. */
export function plainResponseHeaders(): string[] {
  return RESPONSE_LIST.slice()
}
const RESPONSE_LIST: readonly string[] = Object.entries(RESPONSE_HEADERS).flatMap(([name, value]) => [name, String(value)])

/** Request headers that are the protocol's own: handlers do not see them. */
const OWN_HEADERS: ReadonlySet<string> = new Set(['grpc-timeout', 'grpc-encoding', 'grpc-accept-encoding', 'accept-encoding', 'te', 'content-type'])

export type Headers = Readonly<Record<string, string | readonly string[] | number | undefined>>

/** What a request says of itself beside its metadata. */
export interface RequestHead {
  /** Milliseconds from now; undefined: none; NaN: malformed. */
  readonly timeoutMs: number | undefined
  readonly encoding: string
}

export function readHead(headers: Headers): RequestHead {
  const timeout = headers['grpc-timeout']
  return { timeoutMs: timeout === undefined ? undefined : readTimeoutMs(String(timeout)), encoding: String(headers['grpc-encoding'] ?? 'identity') }
}

const MS_PER_UNIT: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 0.001, n: 0.000001 }

/** The last that was read: a client mostly sends the same one. */
let known = { text: '', timeoutMs: Number.NaN }

function readTimeoutMs(text: string): number {
  if (text === known.text) return known.timeoutMs
  const match = /^(\d{1,8})([HMSmun])$/.exec(text)
  const timeoutMs = match ? Number(match[1]) * (MS_PER_UNIT[match[2] ?? ''] ?? Number.NaN) : Number.NaN
  known = { text, timeoutMs }
  return timeoutMs
}

/** Metadata as it came: values that were sent repeatedly joined by ", ", those of keys in "-bin" still in base64. */
export function readMetadata(headers: Headers): Record<string, string> {
  const metadata: Record<string, string> = {}
  for (const key in headers) {
    const value = headers[key]
    if (value === undefined || key.charCodeAt(0) === 58 || OWN_HEADERS.has(key)) continue
    metadata[key] = typeof value === 'string' ? value : Array.isArray(value) ? value.join(', ') : String(value)
  }
  return metadata
}

export function writeFrame(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_BYTES + message.byteLength)
  writeFrameInto(frame, 0, message)
  return frame
}

/** Several messages, each in a frame of its own, in one buffer. */
export function writeFrames(messages: readonly Uint8Array[]): Buffer {
  let sizeBytes = 0
  for (const message of messages) sizeBytes += FRAME_BYTES + message.byteLength
  const frames = Buffer.allocUnsafe(sizeBytes)
  let at = 0
  for (const message of messages) at = writeFrameInto(frames, at, message)
  return frames
}

function writeFrameInto(target: Buffer, at: number, message: Uint8Array): number {
  target[at] = 0
  target.writeUInt32BE(message.byteLength, at + 1)
  target.set(message, at + FRAME_BYTES)
  return at + FRAME_BYTES + message.byteLength
}

/** Trailers of an ended call. The message is percent-encoded UTF-8; a lone surrogate, which has none, becomes U+FFFD. */
export function writeTrailers(code: number, message: string): Record<string, string | string[]> {
  return { 'grpc-status': String(code), 'grpc-message': encodeURI(message.toWellFormed()) }
}

/** A message that is longer than the receiver takes. */
export class MessageTooLong extends Error {}

/** Pieces up to this size are copied together: kept one by one, each costs some hundred bytes, and may hold a whole read buffer. */
const SMALL_PIECE_BYTES_MAX = 1_024
const COLLECTED_BYTES = 4_096

/** Cuts what arrives into messages. A message in one piece is a view of it; others are put together once they are complete. */
export class Deframer {
  readonly #bytesMax: number
  /** What there is of a message, in order; the last ones may be views of the space before `#space`. */
  #pieces: Uint8Array[] = []
  #have = 0
  /** Length of the present message with its head; unknown before that is there. */
  #want = Number.POSITIVE_INFINITY
  /** Room for small pieces. */
  #space = Buffer.alloc(0)

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /** @throws MessageTooLong as soon as the length is known, before the message is kept */
  push(chunk: Buffer, take: (message: Buffer, compressed: boolean) => void): void {
    // Most requests are one message in one piece.
    if (this.#have === 0 && chunk.byteLength >= FRAME_BYTES && chunk.byteLength === FRAME_BYTES + this.#length(chunk)) {
      take(chunk.subarray(FRAME_BYTES), chunk[0] === 1)
      return
    }
    let rest = chunk
    if (this.#have > 0) {
      const headCame = this.#have < FRAME_BYTES && this.#have + chunk.byteLength >= FRAME_BYTES
      this.#keep(chunk)
      // At most four pieces came before this one.
      if (headCame) this.#want = FRAME_BYTES + this.#length(Buffer.concat(this.#pieces, this.#have))
      if (this.#have < this.#want) return
      rest = Buffer.concat(this.#pieces, this.#have)
      this.#pieces = []
      this.#have = 0
    }
    while (rest.byteLength > 0) {
      const whole = rest.byteLength >= FRAME_BYTES ? FRAME_BYTES + this.#length(rest) : Number.POSITIVE_INFINITY
      if (rest.byteLength < whole) {
        this.#want = whole
        this.#keep(rest)
        return
      }
      take(rest.subarray(FRAME_BYTES, whole), rest[0] === 1)
      rest = rest.subarray(whole)
    }
  }

  /** Whether a message has begun and is not complete. */
  get partial(): boolean {
    return this.#have > 0
  }

  #keep(piece: Buffer): void {
    this.#have += piece.byteLength
    if (piece.byteLength > SMALL_PIECE_BYTES_MAX) {
      this.#pieces.push(piece)
      return
    }
    if (this.#space.byteLength < piece.byteLength) this.#space = Buffer.allocUnsafeSlow(COLLECTED_BYTES)
    piece.copy(this.#space)
    const last = this.#pieces.at(-1)
    const begun = last !== undefined && last.buffer === this.#space.buffer && last.byteOffset + last.byteLength === this.#space.byteOffset
    if (begun) this.#pieces[this.#pieces.length - 1] = new Uint8Array(last.buffer, last.byteOffset, last.byteLength + piece.byteLength)
    else this.#pieces.push(this.#space.subarray(0, piece.byteLength))
    this.#space = this.#space.subarray(piece.byteLength)
  }

  #length(head: Buffer): number {
    const length = head.readUInt32BE(1)
    if (length > this.#bytesMax) throw new MessageTooLong(`Received message larger than max (${length} vs ${this.#bytesMax})`)
    return length
  }
}
