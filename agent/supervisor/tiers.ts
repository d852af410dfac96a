/** Where a service runs: its manifest asks, the policy of the device decides, and what the machine can do bounds both. */
import { OffboxError } from '../../core/errors.ts'
import { limitsOf, type Manifest, type Tier, TIERS } from '../../core/manifest.ts'
import { openCgroups } from './cgroup.ts'
import { surveyMeans } from './confinement.ts'
import { readHostText } from './host-text.ts'
import { processTransport, type ProcessTierOptions } from './process-transport.ts'
import type { StartTransport } from './transport.ts'
import { workerTransport } from './worker-transport.ts'

/** A bare Node is resident with 50 MiB; with less than this it cannot start, and says nothing of why. */
const MEMORY_MB_MIN = 96

export const TIER_POLICIES = ['required', 'best-effort'] as const

export interface TierPolicy {
  /** A service of the process tier is refused where it cannot be confined in full, or runs with what there is and says what is missing. */
  readonly processTier: (typeof TIER_POLICIES)[number]
  /** "process": every service runs in a process of its own, whatever its manifest asks. */
  readonly tierMin: Tier
}

export interface TierOptions extends TierPolicy {
  /** Texts of the scripts that services run in; default: as built. */
  readonly hostText?: string
  readonly processHostText?: string
  /** Tells this agent's processes from those of another on this machine, [a-z0-9-]+. */
  readonly key: string
}

export const TIERS_DEFAULT: TierOptions = { processTier: 'best-effort', tierMin: 'worker', key: 'agent' }

/** What the manifest asks for, or what is stricter by the device's choice. Pure. */
export function tierOf({ tier = 'worker' }: Pick<Manifest, 'tier'>, tierMin: Tier): Tier {
  return TIERS[Math.max(TIERS.indexOf(tier), TIERS.indexOf(tierMin))] ?? 'process'
}

export class Tiers {
  readonly #options: TierOptions
  readonly #worker: StartTransport
  /** Made when the first service needs it: looking at the machine takes a moment, and may leave a control group behind. */
  #process: { start: StartTransport; lacking: readonly string[] } | undefined

  constructor(options: TierOptions) {
    this.#options = options
    this.#worker = workerTransport(options.hostText ?? readHostText())
  }

  of(manifest: Pick<Manifest, 'tier'>): Tier {
    return tierOf(manifest, this.#options.tierMin)
  }

  /** Touches no service. @throws TIER_UNAVAILABLE naming what the machine lacks, or how little the manifest allows */
  check(manifest: Pick<Manifest, 'name' | 'tier' | 'limits' | 'heapMbMax'>): void {
    if (this.of(manifest) !== 'process') return
    const { memoryMbMax } = limitsOf(manifest)
    if (memoryMbMax < MEMORY_MB_MIN) {
      throw new OffboxError(
        'TIER_UNAVAILABLE',
        `${manifest.name} may use ${memoryMbMax} MiB, and a process of its own needs ${MEMORY_MB_MIN} (limits.memoryMbMax)`,
      )
    }
    if (this.#options.processTier !== 'required') return
    const { lacking } = this.#open()
    if (lacking.length > 0) throw new OffboxError('TIER_UNAVAILABLE', `${manifest.name} needs a process of its own, and this device has ${lacking.join('; ')}`)
  }

  readonly start: StartTransport = (options, on) => {
    const start = this.of(options.bundle.manifest) === 'process' ? this.#open().start : this.#worker
    return start(options, on)
  }

  #open(): { start: StartTransport; lacking: readonly string[] } {
    this.#process ??= this.#openProcessTier()
    return this.#process
  }

  #openProcessTier(): { start: StartTransport; lacking: readonly string[] } {
    const { key, processTier, processHostText } = this.#options
    const means = surveyMeans(processTier === 'best-effort')
    const cgroups = openCgroups(key)
    const options: ProcessTierOptions = { hostText: processHostText ?? readHostText('process-host.js'), means, cgroups, key }
    const lacking = [...means.missing, ...(typeof cgroups === 'string' ? [`no cgroup: ${cgroups}`] : cgroups.missing)]
    return { start: processTransport(options), lacking }
  }
}
