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

/** Beginnings of audit records that are kept ready. */
const ABOUTS_MAX = 512

export class Gate {
  readonly #front: Pick<Front, 'connection'>
  readonly #audit: Audit
  readonly #clock: Clock
  readonly #abouts = new Map<string, string>()

  constructor(front: Pick<Front, 'connection'>, audit: Audit, clock: Clock) {
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
      const rule = authorize(connection.principal, path)
      return {
        path,
        principal: connection.principal.spiffeId,
        peer,
        mutates: mutates || rule.mutates,
        connectionOpenedAtMs: connection.openedAtMonotonicMs,
        startedAtMs,
      }
    } catch (error) {
      const principal = connection?.principal.spiffeId ?? ''
      this.#audit.record({ principal, peer, method: path, decision: 'deny', status: codeOf(error), durationMs: 0 })
      throw error
    }
  }

  /** Resolves once it is on disk that this call is about to change the device. @throws STORE_FULL it must not */
  async intent({ principal, peer, path }: Admitted): Promise<void> {
    await this.#audit.intent({ principal, peer, method: path, decision: 'intent' })
  }

  /** Call once for each admitted call, when it has ended. */
  finished(admitted: Admitted, status: ErrorCode | 'OK' | 'CANCELLED'): void {
    const { principal, peer, path, mutates, startedAtMs } = admitted
    const durationMs = Math.round((this.#clock.monotonicMs() - startedAtMs) * 10) / 10
    const record = { principal, peer, method: path, decision: 'allow', status, durationMs, ...(mutates ? { mutation: true } : {}) } as const
    this.#audit.record(record, `${this.#aboutOf(admitted)},"status":"${status}","durationMs":${durationMs}${mutates ? ',"mutation":true' : ''}}`)
  }

  /** The beginning of a record, the same for all calls of a method by one principal over one connection. */
  #aboutOf({ principal, peer, path }: Admitted): string {
    // The principal as well: an address and port may come back with somebody else.
    const key = `${principal} ${peer} ${path}`
    let about = this.#abouts.get(key)
    if (about === undefined) {
      about = JSON.stringify({ principal, peer, method: path, decision: 'allow' }).slice(0, -1)
      // Forgotten all at once: what is in use is soon back.
      if (this.#abouts.size >= ABOUTS_MAX) this.#abouts.clear()
      this.#abouts.set(key, about)
    }
    return about
  }
}
