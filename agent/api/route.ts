/**
 * Routes the methods of services: takes their streams before grpc-js makes objects of them, and moves raw bytes between client and
 * supervisor, decoding nothing. Everything else, and every session, stays with grpc-js. docs/decisions/0010.
 */
import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2'
import { status as Status, type Server, type StatusObject } from '@grpc/grpc-js'
import { ERROR_TRAILER, type ErrorCode, OffboxError } from '../../core/errors.ts'
import type { Fields, WireError } from '../../services/sdk/wire.ts'
import { payloadOf, StreamPayload } from '../audit/payload.ts'
import { requestBytesMax } from '../limits.ts'
import type { CallHandle, ClientCall, Supervisor } from '../supervisor/types.ts'
import { GrpcStream, type GrpcStreamListener } from './grpc-stream.ts'

export interface RouteHooks<Admitted extends { readonly principal: string }> {
  /** Authorizes and audits. `mutates`: the method changes the device by itself. @throws ROLE_DENIED, LIMIT_REACHED */
  admit(call: { getPeer(): string }, path: string, mutates: boolean): Admitted
  /** For a method that changes the device: resolves once that is durably recorded. @throws STORE_FULL the call is not delivered */
  intent(admitted: Admitted): Promise<void>
  /** Called once for each admitted call, when it has ended. `payload`: hash of its request, as audit records have it; empty where it has none. */
  finished(admitted: Admitted, outcome: ErrorCode | 'OK' | 'CANCELLED', payload: string): void
  toStatus(error: unknown): StatusObject & { readonly errorCode: ErrorCode }
}

type Kind = ClientCall['kind']
type Method = ReturnType<Supervisor['methods']>[number]

/** What grpc-js keeps to itself; the version is pinned, and test/agent/api/route.test.ts notices a change. */
interface ServerInternals {
  _streamHandler(interceptors: unknown, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void
  _channelzHandler(interceptors: unknown, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void
  /** Counts for the idle limit of the session. */
  onStreamOpened(stream: ServerHttp2Stream): void
}

/**
 * Routes what `supervisor` serves now, and `update` what it serves then: call it from `SupervisorHost.methodsChanged`. To be called
 * before `server` gets its first port or injector. The agent's own methods cannot be taken: the supervisor refuses such bundles.
 */
export function attachRoutes<A extends { readonly principal: string }>(server: Server, supervisor: Supervisor, hooks: RouteHooks<A>): { update(): void } {
  let served = new Map<string, Method>()
  const internals = server as unknown as ServerInternals
  for (const name of ['_streamHandler', '_channelzHandler'] as const) {
    const known = internals[name]
    if (typeof known !== 'function' || typeof internals.onStreamOpened !== 'function')
      throw new Error(`grpc-js has no ${name}: another version than the pinned one`)
    internals[name] = (interceptors, stream, headers) => {
      const method = served.get(String(headers[':path']))
      if (method === undefined || !isGrpc(headers)) return known.call(server, interceptors, stream, headers)
      internals.onStreamOpened(stream)
      new RoutedCall(stream, headers, method, supervisor, hooks)
    }
  }
  const update = () => {
    served = new Map(supervisor.methods().map((method) => [method.path, method]))
  }
  update()
  return { update }
}

function isGrpc(headers: IncomingHttpHeaders): boolean {
  return headers['content-type']?.startsWith('application/grpc') === true && headers[':method'] === 'POST'
}

/** One call: what the stream tells goes to the supervisor, what the supervisor answers to the stream. */
class RoutedCall<A extends { readonly principal: string }> implements GrpcStreamListener, ClientCall {
  readonly method: string
  readonly kind: Kind
  principal = ''
  readonly deadlineMs: number | undefined
  readonly #stream: GrpcStream
  readonly #hooks: RouteHooks<A>
  #admitted: A | undefined
  #handle: CallHandle | undefined
  #ended = false
  /** Of a call that takes one, or gives one. */
  #request: Buffer | undefined
  #payload = ''
  /** Of a call that changes the device and takes a stream; of other streams, which may go on for ever, no hash is taken. */
  readonly #streamed: StreamPayload | undefined
  #answer: Uint8Array | undefined

  constructor(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, { path, kind, mutates }: Method, supervisor: Supervisor, hooks: RouteHooks<A>) {
    this.method = path
    this.kind = kind
    this.#hooks = hooks
    this.#streamed = mutates && !this.#takesOne ? new StreamPayload() : undefined
    this.#stream = new GrpcStream(stream, headers, requestBytesMax, this)
    this.deadlineMs = this.#stream.deadlineMs
    try {
      this.#admitted = hooks.admit(this.#stream, path, mutates)
      this.principal = this.#admitted.principal
      if (mutates) void this.#beginOnRecord(supervisor, this.#admitted)
      else this.#begin(supervisor)
    } catch (error) {
      this.#fail(error)
    }
  }

  #begin(supervisor: Supervisor): void {
    this.#handle = supervisor.call(this)
    this.#handle.onCredit = () => this.#stream.resume()
    this.#stream.read()
  }

  async #beginOnRecord(supervisor: Supervisor, admitted: A): Promise<void> {
    try {
      await this.#hooks.intent(admitted)
      if (!this.#ended) this.#begin(supervisor)
    } catch (error) {
      this.#fail(error)
    }
  }

  get metadata(): Record<string, string> {
    return this.#stream.metadata
  }

  get #takesOne(): boolean {
    return this.kind === 'unary' || this.kind === 'serverStream'
  }

