/** What one version of a service uses, and how often it met its bounds. Counts go on over its restarts. Pure. */
import type { ErrorCode } from '../../core/errors.ts'
import { limitsOf, type Manifest, type ServiceLimits } from '../../core/manifest.ts'

export interface ServiceUse {
  readonly limits: ServiceLimits
  readonly memoryBytes: number
  /** Of one core, over the last few seconds. */
  readonly cpuPercent: number
  readonly streamsOpen: number
  readonly messages: number
  /** How often each bound was met. */
  readonly exceeded: Readonly<Partial<Record<ErrorCode, number>>>
}

export class Account {
  readonly limits: ServiceLimits
  memoryBytes = 0
  cpuPercent = 0
  streamsOpen = 0
  /** Messages delivered to it. */
  messages = 0
  readonly #exceeded: Partial<Record<ErrorCode, number>> = {}
  /** Messages that it takes now; a second's worth at most. */
  #messagesLeft: number
  #lastMessageMs = Number.NEGATIVE_INFINITY

  constructor(manifest: Pick<Manifest, 'limits' | 'heapMbMax'>) {
    this.limits = limitsOf(manifest)
    this.#messagesLeft = this.limits.messagesPerSecondMax
  }

  /** Counts a message from a client. False: one too many (RATE_EXCEEDED). `nowMs` is monotonic. */
  takesMessage(nowMs: number): boolean {
    const { messagesPerSecondMax } = this.limits
    const sinceMs = nowMs - this.#lastMessageMs
    this.#messagesLeft = Math.min(messagesPerSecondMax, this.#messagesLeft + (sinceMs * messagesPerSecondMax) / 1_000)
    this.#lastMessageMs = nowMs
    if (this.#messagesLeft < 1) {
      this.exceeds('RATE_EXCEEDED')
      return false
    }
    this.#messagesLeft--
    this.messages++
    return true
  }

  /** Whether one more stream may be opened. False: STREAMS_EXCEEDED. */
  takesStream(): boolean {
    if (this.streamsOpen < this.limits.streamsMax) return true
    this.exceeds('STREAMS_EXCEEDED')
    return false
  }

  /** It met a bound, `times` times. */
  exceeds(code: ErrorCode, times = 1): void {
    this.#exceeded[code] = (this.#exceeded[code] ?? 0) + times
  }

  use(): ServiceUse {
    const { limits, memoryBytes, cpuPercent, streamsOpen, messages } = this
    return { limits, memoryBytes, cpuPercent, streamsOpen, messages, exceeded: { ...this.#exceeded } }
  }
}
