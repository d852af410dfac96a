/**
 * The controller's gRPC servers: TLS 1.3 in front of our own (grpc-js alone keeps half-open connections for ever), typed
 * handlers behind it. Handlers throw OffboxError; the mapping to a gRPC status is here and nowhere else.
 */
import { chmod, unlink } from 'node:fs/promises'
import type { AddressInfo, Socket } from 'node:net'
import { createServer, type Server as TlsServer, type TLSSocket } from 'node:tls'
import * as grpc from '@grpc/grpc-js'
import { OffboxError } from '../../core/errors.ts'
import type { Method, Plain } from '../../proto/codec.ts'
import { type Failure, statusOf } from './status.ts'

export const SERVER_LIMITS = {
  /** A handshake takes one round trip; whoever needs longer holds a socket for nothing. */
  handshakeTimeoutMs: 10_000,
  /** Connections at once. A fleet of this size and its operators fit; more is a flood. */
  connectionsMax: 2_000,
  /** Connections at once from one address. */
  connectionsPerAddressMax: 64,
  /** Calls at once on one connection. */
  streamsMax: 64,
  /** A request is at most a chunk of 256 KiB with its frame. */
  messageBytesMax: 1024 * 1024,
  /** A connection without calls is closed after this. */
  idleMs: 10 * 60_000,
} as const

/** Who calls. */
export interface Caller {
  /** SPIFFE id in the client's certificate; empty where the server asks for none. */
  readonly principal: string
  /** "address:port"; "unix" for the socket in the home directory. */
  readonly peer: string
  /** Aborts when the caller is gone, has cancelled or its deadline has passed. */
  readonly signal: AbortSignal
}

/** One served method; made by the functions below. */
export interface Route {
  readonly path: string
  readonly kind: Method<unknown, unknown>['kind']
  install(server: grpc.Server, host: Host): void
}

interface Host {
  admit(caller: Caller, path: string): void
  finished(call: FinishedCall): void
  failed(error: unknown, path: string): Failure
}

export interface FinishedCall {
  readonly path: string
  readonly principal: string
  readonly peer: string
  /** Code of core/errors.ts, or "OK". */
  readonly outcome: string
  readonly durationMs: number
}

export interface RpcServerOptions {
  readonly keyPem: string
  readonly certificatePem: string
  /** Who may connect: clients need a certificate of this CA. Null: none is asked for (enrolment). */
  readonly clientCaPem: string | null
  readonly routes: readonly Route[]
  /** Throws to refuse a call, before its request is read. */
  admit(caller: Caller, path: string): void
  finished(call: FinishedCall): void
  /** An error that is our own bug, under the id that went out. */
  internal(error: unknown, id: string, path: string): void
  /** A connection that did not get as far as a call. */
  refused(reason: string, peer: string): void
}

/** Serves until `close`. Listens on any number of ports and unix sockets. */
export class RpcServer {
  readonly #server: grpc.Server
  readonly #injector: grpc.ConnectionInjector
  readonly #options: RpcServerOptions
  readonly #fronts: TlsServer[] = []
  readonly #sockets = new Set<Socket>()
  readonly #perAddress = new Map<string, number>()