  // From the client.

  message(bytes: Buffer): void {
    if (!this.#takesOne) {
      this.#streamed?.add(bytes)
      // A client faster than its service is paused; HTTP/2 then grants it no more window.
      if (this.#handle?.message(bytes) === false) this.#stream.pause()
    } else if (this.#request) this.broken(Status.UNIMPLEMENTED, `Received a second request message for ${this.method}, which takes one`)
    else this.#request = bytes
  }

  halfClose(): void {
    if (this.#takesOne) {
      if (this.#request) {
        // Here and not later: the buffer may be handed on for good.
        this.#payload = payloadOf(this.#request)
        this.#handle?.message(this.#request)
      } else this.broken(Status.UNIMPLEMENTED, `Received no request message for ${this.method}`)
      this.#request = undefined
    }
    this.#handle?.halfClose()
  }

  gone(): void {
    this.#finish('CANCELLED')
    this.#handle?.cancel()
  }

  deadlinePassed(): void {
    this.#fail(new OffboxError('DEADLINE_PASSED', 'the deadline that the caller set has passed'))
    this.#handle?.cancel()
  }

  drained(): void {
    this.#handle?.drained()
  }

  broken(code: number, text: string): void {
    if (this.#ended) return
    this.#stream.end(code, text)
    this.#finish(code === Status.RESOURCE_EXHAUSTED ? 'LIMIT_REACHED' : 'ARGUMENT_INVALID')
    this.#handle?.cancel()
  }

  // From the service.

  send(message: Uint8Array): boolean {
    if (this.#ended) return true
    if (this.kind === 'serverStream' || this.kind === 'bidi') return this.#stream.send(message)
    this.#answer = message
    return true
  }

  sendMetadata(fields: Fields): void {
    this.#stream.sendMetadata(fields)
  }

  end(error?: WireError, trailers?: Fields): void {
    if (this.#ended) return
    if (error?.status !== undefined) {
      const details: Fields = error.details === undefined ? {} : { 'grpc-status-details-bin': error.details }
      this.#stream.end(error.status, error.message, { ...trailers, ...details, [ERROR_TRAILER]: error.code })
      this.#finish(error.code)
    } else if (error) this.#fail(new OffboxError(error.code, error.message), trailers)
    else {
      this.#stream.end(Status.OK, 'OK', trailers, this.#answer)
      this.#finish('OK')
    }
  }

  #fail(error: unknown, trailers?: Fields): void {
    if (this.#ended) return
    const { code, details, metadata, errorCode } = this.#hooks.toStatus(error)
    this.#stream.end(code, details, { ...trailers, ...(metadata.toHttp2Headers() as Fields) })
    this.#finish(errorCode)
  }

  #finish(outcome: ErrorCode | 'OK' | 'CANCELLED'): void {
    if (this.#ended) return
    this.#ended = true
    if (this.#admitted) this.#hooks.finished(this.#admitted, outcome, this.#streamed?.hex ?? this.#payload)
  }
}
