/**
 * One gRPC call over one HTTP/2 stream, as raw bytes: framing, deadline, metadata, decompression, status. What grpc-js does for a
 * handler that wants objects, without what a router does not need (docs/decisions/0010). Not for use after `end` or `gone`.
 */
import { constants, type IncomingHttpHeaders, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import { promisify } from 'node:util'
import { gunzip, inflate } from 'node:zlib'
import { status as Status } from '@grpc/grpc-js'
import type { Fields } from '../../services/sdk/wire.ts'
import { afterTimeout } from './deadlines.ts'
import {
  Deframer,
  MessageTooLong,
  plainResponseHeaders,
  readHead,
  readMetadata,
  RESPONSE_HEADERS,
  writeFrame,
  writeFrames,
  writeTrailers,
  type Headers,
} from './grpc-wire.ts'

const DECOMPRESS: Readonly<Record<string, (bytes: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>>> = {
  gzip: promisify(gunzip),
  deflate: promisify(inflate),
}

export interface GrpcStreamListener {
  message(bytes: Buffer): void
  /** The client sends no more. */
  halfClose(): void
  /** The client is gone, or cancelled. Not after `end`. */
  gone(): void
  deadlinePassed(): void
  /** More may be sent. */
  drained(): void
  /** The request itself breaks the protocol, or a bound. End it with this. */
  broken(code: number, text: string): void
}

/** For a client to close a call that was answered before it had sent everything. */
const LINGER_MS = 5_000

/** Most calls end like this. */
const TRAILERS_OK = Object.freeze(writeTrailers(Status.OK, 'OK'))

const ignore = () => {}
const WAIT_FOR_TRAILERS = { waitForTrailers: true } as const
/** On the stream: its call, for listeners that all streams share. */
const CALL = Symbol('call')
type Carrier = ServerHttp2Stream & { [CALL]: GrpcStream }
let heard: Readonly<Record<'close' | 'end' | 'wantTrailers', (this: Carrier) => void>> & { data(this: Carrier, chunk: Buffer): void }
const peers = new WeakMap<object, string>()

export class GrpcStream {
  /** Unix milliseconds. */
  readonly deadlineMs: number | undefined
  readonly #stream: Carrier
  readonly #headers: Headers
  readonly #on: GrpcStreamListener
  readonly #encoding: string
  readonly #messageBytesMax: number
  readonly #deframer: Deframer
  #disarm: (() => void) | undefined
  #headersSent = false
  #ended = false
  #closed = false
  #fields: Fields | undefined
  #trailers: Fields = TRAILERS_OK
  #pending: Uint8Array[] = []
  #waitsForDrain = false
  /** Messages that may not be told yet: one before them is being decompressed, or the reader has enough. */
  #backlog: { readonly bytes: Buffer; readonly compressed: boolean }[] = []
  #decompressing = false
  #halfClosed = false
  #halfCloseTold = false
  #paused = false

  constructor(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, messageBytesMax: number, on: GrpcStreamListener) {
    this.#stream = stream as Carrier
    this.#stream[CALL] = this
    this.#headers = headers as Headers
    this.#on = on
    this.#messageBytesMax = messageBytesMax
    this.#deframer = new Deframer(messageBytesMax)
    const { timeoutMs, encoding } = readHead(this.#headers)
    this.#encoding = encoding
    if (timeoutMs !== undefined && !Number.isNaN(timeoutMs)) {
      const nowMs = Date.now()
      this.deadlineMs = nowMs + timeoutMs
      this.#disarm = afterTimeout(timeoutMs, nowMs, () => this.#on.deadlinePassed())
    }
    stream.on('close', heard.close)
    // What happens to a broken stream is told by its close.
    stream.on('error', ignore)
    if (timeoutMs !== undefined && Number.isNaN(timeoutMs))
      process.nextTick(() => on.broken(Status.INTERNAL, `Invalid grpc-timeout value "${String(headers['grpc-timeout'])}"`))
  }

  /** Messages are told from now on. */
  read(): void {
    this.#stream.on('end', heard.end)
    this.#stream.on('data', heard.data)
  }

  get metadata(): Record<string, string> {
    return readMetadata(this.#headers)
  }

  /** "address:port" */
  getPeer(): string {
    const session = this.#stream.session as ServerHttp2Session | undefined
    if (!session) return 'unknown'
    let peer = peers.get(session)
    if (peer === undefined) {
      const { socket } = session
      peer = `${socket?.remoteAddress}:${socket?.remotePort}`
      peers.set(session, peer)
    }
    return peer
  }

  pause(): void {
    this.#paused = true
    this.#stream.pause()
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#pump()
  }

  /** Initial metadata, before the first message; the first counts. False when it is too late. */
  sendMetadata(fields: Fields): boolean {
    if (this.#headersSent || this.#ended) return false
    this.#fields = fields
    this.#respond()
    return true
  }

  /** False: wait for `drained`. The messages of one turn leave together. */
  send(message: Uint8Array): boolean {
    if (this.#ended || this.#closed) return true
    if (this.#pending.push(message) === 1) queueMicrotask(() => this.#flush())
    return !this.#waitsForDrain
  }

  /** Ends the call. @param last one more message, for calls with one answer */
  end(code: number, text: string, trailers?: Fields, last?: Uint8Array): void {
    if (this.#ended) return
    this.#ended = true
    this.#disarm?.()
    const stream = this.#stream
    if (this.#closed || stream.destroyed || stream.closed) return
    const ok = code === Status.OK && !trailers
    const fields = ok ? TRAILERS_OK : { ...trailers, ...writeTrailers(code, text) }
    if (last) this.#pending.push(last)
    if (!this.#headersSent && this.#pending.length === 0) {
      this.#headersSent = true
      stream.respond({ ...RESPONSE_HEADERS, ...fields }, { endStream: true })
    } else {
      if (!this.#headersSent) this.#respond()
      this.#trailers = fields
      stream.on('wantTrailers', heard.wantTrailers)
      if (this.#pending.length === 0) stream.end()
      else stream.end(this.#takePending())
    }
    if (this.#halfClosed) return
    // The client may go on sending: what still comes is thrown away. Most close their side at once; a stream that stays is closed for them,
    // not sooner, since a reset that overtakes the status would hide it.
    stream.removeAllListeners('data')
    stream.resume()
    const cut = setTimeout(() => stream.close(constants.NGHTTP2_NO_ERROR), LINGER_MS)
    stream.once('close', () => clearTimeout(cut))
  }

  #respond(): void {
    this.#headersSent = true
    const { destroyed, closed } = this.#stream
    if (destroyed || closed) return
    this.#stream.respond(this.#fields ? { ...RESPONSE_HEADERS, ...this.#fields } : plainResponseHeaders(), WAIT_FOR_TRAILERS)
  }

  #flush(): void {
    if (this.#ended || this.#closed || this.#pending.length === 0) return
    if (this.#stream.destroyed || this.#stream.closed) return
    if (!this.#headersSent) this.#respond()
    if (this.#stream.write(this.#takePending()) || this.#waitsForDrain) return
    this.#waitsForDrain = true
    this.#stream.once('drain', () => {
      this.#waitsForDrain = false
      if (!this.#ended) this.#on.drained()
    })
  }

  #takePending(): Buffer {
    const pending = this.#pending
    this.#pending = []
    return pending.length === 1 && pending[0] ? writeFrame(pending[0]) : writeFrames(pending)
  }

  #arrived(chunk: Buffer): void {
    if (this.#ended) return
    try {
      this.#deframer.push(chunk, (bytes, compressed) => {
        if (this.#ended) return
        if (compressed || this.#paused || this.#decompressing || this.#backlog.length > 0) this.#backlog.push({ bytes, compressed })
        else this.#on.message(bytes)
      })
    } catch (error) {
      if (!(error instanceof MessageTooLong)) throw error
      this.#on.broken(Status.RESOURCE_EXHAUSTED, error.message)
    }
    if (this.#backlog.length > 0) this.#pump()
  }

  /** Hands out what waits, in order, as far as it may; nothing more is read until that is done. */
  #pump(): void {
    while (!this.#ended && !this.#paused && !this.#decompressing) {
      const next = this.#backlog.shift()
      if (!next) {
        if (this.#halfClosed) this.#tellHalfClose()
        else this.#stream.resume()
        return
      }
      if (next.compressed) void this.#decompress(next.bytes)
      else this.#on.message(next.bytes)
    }
    this.#stream.pause()
  }

  async #decompress(compressed: Buffer): Promise<void> {
    this.#decompressing = true
    const bytes = await this.#plain(compressed)
    this.#decompressing = false
    if (this.#ended || !bytes) return
    this.#on.message(bytes)
    this.#pump()
  }

  async #plain(bytes: Buffer): Promise<Buffer | undefined> {
    if (this.#encoding === 'identity') return bytes
    const decompress = Object.hasOwn(DECOMPRESS, this.#encoding) ? DECOMPRESS[this.#encoding] : undefined
    if (!decompress) {
      this.#on.broken(Status.UNIMPLEMENTED, `Received message compressed with unsupported encoding "${this.#encoding.slice(0, 64)}"`)
      return undefined
    }
    try {
      return await decompress(bytes, { maxOutputLength: this.#messageBytesMax })
    } catch (error) {
      const tooLong = (error as { code?: string }).code === 'ERR_BUFFER_TOO_LARGE'
      if (tooLong) this.#on.broken(Status.RESOURCE_EXHAUSTED, `Received message that decompresses to a size larger than ${this.#messageBytesMax}`)
      else this.#on.broken(Status.INTERNAL, 'Failed to decompress message')
      return undefined
    }
  }

  #endOfRequest(): void {
    this.#halfClosed = true
    if (!this.#decompressing && this.#backlog.length === 0) this.#tellHalfClose()
  }

  #tellHalfClose(): void {
    if (this.#ended || this.#halfCloseTold) return
    this.#halfCloseTold = true
    if (this.#deframer.partial) this.#on.broken(Status.INTERNAL, 'the request ended within a message')
    else this.#on.halfClose()
  }

  #close(): void {
    this.#closed = true
    this.#disarm?.()
    if (!this.#ended) this.#on.gone()
    this.#ended = true
  }
  static {
    // One set for all streams: to make and bind functions for each is felt.
    heard = {
      close() {
        this[CALL].#close()
      },
      end() {
        this[CALL].#endOfRequest()
      },
      data(chunk) {
        this[CALL].#arrived(chunk)
      },
      wantTrailers() {
        this.sendTrailers(this[CALL].#trailers)
      },
    }
  }
}
