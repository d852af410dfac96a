/** Typed gRPC calls over one channel: methods from proto/gen, failures as OffboxError with the code the other side gave. */
import * as grpc from '@grpc/grpc-js'
import { ERROR_TRAILER, isErrorCode, messageOf, OffboxError, type ErrorCode } from '../../core/errors.ts'
import type { Method, Plain } from '../../proto/codec.ts'

export interface RpcTarget {
  /** "address:port" or "unix:/path". */
  readonly target: string
  /** Name that the server's certificate must carry. */
  readonly serverName: string
  readonly caPem: string
  /** Client certificate; left out only for enrolment. */
  readonly identity?: { readonly keyPem: string; readonly certificatePem: string }
}

export interface CallOptions {
  /** Milliseconds from now; default 30,000. Streams: default none. */
  readonly deadlineMs?: number
  readonly signal?: AbortSignal
}

/** A failed call. `status` is what came over the wire; `code` is the other side's own, or that of `unreachable` below. */
export class RpcError extends OffboxError {
  readonly status: grpc.status
  constructor(code: ErrorCode, status: grpc.status, message: string, options?: { cause?: unknown }) {
    super(code, message, options)
    this.status = status
  }
}

const DEADLINE_MS = 30_000

/** One channel. `close` it: a channel left open keeps the process alive. Several calls may run at once. */
export class RpcClient {
  readonly #client: grpc.Client
  readonly #unreachable: ErrorCode

  /** @param unreachable code for a server that cannot be reached */
  constructor(to: RpcTarget, unreachable: ErrorCode = 'DEVICE_UNREACHABLE') {
    const { identity } = to
    const pem = (text: string) => Buffer.from(text)
    const credentials = identity
      ? grpc.credentials.createSsl(pem(to.caPem), pem(identity.keyPem), pem(identity.certificatePem))
      : grpc.credentials.createSsl(pem(to.caPem))
    this.#unreachable = unreachable
    this.#client = new grpc.Client(to.target, credentials, {
      'grpc.ssl_target_name_override': to.serverName,
      'grpc.default_authority': to.serverName,
      // Every client has connections of its own, so that "a fresh connection" means what it says.
      'grpc.use_local_subchannel_pool': 1,
      'grpc.max_receive_message_length': 16 * 1024 * 1024,
      'grpc.initial_reconnect_backoff_ms': 200,
      'grpc.max_reconnect_backoff_ms': 2_000,
      'grpc.keepalive_time_ms': 10_000,
      'grpc.keepalive_timeout_ms': 10_000,
      'grpc.enable_retries': 0,
    })
  }

  close(): void {
    this.#client.close()
  }

  /** @throws RpcError */
  async unary<Req, Res>(method: Method<Req, Res>, request: Req, options: CallOptions = {}): Promise<Plain<Res>> {
    const { path, request: from, response: to } = method
    return await new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(path, serialize(from), deserialize(to), request, metadata(), unaryOptions(options), (error, value) => {
        release()
        if (error) reject(this.#asError(path, error))
        else resolve(value as Plain<Res>)
      })
      // A signal that lives as long as the controller must not keep every call that was ever made.
      const release = onAbort(options.signal, () => call.cancel())
    })
  }

  /** Sends all of `requests`, then awaits the answer. @throws RpcError */
  async clientStream<Req, Res>(method: Method<Req, Res>, requests: AsyncIterable<Req> | Iterable<Req>, options: CallOptions = {}): Promise<Plain<Res>> {
    const { path, request: from, response: to } = method
    return await new Promise((resolve, reject) => {
      const call = this.#client.makeClientStreamRequest(path, serialize(from), deserialize(to), metadata(), unaryOptions(options), (error, value) => {
        release()
        if (error) reject(this.#asError(path, error))
        else resolve(value as Plain<Res>)
      })
      const release = onAbort(options.signal, () => call.cancel())
      // A stream that the server ended early is reported by the callback above; writing to it afterwards is harmless.
      call.on('error', () => {})
      writeAll(call, requests).catch((error) => {
        call.cancel()
        reject(error)
      })
    })
  }

  /** Leaving the loop cancels the call. @throws RpcError from the loop */
  serverStream<Req, Res>(method: Method<Req, Res>, request: Req, options: CallOptions = {}): AsyncIterable<Plain<Res>> {
    const { path, request: from, response: to } = method
    const open = () => this.#client.makeServerStreamRequest(path, serialize(from), deserialize(to), request, metadata(), streamOptions(options))
    return this.#iterate<Plain<Res>>(path, open, options.signal)
  }

  /** `send` resolves when more may be sent. Leaving `responses` cancels the call. */
  bidi<Req, Res>(
    method: Method<Req, Res>,
    options: CallOptions = {},
  ): { send(request: Req): Promise<void>; end(): void; cancel(): void; responses: AsyncIterable<Plain<Res>> } {
    const { path, request: from, response: to } = method
    const call = this.#client.makeBidiStreamRequest(path, serialize(from), deserialize(to), metadata(), streamOptions(options))
    return {
      send: async (request) => await write(call, request),
      end: () => call.end(),
      cancel: () => call.cancel(),
      responses: this.#iterate<Plain<Res>>(path, () => call, options.signal),
    }
  }

  async *#iterate<T>(path: string, open: () => grpc.ClientReadableStream<T> | grpc.ClientDuplexStream<never, T>, signal?: AbortSignal): AsyncGenerator<T> {
    const call = open()
    const stop = onAbort(signal, () => call.cancel())
    try {
      for await (const message of call) yield message as T
    } catch (error) {
      if (signal?.aborted) return
      throw this.#asError(path, error as grpc.ServiceError)
    } finally {
      stop()
      call.on('error', () => {})
      call.cancel()
    }
  }

  #asError(path: string, error: grpc.ServiceError): RpcError {
    const code = error.metadata?.get(ERROR_TRAILER)[0]
    if (isErrorCode(code)) {
      const text = error.details ?? messageOf(error)
      return new RpcError(code, error.code, text.startsWith(`${code}: `) ? text.slice(code.length + 2) : text, { cause: error })
    }
    const mapped: ErrorCode = error.code === grpc.status.DEADLINE_EXCEEDED ? 'DEADLINE_PASSED' : this.#unreachable
    return new RpcError(mapped, error.code, `${path}: ${error.details || messageOf(error)}`, { cause: error })
  }
}