  constructor(options: RpcServerOptions) {
    this.#options = options
    this.#server = new grpc.Server({
      'grpc.max_concurrent_streams': SERVER_LIMITS.streamsMax,
      'grpc.max_receive_message_length': SERVER_LIMITS.messageBytesMax,
      'grpc.max_connection_idle_ms': SERVER_LIMITS.idleMs,
      'grpc.keepalive_time_ms': 30_000,
      'grpc.keepalive_timeout_ms': 20_000,
    })
    const host: Host = {
      admit: (caller, path) => options.admit(caller, path),
      finished: (call) => options.finished(call),
      failed: (error, path) => statusOf(error, (id) => options.internal(error, id, path)),
    }
    for (const route of options.routes) route.install(this.#server, host)
    this.#injector = this.#server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  }

  /** @returns the port. @throws PORT_TAKEN in use, not permitted, or no such address */
  async listen(address: string, port: number): Promise<number> {
    const front = this.#front()
    await listening(front, () => front.listen({ host: address, port }), `${address}:${port}`)
    this.#fronts.push(front)
    return (front.address() as AddressInfo).port
  }

  /** On a unix socket, mode 0600. What a dead process left at `path` is replaced: hold the home's lock. @throws PORT_TAKEN */
  async listenUnix(path: string): Promise<void> {
    await unlink(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
    const front = this.#front()
    await listening(front, () => front.listen({ path }), path)
    this.#fronts.push(front)
    await chmod(path, 0o600)
  }

  /** Ends every connection. Calls in flight see their signal abort. */
  async close(): Promise<void> {
    const closed = this.#fronts.map((front) => new Promise<void>((resolve) => front.close(() => resolve())))
    this.#server.forceShutdown()
    this.#injector.destroy()
    for (const socket of this.#sockets) socket.destroy()
    await Promise.all(closed)
  }

  #front(): TlsServer {
    const { keyPem, certificatePem, clientCaPem } = this.#options
    const client = clientCaPem === null ? {} : { ca: clientCaPem, requestCert: true, rejectUnauthorized: true }
    const { handshakeTimeoutMs: handshakeTimeout } = SERVER_LIMITS
    const front = createServer({ key: keyPem, cert: certificatePem, minVersion: 'TLSv1.3', ALPNProtocols: ['h2'], handshakeTimeout, ...client })
    front.maxConnections = SERVER_LIMITS.connectionsMax
    front.on('connection', (socket: Socket) => this.#count(socket))
    front.on('tlsClientError', (error: Error, socket: TLSSocket) => {
      this.#options.refused(error.message, peerOf(socket))
      // After a handshake timeout Node only tells; the socket would stay.
      socket.destroy()
    })
    front.on('secureConnection', (socket: TLSSocket) => {
      socket.on('error', () => socket.destroy())
      // Whoever offers no ALPN at all gets here, too.
      if (socket.alpnProtocol !== 'h2') {
        this.#options.refused('the client does not speak h2', peerOf(socket))
        socket.destroy()
      } else {
        this.#injector.injectConnection(socket)
      }
    })
    return front
  }

  #count(socket: Socket): void {
    const address = socket.remoteAddress ?? 'unix'
    const open = (this.#perAddress.get(address) ?? 0) + 1
    this.#perAddress.set(address, open)
    this.#sockets.add(socket)
    socket.once('close', () => {
      this.#sockets.delete(socket)
      const left = (this.#perAddress.get(address) ?? 1) - 1
      if (left > 0) this.#perAddress.set(address, left)
      else this.#perAddress.delete(address)
    })
    if (open > SERVER_LIMITS.connectionsPerAddressMax) {
      this.#options.refused(`more than ${SERVER_LIMITS.connectionsPerAddressMax} connections`, address)
      socket.destroy()
    }
  }
}

/** Serves a unary method. */
export function unary<Req, Res>(method: Method<Req, Res>, handle: (request: Plain<Req>, caller: Caller) => Promise<Res>): Route {
  return route(method, (server, host) => {
    const handler: grpc.handleUnaryCall<Plain<Req>, Res> = (call, answer) => {
      run(host, method.path, call, async (caller) => answer(null, await handle(call.request, caller))).catch((failure) => answer(failure))
    }
    register(server, method, handler, 'unary')
  })
}

/** Serves a client stream. Leaving the loop over `requests` early ends the call with the answer. */
export function clientStream<Req, Res>(method: Method<Req, Res>, handle: (requests: AsyncIterable<Plain<Req>>, caller: Caller) => Promise<Res>): Route {
  return route(method, (server, host) => {
    const handler: grpc.handleClientStreamingCall<Plain<Req>, Res> = (call, answer) => {
      run(host, method.path, call, async (caller) => answer(null, await handle(call, caller))).catch((failure) => answer(failure))
    }
    register(server, method, handler, 'clientStream')
  })
}

/** Serves a server stream: `handle` is an async generator, ended through `caller.signal` and by leaving it. */
export function serverStream<Req, Res>(method: Method<Req, Res>, handle: (request: Plain<Req>, caller: Caller) => AsyncIterable<Res>): Route {
  return route(method, (server, host) => {
    const handler: grpc.handleServerStreamingCall<Plain<Req>, Res> = (call) => {
      run(host, method.path, call, async (caller) => {
        await pump(call, handle(call.request, caller), caller.signal)
        call.end()
      }).catch((failure) => call.emit('error', failure))
    }
    register(server, method, handler, 'serverStream')
  })
}

/** Serves a bidirectional stream. */
export function bidi<Req, Res>(method: Method<Req, Res>, handle: (requests: AsyncIterable<Plain<Req>>, caller: Caller) => AsyncIterable<Res>): Route {
  return route(method, (server, host) => {
    const handler: grpc.handleBidiStreamingCall<Plain<Req>, Res> = (call) => {
      run(host, method.path, call, async (caller) => {
        await pump(call, handle(call, caller), caller.signal)
        call.end()
      }).catch((failure) => call.emit('error', failure))
    }
    register(server, method, handler, 'bidi')
  })
}

function route<Req, Res>(method: Method<Req, Res>, install: Route['install']): Route {
  return { path: method.path, kind: method.kind, install }
}

function register<Req, Res>(server: grpc.Server, method: Method<Req, Res>, handler: grpc.UntypedHandleCall, type: string): void {
  const serialize = (value: Res) => Buffer.from(method.response.encode(value))
  const deserialize = (bytes: Buffer) => method.request.decode(bytes)
  server.register(method.path, handler, serialize, deserialize, type)
}

type ServerCall = grpc.ServerUnaryCall<never, never> | grpc.ServerReadableStream<never, never> | grpc.ServerWritableStream<never, never>
type AnyCall = Pick<ServerCall, 'getPeer' | 'getAuthContext'> & NodeJS.EventEmitter

/** Admits, runs and records one call. Rejects with what goes to the wire. */
async function run(host: Host, path: string, call: AnyCall, serve: (caller: Caller) => Promise<void>): Promise<void> {
  const gone = new AbortController()
  call.once('cancelled', () => gone.abort(new OffboxError('DEADLINE_PASSED', 'the caller is gone')))
  const caller: Caller = { principal: principalOf(call), peer: call.getPeer(), signal: gone.signal }
  const startMs = performance.now()
  let outcome = 'OK'
  try {
    host.admit(caller, path)
    await serve(caller)
  } catch (error) {
    const failure = host.failed(error, path)
    outcome = failure.offboxCode
    throw failure
  } finally {
    gone.abort()
    host.finished({ path, principal: caller.principal, peer: caller.peer, outcome, durationMs: performance.now() - startMs })
  }
}

/** The one SPIFFE id of the client's certificate; empty when there is none or more than one. */
function principalOf(call: AnyCall): string {
  const names = call.getAuthContext().sslPeerCertificate?.subjectaltname ?? ''
  // Node quotes a name that holds a comma; no name of ours does.
  if (names.includes('"')) return ''
  const uris = names.split(', ').filter((name) => name.startsWith('URI:spiffe://'))
  return uris.length === 1 ? (uris[0] ?? '').slice(4) : ''
}

interface Writer<T> {
  write(item: T): boolean
  once(event: 'drain', listener: () => void): unknown
  removeListener(event: 'drain', listener: () => void): unknown
}

/** Writes every item and waits whenever the client's buffer is full. */
async function pump<T>(call: Writer<T>, items: AsyncIterable<T>, signal: AbortSignal): Promise<void> {
  for await (const item of items) {
    if (signal.aborted) return
    if (call.write(item)) continue
    await new Promise<void>((resolve) => {
      const done = () => {
        call.removeListener('drain', done)
        signal.removeEventListener('abort', done)
        resolve()
      }
      call.once('drain', done)
      signal.addEventListener('abort', done, { once: true })
    })
  }
}

async function listening(front: TlsServer, listen: () => void, where: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    front.once('error', (error: NodeJS.ErrnoException) => {
      const why = { EADDRINUSE: 'is in use', EACCES: 'may not be used by this user', EADDRNOTAVAIL: 'is no address of this machine' }[error.code ?? '']
      reject(new OffboxError('PORT_TAKEN', `${where} ${why ?? `cannot be listened on: ${error.message}`}`, { cause: error }))
    })
    front.once('listening', () => {
      front.removeAllListeners('error')
      resolve()
    })
    listen()
  })
  // An accept that fails (too many open files) ends nothing: the next one may succeed.
  front.on('error', () => {})
}

function peerOf(socket: TLSSocket): string {
  return socket.remoteAddress ? `${socket.remoteAddress}:${socket.remotePort}` : 'unix'
}
