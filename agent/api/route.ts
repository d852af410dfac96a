/** Routes the methods of services: registers them with grpc-js and moves raw bytes between client and supervisor, decoding nothing. */
import type {
  Metadata,
  sendUnaryData,
  Server,
  ServerDuplexStream,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
  StatusObject,
} from '@grpc/grpc-js'
import { type ErrorCode, OffboxError } from '../../core/errors.ts'
import type { CallHandle, ClientCall, Supervisor } from '../supervisor/types.ts'

export interface RouteHooks<Admitted extends { readonly principal: string }> {
  /** Authorizes and audits. @throws ROLE_DENIED, LIMIT_REACHED */
  admit(call: { getPeer(): string }, path: string): Admitted
  /** Called once for each admitted call, when it has ended. */
  finished(admitted: Admitted, outcome: ErrorCode | 'OK' | 'CANCELLED'): void
  toStatus(error: unknown): StatusObject & { readonly errorCode: ErrorCode }
}

type Kind = ClientCall['kind']
/** What the four kinds of calls in grpc-js have in common. */
interface AnyCall {
  readonly metadata: Metadata
  readonly cancelled: boolean
  getPeer(): string
  getDeadline(): number | Date
  on(event: string, listener: () => void): unknown
}
/** The two ways in which an answer leaves. */
interface Way {
  send(message: Buffer): boolean
  end(status: StatusObject | null): void
}

/**
 * Registers what `supervisor` serves now. Call `update` from `SupervisorHost.methodsChanged`.
 * A path that is registered on `server` by somebody else is left alone: the supervisor refuses such bundles beforehand.
 */
export function attachRoutes<A extends { readonly principal: string }>(server: Server, supervisor: Supervisor, hooks: RouteHooks<A>): { update(): void } {
  const registered = new Map<string, Kind>()
  const same = (bytes: Buffer) => bytes
  const update = () => {
    const served = new Map(supervisor.methods().map(({ path, kind }) => [path, kind]))
    for (const [path, kind] of registered) {
      if (served.get(path) === kind) continue
      server.unregister(path)
      registered.delete(path)
    }
    for (const [path, kind] of served) {
      if (registered.has(path)) continue
      // The handler's shape follows from `kind`, which the type of `register` cannot tell.
      if (server.register(path, makeHandler(path, kind, supervisor, hooks) as never, same, same, kind)) registered.set(path, kind)
    }
  }
  update()
  return { update }
}

function makeHandler<A extends { readonly principal: string }>(path: string, kind: Kind, supervisor: Supervisor, hooks: RouteHooks<A>): unknown {
  const begin = (call: AnyCall, way: Way) => beginCall(path, kind, call, way, supervisor, hooks)
  switch (kind) {
    case 'unary':
      return (call: ServerUnaryCall<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => feedOne(begin(call, oneAnswer(answer)), call.request)
    case 'serverStream':
      return (call: ServerWritableStream<Buffer, Buffer>) => {
        const handle = begin(call, manyAnswers(call))
        call.on('drain', () => handle?.drained())
        feedOne(handle, call.request)
      }
    case 'clientStream':
      return (call: ServerReadableStream<Buffer, Buffer>, answer: sendUnaryData<Buffer>) => feedMany(begin(call, oneAnswer(answer)), call)
    case 'bidi':
      return (call: ServerDuplexStream<Buffer, Buffer>) => {
        const handle = begin(call, manyAnswers(call))
        call.on('drain', () => handle?.drained())
        feedMany(handle, call)
      }
  }
}

/** Undefined when the call was refused; it has then been answered. */
function beginCall<A extends { readonly principal: string }>(
  path: string,
  kind: Kind,
  call: AnyCall,
  way: Way,
  supervisor: Supervisor,
  hooks: RouteHooks<A>,
): CallHandle | undefined {
  let admitted: A | undefined
  let ended = false
  const finish = (outcome: ErrorCode | 'OK' | 'CANCELLED') => {
    if (ended) return
    ended = true
    if (admitted) hooks.finished(admitted, outcome)
  }
  const fail = (error: unknown) => {
    if (ended) return
    const status = hooks.toStatus(error)
    way.end(status)
    finish(status.errorCode)
  }
  try {
    admitted = hooks.admit(call, path)
    const handle = supervisor.call({
      method: path,
      kind,
      principal: admitted.principal,
      deadlineMs: deadlineOf(call),
      metadata: asciiOf(call.metadata),
      send: (message) => ended || way.send(asBuffer(message)),
      end: (error) => {
        if (ended) return
        if (error) return fail(new OffboxError(error.code, error.message))
        way.end(null)
        finish('OK')
      },
    })
    const gone = () => {
      finish('CANCELLED')
      handle.cancel()
    }
    // Also when the deadline has passed: grpc-js has then answered the client itself.
    call.on('cancelled', gone)
    if (call.cancelled) gone()
    return handle
  } catch (error) {
    fail(error)
    return undefined
  }
}

function oneAnswer(answer: sendUnaryData<Buffer>): Way {
  let message: Buffer | null = null
  return {
    send: (bytes) => {
      message = bytes
      return true
    },
    end: (status) => answer(status, message),
  }
}

function manyAnswers(call: ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>): Way {
  return {
    send: (message) => call.write(message),
    end: (status) => {
      if (status) call.emit('error', status)
      else call.end()
    },
  }
}

function feedOne(handle: CallHandle | undefined, request: Buffer): void {
  handle?.message(request)
  handle?.halfClose()
}

/** A client faster than its service is paused; grpc-js then grants it no more window. */
function feedMany(handle: CallHandle | undefined, call: ServerReadableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>): void {
  if (!handle) return
  handle.onCredit = () => call.resume()
  call.on('data', (message: Buffer) => {
    if (!handle.message(message)) call.pause()
  })
  call.on('end', () => handle.halfClose())
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

function deadlineOf(call: AnyCall): number | undefined {
  const deadline = Number(call.getDeadline())
  return Number.isFinite(deadline) ? deadline : undefined
}

function asciiOf(metadata: Metadata): Record<string, string> {
  const map = metadata.getMap()
  for (const key in map) if (typeof map[key] !== 'string') delete map[key]
  return map as Record<string, string>
}