interface Codec<T> {
  encode(value: T): Uint8Array
}
const serialize =
  <T>(codec: Codec<T>) =>
  (value: T) =>
    Buffer.from(codec.encode(value))
const deserialize =
  <T>(codec: { decode(bytes: Uint8Array): T }) =>
  (bytes: Buffer) =>
    codec.decode(bytes)
const metadata = () => new grpc.Metadata()
const unaryOptions = (options: CallOptions): grpc.CallOptions => ({ deadline: Date.now() + (options.deadlineMs ?? DEADLINE_MS) })
const streamOptions = (options: CallOptions): grpc.CallOptions => (options.deadlineMs ? { deadline: Date.now() + options.deadlineMs } : {})

function onAbort(signal: AbortSignal | undefined, act: () => void): () => void {
  if (!signal) return () => {}
  if (signal.aborted) act()
  signal.addEventListener('abort', act, { once: true })
  return () => signal.removeEventListener('abort', act)
}

async function writeAll<T>(call: grpc.ClientWritableStream<T>, requests: AsyncIterable<T> | Iterable<T>): Promise<void> {
  for await (const request of requests) await write(call, request)
  call.end()
}

/** Resolves when the transport has room again, or the call has ended. */
async function write<T>(
  call: { write(value: T): boolean; once(event: string, listener: () => void): unknown; removeListener(event: string, listener: () => void): unknown },
  value: T,
): Promise<void> {
  if (call.write(value)) return
  await new Promise<void>((resolve) => {
    const events = ['drain', 'close', 'error', 'end', 'status']
    const done = () => {
      for (const event of events) call.removeListener(event, done)
      resolve()
    }
    for (const event of events) call.once(event, done)
  })
}
