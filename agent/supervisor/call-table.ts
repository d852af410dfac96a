/** The calls that are open in one worker, and who made them. */
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Account } from './account.ts'
import type { Call } from './calls.ts'
import type { SupervisorLimits } from './limits.ts'
import { patiently } from './patience.ts'
import type { ClientCall } from './types.ts'

export class CallTable {
  readonly #calls = new Map<number, Call>()
  readonly #ofPrincipal = new Map<string, number>()
  readonly #idleWaiters = new Set<() => void>()
  readonly #account: Account
  readonly #limits: SupervisorLimits
  #next = 1
  #unary = 0

  constructor(account: Account, limits: SupervisorLimits) {
    this.#account = account
    this.#limits = limits
  }

  get(id: number): Call | undefined {
    return this.#calls.get(id)
  }

  get all(): readonly Call[] {
    return [...this.#calls.values()]
  }

  /** Whether one more call may begin. One that has begun is not asked again, also not by the version that follows. @throws LIMIT_REACHED, STREAMS_EXCEEDED */
  admit({ kind, principal }: Pick<ClientCall, 'kind' | 'principal'>): void {
    const { callsPerPrincipalMax } = this.#limits
    if ((this.#ofPrincipal.get(principal) ?? 0) >= callsPerPrincipalMax)
      throw new OffboxError('LIMIT_REACHED', `${principal} has ${callsPerPrincipalMax} calls under way in this service`)
    if (kind !== 'unary' && !this.#account.takesStream())
      throw new OffboxError('STREAMS_EXCEEDED', `${this.#account.limits.streamsMax} streams are open, as many as the manifest allows`)
  }

  /** The call's number, never used again. @throws LIMIT_REACHED */
  add(call: Call): number {
    if (this.#calls.size >= this.#limits.callsMax) throw new OffboxError('LIMIT_REACHED', `${this.#calls.size} calls are under way in this service`)
    const id = this.#next++
    this.#calls.set(id, call)
    this.#count(call, 1)
    return id
  }

  remove(id: number): void {
    const call = this.#calls.get(id)
    if (!call) return
    this.#calls.delete(id)
    this.#count(call, -1)
    this.#wakeIdleWaiters()
  }

  /** What was open; nothing is any more. */
  clear(): readonly Call[] {
    const calls = this.all
    this.#calls.clear()
    this.#ofPrincipal.clear()
    this.#unary = this.#account.streamsOpen = 0
    this.#wakeIdleWaiters()
    return calls
  }

  /** Resolves once no unary call is open; false when that took longer. */
  async idle(clock: Clock, timeoutMs: number): Promise<boolean> {
    if (this.#unary === 0) return true
    return await new Promise((resolve) => {
      const cancel = patiently(clock, timeoutMs, () => {
        this.#idleWaiters.delete(done)
        resolve(false)
      })
      const done = () => {
        cancel()
        resolve(true)
      }
      this.#idleWaiters.add(done)
    })
  }

  #wakeIdleWaiters(): void {
    if (this.#unary > 0 || this.#idleWaiters.size === 0) return
    for (const wake of this.#idleWaiters) wake()
    this.#idleWaiters.clear()
  }

  #count(call: Call, change: 1 | -1): void {
    const { principal } = call.client
    const calls = (this.#ofPrincipal.get(principal) ?? 0) + change
    if (calls > 0) this.#ofPrincipal.set(principal, calls)
    else this.#ofPrincipal.delete(principal)
    if (call.method.kind === 'unary') this.#unary += change
    else this.#account.streamsOpen += change
  }
}
