/** What every call passes, the agent's own and those routed to services: principal, authorization, audit. */
import type { Clock } from '../../core/clock.ts'
import { codeOf, type ErrorCode, OffboxError } from '../../core/errors.ts'
import type { Audit } from './audit.ts'
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
}

export class Gate {
  readonly #front: Pick<Front, 'connection'>
  readonly #audit: Audit
  readonly #clock: Clock

  constructor(front: Pick<Front, 'connection'>, audit: Audit, clock: Clock) {
    this.#front = front
    this.#audit = audit
    this.#clock = clock
  }

  /**
   * A denial is audited here; an admitted call by `finished`.
   * @throws ROLE_DENIED
   */
  admit(call: { getPeer(): string }, path: string): Admitted {
    const peer = call.getPeer()
    const startedAtMs = this.#clock.monotonicMs()
    const connection = this.#front.connection(peer)
    try {
      // A call outlives its connection by a moment at most; without one there is nobody to answer.
      if (!connection) throw new OffboxError('ROLE_DENIED', 'the connection is gone')
      const { mutates } = authorize(connection.principal, path)
      return { path, principal: connection.principal.spiffeId, peer, mutates, connectionOpenedAtMs: connection.openedAtMonotonicMs, startedAtMs }
    } catch (error) {
      const principal = connection?.principal.spiffeId ?? ''
      this.#audit.record({ principal, peer, method: path, decision: 'deny', status: codeOf(error), durationMs: 0 })
      throw error
    }
  }

  /** Call once for each admitted call, when it has ended. */
  finished(admitted: Admitted, status: ErrorCode | 'OK' | 'CANCELLED'): void {
    const { principal, peer, path, mutates, startedAtMs } = admitted
    const durationMs = Math.round((this.#clock.monotonicMs() - startedAtMs) * 10) / 10
    this.#audit.record({ principal, peer, method: path, decision: 'allow', status, durationMs, ...(mutates ? { mutation: true } : {}) })
  }
}
