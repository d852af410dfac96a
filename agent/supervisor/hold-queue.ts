/** Calls that wait for a worker, in order of arrival, bounded by count and bytes; each may have a time of its own. */
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Call } from './calls.ts'
import type { SupervisorLimits } from './limits.ts'
import { patiently } from './patience.ts'

export class HoldQueue {
  readonly #limits: SupervisorLimits
  readonly #clock: Clock
  #calls = new Set<Call>()
  /** Held since the swap began, for its report. */
  heldCount = 0

  constructor(limits: SupervisorLimits, clock: Clock) {
    this.#limits = limits
    this.#clock = clock
  }

  get size(): number {
    return this.#calls.size
  }

  /** Counted anew: a held stream may still grow. */
  get #bytes(): number {
    let sum = 0
    for (const call of this.#calls) sum += call.heldBytes
    return sum
  }

  /** Whether a swap has to give up now. Some room is left above, for the calls that come while it does. */
  get full(): boolean {
    return this.#calls.size >= this.#limits.heldCallsMax || this.#bytes >= this.#limits.heldBytesMax
  }

  /** Without `expired` it waits as long as it takes. @throws LIMIT_REACHED */
  add(call: Call, expired?: () => void): void {
    if (this.#calls.size >= this.#limits.heldCallsMax * 2 || this.#bytes >= this.#limits.heldBytesMax * 2) {
      throw new OffboxError('LIMIT_REACHED', `${this.#calls.size} calls already wait for this service`)
    }
    this.#calls.add(call)
    this.heldCount++
    if (expired) this.#expire(call, expired)
  }

  remove(call: Call): void {
    this.#calls.delete(call)
  }

  /** Everything, first come first; the queue is empty afterwards. */
  takeAll(): Call[] {
    const calls = [...this.#calls]
    this.#calls = new Set()
    for (const call of calls) call.cancelExpiry?.()
    return calls
  }

  #expire(call: Call, expired: () => void): void {
    call.cancelExpiry?.()
    call.cancelExpiry = patiently(this.#clock, this.#limits.downHoldTimeoutMs, () => {
      this.remove(call)
      expired()
    })
  }
}
