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

  constructor(manifest: Pick<Manifest, 'limits' | 'heapMbMax'>) {
    this.limits = limitsOf(manifest)
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
