/** Counts what happens again and again, so that it becomes one record: denials of one peer, and reads when the log has no room for them. */
import type { AuditEvent } from '../../core/audit/record.ts'
import type { Clock } from '../../core/clock.ts'
import { repeatedKindsMax, repeatsMs } from './limits.ts'

type Kind = Pick<AuditEvent, 'principal' | 'peer' | 'method' | 'decision' | 'status'>

export class Repeats {
  readonly #clock: Clock
  readonly #report: (event: AuditEvent) => void
  #kinds = new Map<string, { kind: Kind; count: number }>()
  #sinceMs = 0
  #disarm: (() => void) | undefined

  constructor(clock: Clock, report: (event: AuditEvent) => void) {
    this.#clock = clock
    this.#report = report
  }

  /** True for the first of its kind in an interval: that one is the caller's to record. */
  isFirst(kind: Kind): boolean {
    const key = keyOf(kind)
    const known = this.#kinds.get(key)
    if (known) known.count += 1
    else if (this.#kinds.size < repeatedKindsMax) this.#kinds.set(key, { kind, count: 0 })
    else this.count({ principal: '', method: 'others', decision: kind.decision })
    this.#arm()
    return known === undefined && this.#kinds.has(key)
  }

  /** One more of a kind that is not recorded by itself. */
  count(kind: Kind): void {
    const full = this.#kinds.size >= repeatedKindsMax && !this.#kinds.has(keyOf(kind))
    const counted: Kind = full ? { principal: '', method: 'others', decision: kind.decision } : kind
    const known = this.#kinds.get(keyOf(counted))
    if (known) known.count += 1
    else this.#kinds.set(keyOf(counted), { kind: counted, count: 1 })
    this.#arm()
  }

  /** Reports what was counted. Safe when there is nothing. */
  flush(): void {
    this.#disarm?.()
    this.#disarm = undefined
    const kinds = this.#kinds
    this.#kinds = new Map()
    const overMs = Math.round(this.#clock.monotonicMs() - this.#sinceMs)
    for (const { kind, count } of kinds.values()) if (count > 0) this.#report({ ...kind, repeated: count, overMs })
  }

  #arm(): void {
    if (this.#disarm) return
    this.#sinceMs = this.#clock.monotonicMs()
    this.#disarm = this.#clock.after(repeatsMs, () => {
      this.#disarm = undefined
      this.flush()
    })
  }
}

/** Of a peer the address alone: a caller gets a new port with each connection. */
function keyOf({ principal, peer = '', method, decision, status = '' }: Kind): string {
  return `${decision} ${status} ${principal} ${peer.slice(0, peer.lastIndexOf(':'))} ${method}`
}
