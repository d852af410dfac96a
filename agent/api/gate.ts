/** What every call passes, the agent's own and those routed to services: principal, authorization, audit. */
import { asciiJson } from '../../core/audit/record.ts'
import type { Clock } from '../../core/clock.ts'
import { codeOf, type ErrorCode, OffboxError } from '../../core/errors.ts'
import { methodCharsMax } from '../audit/limits.ts'
import type { AuditLog } from '../audit/log.ts'
import { authorize } from './authorize.ts'
import type { Front } from './front.ts'

/** A call that passed. */
export interface Admitted {
  readonly path: string
  /** SPIFFE id of the caller. */
  readonly principal: string
  /** "address:port" */
  readonly peer: string
  readonly mutates: boolean
  /** Monotonic milliseconds. */
  readonly connectionOpenedAtMs: number
  readonly startedAtMs: number
  /** The beginning of its audit record. */
  readonly about: string
}

/** What a connection's calls of one method have in common. */
interface Known {
  readonly mutates: boolean
  /** Beginning of their audit records. */
  readonly about: string
}

type Connection = NonNullable<ReturnType<Front['connection']>>

/** Methods remembered for one connection. */
const KNOWN_MAX = 64

export class Gate {
  readonly #front: Pick<Front, 'connection'>
  readonly #audit: AuditLog
  readonly #clock: Clock
  /** By connection: its principal does not change, nor does the table of who may what. */
  readonly #known = new WeakMap<Connection, Map<string, Known>>()

  constructor(front: Pick<Front, 'connection'>, audit: AuditLog, clock: Clock) {
    this.#front = front
    this.#audit = audit
    this.#clock = clock
  }

  /**
   * A denial is audited here; an admitted call by `finished`.
   * @param mutates what the manifest of a service says of its method
   * @throws ROLE_DENIED
   */
  admit(call: { getPeer(): string }, path: string, mutates = false): Admitted {
    const peer = call.getPeer()
    const startedAtMs = this.#clock.monotonicMs()
    const connection = this.#front.connection(peer)
    try {
      // A call outlives its connection by a moment at most; without one there is nobody to answer.
      if (!connection) throw new OffboxError('ROLE_DENIED', 'the connection is gone')
      const known = this.#known.get(connection)?.get(path) ?? this.#learn(connection, peer, path)
      return {
        path,
        principal: connection.principal.spiffeId,
        peer,
        mutates: mutates || known.mutates,
        connectionOpenedAtMs: connection.openedAtMonotonicMs,
        startedAtMs,
        about: known.about,
      }
    } catch (error) {
      const principal = connection?.principal.spiffeId ?? ''
      this.#audit.record({ principal, peer, method: path.slice(0, methodCharsMax), decision: 'deny', status: codeOf(error), durationMs: 0 })
      throw error
    }
  }

  /**
   * Resolves once it is on disk that this call is about to change the device.
   * @param payload hash of the request, where it is known already; empty where not
   * @param evenWhenFull for a revert
   * @throws STORE_FULL, AUDIT_FULL it must not
   */
  async intent({ principal, peer, path }: Admitted, payload = '', evenWhenFull = false): Promise<void> {
    const event = { principal, peer, method: path, decision: 'intent', ...(payload === '' ? {} : { payload }) } as const
    await this.#audit.intent(event, evenWhenFull)
  }

  /**
   * Call once for each admitted call, when it has ended.
   * @param payload hash of the request; empty where none came in, or where it is not taken
   */
  finished(admitted: Admitted, status: ErrorCode | 'OK' | 'CANCELLED', payload = ''): void {
    const { principal, peer, path, mutates, startedAtMs, about } = admitted
    const durationMs = Math.round((this.#clock.monotonicMs() - startedAtMs) * 10) / 10
    const event = { principal, peer, method: path, decision: 'allow', status, durationMs, mutation: mutates } as const
    const request = payload === '' ? '' : `"payload":"${payload}",`
    this.#audit.record(event, `${about},${request}"status":"${status}","durationMs":${durationMs}${mutates ? ',"mutation":true' : ''}}`)
  }

  /** @throws ROLE_DENIED */
  #learn(connection: Connection, peer: string, path: string): Known {
    const { mutates } = authorize(connection.principal, path)
    const event = { principal: connection.principal.spiffeId, peer, method: path.slice(0, methodCharsMax), decision: 'allow' }
    const known = { mutates, about: asciiJson(event).slice(0, -1) }
    const methods = this.#known.get(connection) ?? new Map<string, Known>()
    // Forgotten all at once: what is in use is soon back.
    if (methods.size >= KNOWN_MAX) methods.clear()
    methods.set(path, known)
    this.#known.set(connection, methods)
    return known
  }
}
