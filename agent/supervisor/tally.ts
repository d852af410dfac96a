/** Counts calls between services for the audit log: one record a minute for each caller, method and outcome, not one for each call. */
import type { Clock } from '../../core/clock.ts'
import type { ServiceCalls } from './types.ts'

export const TALLY_LIMITS = {
  intervalMs: 60_000,
  /** Different records of one interval; what goes beyond is counted together. */
  recordsMax: 512,
} as const

export class Tally {
  readonly #clock: Clock
  readonly #report: (calls: ServiceCalls) => void
  #counts = new Map<string, { principal: string; method: string; outcome: ServiceCalls['outcome']; calls: number }>()
  #sinceMs = 0
  #disarm: (() => void) | undefined

  constructor(clock: Clock, report: (calls: ServiceCalls) => void) {
    this.#clock = clock
    this.#report = report
  }

  count({ principal, method, outcome }: Pick<ServiceCalls, 'principal' | 'method' | 'outcome'>): void {
    if (!this.#disarm) {
      this.#sinceMs = this.#clock.monotonicMs()
      this.#disarm = this.#clock.after(TALLY_LIMITS.intervalMs, () => this.flush())
    }
    const full = this.#counts.size >= TALLY_LIMITS.recordsMax
    const key = `${principal} ${method} ${outcome}`
    const known = this.#counts.get(key)
    if (known) known.calls++
    else if (full) this.#overflow(outcome)
    else this.#counts.set(key, { principal, method, outcome, calls: 1 })
  }

  /** Reports what was counted. Safe when there is nothing. */
  flush(): void {
    this.#disarm?.()
    this.#disarm = undefined
    const counts = this.#counts
    this.#counts = new Map()
    const overMs = Math.round(this.#clock.monotonicMs() - this.#sinceMs)
    for (const one of counts.values()) this.#report({ ...one, overMs })
  }

  #overflow(outcome: ServiceCalls['outcome']): void {
    const others = this.#counts.get(outcome) ?? { principal: '', method: 'others', outcome, calls: 0 }
    others.calls++
    this.#counts.set(outcome, others)
  }
}
