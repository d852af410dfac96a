/** The worker's side of client calls: each `open` runs a handler of the service; messages and credits go both ways. */
import { OffboxError } from '../../core/errors.ts'
import { base64Of, binaryOf, textOf, toFields, type Fields, type Metadata } from './metadata.ts'
import type { Call, Served } from './service.ts'
import { GRPC_STATUS, type GrpcStatus, type StatusError } from './status.ts'
import { exactCopy, toWireError, WIRE_LIMITS, type FromWorker, type ToWorker, type WireError } from './wire.ts'

type Open = Extract<ToWorker, { type: 'open' }>
type ForCall = Extract<ToWorker, { type: 'open' | 'data' | 'halfClose' | 'cancel' | 'credit' }>
export type Send = (message: FromWorker, owned?: Uint8Array) => void

/** A call under way, as far as those that are made for it need to know. */
export interface Serving {
  readonly id: number
  /** It was cancelled, or the service is stopping. */
  readonly aborted: boolean
  /** Its answer is given. */
  readonly ended: boolean
}
export type Within = <T>(serving: Serving, run: () => T) => T

const { streamWindowMessages, messageBytesMax } = WIRE_LIMITS

/** All open calls of one worker. `failed` is told of every handler error that is not an OffboxError: a bug of the service. */
export class ServedCalls {
  readonly #calls = new Map<number, ServedCall>()
  readonly #send: Send
  readonly #failed: (method: string, error: unknown) => void
  readonly #within: Within
  #methods: ReadonlyMap<string, Served> = new Map()

  /** @param within runs a handler, so that calls it makes of other services are known to be for the call it serves */
  constructor(send: Send, failed: (method: string, error: unknown) => void, within: Within = (_, run) => run()) {
    this.#send = send
    this.#failed = failed
    this.#within = within
  }

  /** Calls opened from now on go to these. */
  serve(methods: readonly Served[]): void {
    this.#methods = new Map(methods.map((one) => [one.path, one]))
  }

  receive(message: ForCall): void {
    const call = this.#calls.get(message.call)
    if (message.type === 'open') this.#open(message)
    else if (message.type === 'data') call?.incoming.push(message.bytes)
    else if (message.type === 'halfClose') call?.incoming.close()
    else if (message.type === 'credit') call?.outgoing.grant(message.count)
    else this.#cancel(message.call, call)
  }

  /** Aborts every call's signal; what their handlers still send is dropped. */
  abortAll(reason: string): void {
    for (const call of this.#calls.values()) call.abort(reason)
    this.#calls.clear()
  }

  #cancel(id: number, call: ServedCall | undefined): void {
    this.#calls.delete(id)
    call?.abort('cancelled')
    const cursor = call?.cursor
    // Answered even when the call has just ended: the agent waits for this.
    this.#send(cursor === undefined ? { type: 'cancelled', call: id } : { type: 'cancelled', call: id, cursor })
  }

  #open(open: Open): void {
    const served = this.#methods.get(open.method)
    if (!served) {
      this.#send({ type: 'end', call: open.call, error: { code: 'METHOD_NOT_FOUND', message: `the service does not serve ${open.method}` } })
      return
    }
    const call = new ServedCall(open, this.#send)
    this.#calls.set(open.call, call)
    this.#within(call, () => this.#run(served, open, call)).then(
      (bytes) => this.#end(open.call, call, bytes),
      (error) => this.#fail(open, call, error),
    )
  }

  async #run(served: Served, open: Open, call: ServedCall): Promise<Uint8Array | undefined> {
    const about = call.about
    const request = open.bytes ?? new Uint8Array(0)
    if (served.kind === 'unary') return reply(await served.handle(request, about))
    if (served.kind === 'clientStream') return reply(await served.handle(call.incoming, about))
    const messages = served.kind === 'bidi' ? served.handle(call.incoming, about) : served.handle(request, about)
    for await (const message of messages) {
      const bytes = reply(message)
      await call.outgoing.take()
      if (call.aborted) break
      call.begun = true
      this.#send({ type: 'data', call: open.call, bytes })
      call.sent()
    }
    return undefined
  }

  #end(id: number, call: ServedCall, bytes: Uint8Array | undefined): void {
    if (this.#calls.get(id) !== call) return
    this.#calls.delete(id)
    call.ended = true
    const { trailers } = call
    this.#send({ type: 'end', call: id, ...(bytes ? { bytes } : {}), ...(trailers ? { trailers } : {}) })
  }

  #fail(open: Open, call: ServedCall, error: unknown): void {
    if (this.#calls.get(open.call) !== call) return
    this.#calls.delete(open.call)
    call.ended = true
    const { trailers, ...wire } = toWireStatus(error)
    if (wire.code === 'INTERNAL') this.#failed(open.method, error)
    const fields = trailers ?? call.trailers
    this.#send({ type: 'end', call: open.call, error: wire, ...(fields ? { trailers: fields } : {}) })
  }
}

function cursorOf(text: unknown): string {
  if (typeof text === 'string' && text.length <= WIRE_LIMITS.cursorCharsMax) return text
  throw new OffboxError('LIMIT_REACHED', `a cursor is a text of up to ${WIRE_LIMITS.cursorCharsMax} characters`)
}

