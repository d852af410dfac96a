/**
 * The device's one port: TLS 1.3 with client certificates of the fleet, HTTP/2 only, bounded in every way, feeding grpc-js
 * through its connection injector. docs: design.md, decision 7; findings.md, "One port".
 */
import type { Socket } from 'node:net'
import { createServer } from 'node:tls'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Identity } from '../boot/identity.ts'
import * as limits from '../limits.ts'
import { type Principal, principalOf } from './authorize.ts'
import { Refusals } from './refusals.ts'

export interface Connection {
  readonly principal: Principal
  /** Serial number of the client certificate, hex, lower case. */
  readonly serial: string
  readonly openedAtMonotonicMs: number
}

export interface FrontOptions {
  readonly address: string
  readonly port: number
  readonly fleet: string
  readonly caPem: string
  readonly identity: Identity
  readonly clock: Clock
  readonly log: { info(fields: object, message: string): void; warn(fields: object, message: string): void }
  /** Told of every connection that is refused before it gets as far as a call. */
  readonly refused?: (fields: object, message: string) => void
}

export interface Front {
  /** Register methods on it; never call its `start` or `bindAsync`. */
  readonly server: Server
  /** Resolves with the port when it accepts connections. @throws PORT_TAKEN */
  listen(): Promise<number>
  /** New connections see the new certificate; those that are open stay. @throws Error key and certificate do not match */
  rotate(identity: Pick<Identity, 'keyPem' | 'chainPem'>): void
  /** The connection a call came over, by `call.getPeer()`. */
  connection(peer: string): Connection | undefined
  /** Connections refused since the start. */
  readonly refused: number
  close(): Promise<void>
}

const SERVER_OPTIONS = {
  'grpc.max_concurrent_streams': limits.streamsPerConnectionMax,
  'grpc.max_receive_message_length': limits.requestBytesMax,
  'grpc-node.max_session_memory': limits.sessionMemoryMbMax,
  'grpc.keepalive_time_ms': limits.keepaliveMs,
  'grpc.keepalive_timeout_ms': limits.keepaliveTimeoutMs,
  'grpc.max_connection_idle_ms': limits.connectionIdleMs,
  'grpc.enable_channelz': 0,
} as const

export function createFront(options: FrontOptions): Front {
  const { clock, log, fleet } = options
  const server = new Server(SERVER_OPTIONS)
  // Made when it listens: grpc-js binds its stream handler then, which attachRoutes (route.ts) has replaced.
  let injector: ReturnType<Server['createConnectionInjector']> | undefined
  const connections = new Map<string, Connection>()
  const sockets = new Set<Socket>()
  /** When each peer's TCP connection came, before its handshake: a slow handshake must not make a connection look fresh. */
  const openedAtMs = new Map<string, number>()
  const perAddress = new Map<string, number>()
  const refusals = new Refusals(clock, (fields, message) => log.warn(fields, message), options.refused)

  const listener = createServer({
    ...secureContext(options.identity, options.caPem),
    requestCert: true,
    rejectUnauthorized: true,
    ALPNProtocols: ['h2'],
    handshakeTimeout: limits.handshakeTimeoutMs,
  })
  // Before any handshake: a bound on what strangers can hold open.
  listener.on('connection', (socket: Socket) => {
    const address = socket.remoteAddress ?? ''
    const held = perAddress.get(address) ?? 0
    if (sockets.size >= limits.connectionsMax || held >= limits.connectionsPerAddressMax) {
      refusals.note({ address, open: sockets.size, ofAddress: held }, 'connection refused: too many')
      socket.destroy()
      return
    }
    const peer = peerOf(socket)
    sockets.add(socket)
    openedAtMs.set(peer, clock.monotonicMs())
    perAddress.set(address, held + 1)
    socket.once('close', () => {
      sockets.delete(socket)
      openedAtMs.delete(peer)
      const left = (perAddress.get(address) ?? 1) - 1
      if (left > 0) perAddress.set(address, left)
      else perAddress.delete(address)
    })
  })
  listener.on('tlsClientError', (error, socket) => {
    refusals.note({ address: socket.remoteAddress, reason: socket.authorizationError ?? error.message }, 'TLS handshake refused')
    // Without this a peer that never speaks would keep its socket for ever.
    socket.destroy()
  })
  listener.on('secureConnection', (socket) => {
    const peer = peerOf(socket)
    const openedAtMonotonicMs = openedAtMs.get(peer)
    const certificate = socket.getPeerX509Certificate()
    const principal = socket.authorized && certificate ? principalOf(certificate.subjectAltName, fleet) : null
    if (!principal || !certificate || openedAtMonotonicMs === undefined || socket.alpnProtocol !== 'h2') {
      refusals.note({ address: socket.remoteAddress, subjectAltName: certificate?.subjectAltName, alpn: socket.alpnProtocol }, 'connection refused')
      socket.destroy()
      return
    }
    connections.set(peer, { principal, serial: certificate.serialNumber.toLowerCase(), openedAtMonotonicMs })
    socket.once('close', () => connections.delete(peer))
    socket.on('error', (error) => log.info({ peer, error: error.message }, 'connection failed'))
    injector?.injectConnection(socket)
  })

  return {
    server,
    listen: async () => {
      injector = server.createConnectionInjector(ServerCredentials.createInsecure())
      await new Promise<void>((resolve, reject) => {
        listener.once('error', (error) => reject(portError(error, options)))
        listener.listen({ host: options.address, port: options.port, backlog: 128 }, resolve)
      })
      listener.removeAllListeners('error')
      listener.on('error', (error) => log.warn({ err: error }, 'listener failed'))
      return (listener.address() as { port: number }).port
    },
    rotate: (identity) => listener.setSecureContext(secureContext(identity, options.caPem)),
    connection: (peer) => connections.get(peer),
    get refused() {
      return refusals.count
    },
    close: async () => {
      const closed = new Promise<void>((resolve) => listener.close(() => resolve()))
      injector?.drain(limits.drainMs)
      const cut = setTimeout(() => {
        injector?.destroy()
        for (const socket of sockets) socket.destroy()
      }, limits.drainMs)
      await closed
      clearTimeout(cut)
      injector?.destroy()
      server.forceShutdown()
    },
  }
}

/** All of it, each time: `setSecureContext` replaces everything, so what is left out falls back to weaker defaults. */
function secureContext(identity: Pick<Identity, 'keyPem' | 'chainPem'>, caPem: string) {
  return { key: identity.keyPem, cert: identity.chainPem, ca: caPem, minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3' } as const
}

/** As grpc-js's `call.getPeer()` writes it. */
function peerOf(socket: Socket): string {
  return `${socket.remoteAddress}:${socket.remotePort}`
}

function portError(error: Error, { address, port }: FrontOptions): unknown {
  const { code } = error as { code?: string }
  const why: Record<string, string> = {
    EADDRINUSE: 'another program listens there',
    EACCES: 'it is not permitted',
    EADDRNOTAVAIL: 'this machine does not have the address',
  }
  if (!code || !why[code]) return error
  return new OffboxError('PORT_TAKEN', `cannot listen on ${address}:${port}: ${why[code]}`, { cause: error })
}
