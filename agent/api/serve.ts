/** Registers the agent's own methods with grpc-js: every call is admitted, decoded, handled, mapped and audited here. */
import type { Server, ServerDuplexStream, ServerReadableStream, ServerUnaryCall, ServerWritableStream } from '@grpc/grpc-js'
import type { sendUnaryData, StatusObject } from '@grpc/grpc-js'
import { type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import type { Method, Plain } from '../../proto/codec.ts'
import { payloadOf, StreamPayload } from '../audit/payload.ts'
import type { Admitted, Gate } from './gate.ts'
import { type ErrorLog, toStatus } from './status.ts'

/** What a handler learns about its call. */
export interface CallContext {
  /** SPIFFE id of the caller. */
  readonly principal: string
  readonly connectionOpenedAtMs: number
  /** Aborts when the caller cancels or is gone. */
  readonly signal: AbortSignal
}

export interface ServeOptions {
  readonly server: Server
  readonly gate: Gate
  readonly log: ErrorLog
}

/** What the kinds of grpc-js calls have in common. */
interface AnyCall {
  getPeer(): string
  on(event: string, listener: () => void): unknown
}

/** Methods are registered with raw bytes, so that a request that does not decode is answered by our own table of errors. */
export class Serve {
  readonly #options: ServeOptions

  constructor(options: ServeOptions) {
    this.#options = options
  }

  unary<Req, Res>(method: Method<Req, Res>, handle: (request: Plain<Req>, context: CallContext) => Promise<Res> | Res): void {
    this.#register(method.path, 'unary', (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => {
      const run = async (context: CallContext) => Buffer.from(method.response.encode(await handle(decode(method, call.request), context)))
      void this.#run(call, method.path, run, (status, result) => answer(status, result), { hex: payloadOf(call.request) })
    })
  }

  clientStream<Req, Res>(method: Method<Req, Res>, handle: (requests: AsyncIterable<Plain<Req>>, context: CallContext) => Promise<Res>): void {
    this.#register(method.path, 'clientStream', (call: ServerReadableStream<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => {
      const payload = new StreamPayload()
      const run = async (context: CallContext) => Buffer.from(method.response.encode(await handle(decodeAll(method, call, payload), context)))
      void this.#run(call, method.path, run, (status, result) => answer(status, result), payload)
    })
  }

  serverStream<Req, Res>(method: Method<Req, Res>, handle: (request: Plain<Req>, context: CallContext) => AsyncIterable<Res>): void {
    this.#register(method.path, 'serverStream', (call: ServerWritableStream<Buffer, Buffer>) => {
      const run = async (context: CallContext) => {
        for await (const item of handle(decode(method, call.request), context)) {
          if (context.signal.aborted) return
          if (!call.write(Buffer.from(method.response.encode(item)))) await drained(call, context.signal)
        }
      }
      void this.#run(call, method.path, run, (status) => (status ? call.emit('error', status) : call.end()), { hex: payloadOf(call.request) })
    })
  }

  bidi<Req, Res>(method: Method<Req, Res>, handle: (requests: AsyncIterable<Plain<Req>>, context: CallContext) => AsyncIterable<Res>): void {
    this.#register(method.path, 'bidi', (call: ServerDuplexStream<Buffer, Buffer>) => {
      const payload = new StreamPayload()
      const run = async (context: CallContext) => {
        for await (const item of handle(decodeAll(method, call, payload), context)) {
          if (context.signal.aborted) return
          if (!call.write(Buffer.from(method.response.encode(item)))) await drained(call, context.signal)
        }
      }
      void this.#run(call, method.path, run, (status) => (status ? call.emit('error', status) : call.end()), payload)
    })
  }

  /**
   * Answers calls of methods that nobody serves; grpc-js would do so by itself, unaudited and without our trailer. It has no public
   * way to say so: `_retrieveHandler` is internal, the version is pinned, and test/agent/api/front.test.ts notices a change.
   */
  others(): void {
    const internal = this.#options.server as unknown as { _retrieveHandler(path: string): unknown }
    const known = internal._retrieveHandler.bind(this.#options.server)
    const same = (bytes: Buffer) => bytes
    internal._retrieveHandler = (path) => {
      const func = (call: ServerWritableStream<Buffer, Buffer>) => {
        const run = async () => {
          throw new OffboxError('METHOD_NOT_FOUND', `nothing on this device serves ${path}`)
        }
        void this.#run(call, path, run, (status) => call.emit('error', status), { hex: '' })
      }
      return known(path) ?? { func, serialize: same, deserialize: same, type: 'bidi', path }
    }
  }

  async #run<T>(
    call: AnyCall,
    path: string,
    run: (context: CallContext) => Promise<T>,
    answer: (status: StatusObject | null, result?: T) => void,
    payload: { readonly hex: string },
  ): Promise<void> {
    const ended = new AbortController()
    call.on('cancelled', () => ended.abort())
    // grpc-js reports a broken stream here as well; the handler learns of it through the signal.
    call.on('error', () => ended.abort())
    let admitted: Admitted | null = null
    let outcome: ErrorCode | 'OK' | 'CANCELLED' = 'OK'
    try {
      admitted = this.#options.gate.admit(call, path)
      const { principal, mutates, connectionOpenedAtMs } = admitted
      // A revert is the way out of trouble: a log that cannot be written must not stand in its way.
      if (mutates) await this.#intent(admitted, payload.hex, path.endsWith('/Revert'))
      const result = await run({ principal, connectionOpenedAtMs, signal: ended.signal })
      if (ended.signal.aborted) outcome = 'CANCELLED'
      else answer(null, result)
    } catch (error) {
      const status = toStatus(error, this.#options.log)
      outcome = ended.signal.aborted ? 'CANCELLED' : status.errorCode
      if (!ended.signal.aborted) answer(status)
    } finally {
      if (admitted) this.#options.gate.finished(admitted, outcome, payload.hex)
    }
  }

  async #intent(admitted: Admitted, payload: string, evenUnrecorded: boolean): Promise<void> {
    try {
      await this.#options.gate.intent(admitted, payload, evenUnrecorded)
    } catch (error) {
      if (!evenUnrecorded) throw error
      this.#options.log.error({ err: error, method: admitted.path }, 'an intent could not be recorded; a revert goes on all the same')
    }
  }

  #register(path: string, kind: Method<unknown, unknown>['kind'], handler: unknown): void {
    const same = (bytes: Buffer) => bytes
    // The handler's shape follows from `kind`, which the type of `register` cannot tell.
    const registered = this.#options.server.register(path, handler as never, same, same, kind)
    if (!registered) throw new Error(`${path} is registered twice`)
  }
}

function decode<Req, Res>(method: Method<Req, Res>, bytes: Uint8Array): Plain<Req> {
  try {
    return method.request.decode(bytes)
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `the request is not a valid message: ${messageOf(error)}`, { cause: error })
  }
}

async function* decodeAll<Req, Res>(method: Method<Req, Res>, call: ServerReadableStream<Buffer, Buffer>, payload: StreamPayload): AsyncIterable<Plain<Req>> {
  // In grpc-js this stream is the writable side of the answer as well: a plain `for await` would destroy it at its end.
  for await (const bytes of call.iterator({ destroyOnReturn: false })) {
    payload.add(bytes as Buffer)
    yield decode(method, bytes as Buffer)
  }
}

async function drained(call: ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = () => {
      call.removeListener('drain', done)
      signal.removeEventListener('abort', done)
      resolve()
    }
    call.once('drain', done)
    signal.addEventListener('abort', done, { once: true })
    if (signal.aborted) done()
  })
}