/** What a handler threw, as it crosses. A bundle brings its own copy of StatusError, so the class cannot be asked. */
function toWireStatus(error: unknown): WireError & { trailers?: Fields } {
  const wire = toWireError(error)
  if (wire.code !== 'SERVICE_STATUS') return wire
  const { status, details, trailers } = error as Partial<StatusError>
  try {
    const number = Object.hasOwn(GRPC_STATUS, String(status)) ? GRPC_STATUS[status as GrpcStatus] : GRPC_STATUS.UNKNOWN
    const text = details instanceof Uint8Array ? base64Of(details) : undefined
    if (text !== undefined && text.length > WIRE_LIMITS.statusDetailsCharsMax) throw new TypeError('the details of a status are too long')
    return { ...wire, status: number, ...(text === undefined ? {} : { details: text }), ...(trailers ? { trailers: toFields(trailers) } : {}) }
  } catch (error) {
    return toWireError(error)
  }
}

/** A copy of what a handler gave: it may keep its own, and give it again. */
function reply(bytes: unknown): Uint8Array {
  if (!(bytes instanceof Uint8Array)) throw new TypeError('a handler must answer with a Uint8Array')
  if (bytes.byteLength > messageBytesMax) throw new OffboxError('LIMIT_REACHED', `an answer of ${bytes.byteLength} bytes, more than ${messageBytesMax}`)
  return exactCopy(bytes)
}

/** Most calls are one request and one answer that nobody cancels: what only the others need is made when it is asked for. */
class ServedCall implements Serving {
  /** What the handler is given. */
  readonly about: Call
  readonly id: number
  ended = false
  /** Something of the answer has been sent. */
  begun = false
  trailers: Fields | undefined
  /** Where the stream stands, and where it will once the next message is sent. */
  cursor: string | undefined
  #marked: string | undefined
  readonly #send: Send
  #abort: AbortController | undefined
  #reason: OffboxError | undefined
  #incoming: Incoming | undefined
  #outgoing: Outgoing | undefined

  constructor({ call, principal, onBehalfOf, metadata, deadlineMs, cursor }: Open, send: Send) {
    this.id = call
    this.cursor = cursor
    this.#send = send
    const signal = () => this.#signal()
    this.about = {
      principal,
      metadata: textOf(metadata),
      get binaryMetadata() {
        return binaryOf(metadata)
      },
      get signal() {
        return signal()
      },
      sendMetadata: (own) => this.#sendMetadata(own),
      setTrailers: (own) => {
        this.trailers = toFields(own)
      },
      mark: (cursor) => {
        this.#marked = cursorOf(cursor)
      },
      begin: (cursor) => {
        this.cursor = cursorOf(cursor)
      },
      ...(cursor === undefined ? {} : { resumeAfter: cursor }),
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
      ...(onBehalfOf === undefined ? {} : { onBehalfOf }),
    }
  }

  get aborted(): boolean {
    return this.#reason !== undefined
  }

  get incoming(): Incoming {
    this.#incoming ??= new Incoming((count) => this.#send({ type: 'credit', call: this.id, count }))
    return this.#incoming
  }

  get outgoing(): Outgoing {
    this.#outgoing ??= new Outgoing()
    return this.#outgoing
  }

  /** The message that was marked has gone out. */
  sent(): void {
    this.cursor = this.#marked ?? this.cursor
  }

  abort(reason: string): void {
    this.#reason = new OffboxError('DEADLINE_PASSED', `the call was ended: ${reason}`)
    this.#abort?.abort(this.#reason)
    this.incoming.close()
    this.outgoing.grant(1)
  }

  #sendMetadata(metadata: Metadata): void {
    const fields = toFields(metadata)
    if (this.begun || this.ended) throw new TypeError('initial metadata comes before the first message, and once')
    this.begun = true
    if (!this.aborted) this.#send({ type: 'metadata', call: this.id, fields })
  }

  #signal(): AbortSignal {
    if (!this.#abort) {
      this.#abort = new AbortController()
      if (this.#reason) this.#abort.abort(this.#reason)
    }
    return this.#abort.signal
  }
}

/** The client's messages. For one reader; ends when the client half-closes or goes. */
export class Incoming implements AsyncIterable<Uint8Array> {
  readonly #sendCredit: (count: number) => void
  #queue: Uint8Array[] = []
  #closed = false
  #read = 0
  #wake: (() => void) | undefined

  constructor(sendCredit: (count: number) => void) {
    this.#sendCredit = sendCredit
  }

  push(bytes: Uint8Array): void {
    if (this.#closed) return
    this.#queue.push(bytes)
    this.#wake?.()
  }

  close(): void {
    this.#closed = true
    this.#wake?.()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    while (true) {
      const bytes = this.#queue.shift()
      if (bytes) {
        this.#read++
        if (this.#read >= streamWindowMessages / 2) {
          this.#sendCredit(this.#read)
          this.#read = 0
        }
        yield bytes
      } else if (this.#closed) {
        return
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
        this.#wake = undefined
      }
    }
  }
}

/** How many messages the agent will still take on a stream. */
export class Outgoing {
  #credit: number = streamWindowMessages
  #wake: (() => void) | undefined

  grant(count: number): void {
    this.#credit += count
    this.#wake?.()
  }

  async take(): Promise<void> {
    while (this.#credit <= 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      this.#wake = undefined
    }
    this.#credit--
  }
}
