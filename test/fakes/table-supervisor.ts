/** A supervisor that runs nothing and goes through the table of swaps, step by step, as it is told; every step is told to the track. */
import type { Track } from '../../agent/change/types.ts'
import { SWAP_STEPS, swapCell, type SwapEvent, type SwapState } from '../../agent/supervisor/swap.ts'
import type { SwapReport, VerifiedBundle } from '../../agent/supervisor/types.ts'
import { noTrack } from '../../agent/change/types.ts'
import { OffboxError } from '../../core/errors.ts'
import { FakeSupervisor } from './supervisor.ts'

/** How each state of a swap ends when nothing goes wrong. */
const NEXT: Readonly<Partial<Record<SwapState, SwapEvent>>> = {
  preparing: 'prepared',
  draining: 'drained',
  quiescing: 'handedOver',
  taking: 'ready',
  restoring: 'restored',
  reverting: 'handedOver',
  returning: 'restored',
}

export class TableSupervisor extends FakeSupervisor {
  /** In which state of the next swap what happens. */
  fault: { readonly at: SwapState; readonly event: 'failed' | 'overBudget' } | undefined
  /** Versions that took calls at the same time, should that ever be. */
  readonly together: string[] = []
  #state: SwapState = 'idle'
  readonly #serving = new Set<string>()

  override async install(bundle: VerifiedBundle, config: unknown): Promise<SwapReport> {
    const report = await super.install(bundle, config)
    this.#serves(bundle.manifest.version)
    return report
  }

  override async swap(bundle: VerifiedBundle, config: unknown, track: Track = noTrack): Promise<SwapReport> {
    const before = this.get(bundle.manifest.name)?.version ?? ''
    await this.#go('swap', track, { before, after: bundle.manifest.version })
    if ((this.#state as SwapState) !== 'provisional') throw new OffboxError('SWAP_ROLLED_BACK', 'as the script says')
    return await super.swap(bundle, config)
  }

  override async commit(service: string, track: Track = noTrack): Promise<void> {
    await this.#go('commit', track)
    await super.commit(service)
  }

  override async revert(service: string, _reason = '', track: Track = noTrack): Promise<void> {
    const running = this.get(service)
    if (running && running.previousVersion !== '') await this.#go('revert', track, { before: running.version, after: running.previousVersion })
    else this.#serving.clear()
    await super.revert(service)
  }

  override async remove(service: string): Promise<void> {
    this.#serving.clear()
    await super.remove(service)
  }

  /** From `event` on until nothing more is under way. */
  async #go(event: SwapEvent, track: Track, versions = { before: '', after: '' }): Promise<void> {
    for (let next: SwapEvent | undefined = event; next; ) {
      const move = swapCell(this.#state, next)
      if (move === 'IGNORE') return
      if (typeof move !== 'object') throw new Error(`swap: ${next} in state ${this.#state} is ${move}`)
      if (move.effects[0] === 'hold' && this.#state === 'preparing') await track.intent('hold')
      this.#state = move.to
      for (const effect of move.effects) {
        const step = SWAP_STEPS[effect]
        if (step) track.mark(step)
        if (effect === 'flip' || effect === 'flipBack') {
          this.#serving.delete(versions.before)
          this.#serves(versions.after)
        }
      }
      await new Promise((resolve) => setImmediate(resolve))
      const fault = this.fault?.at === this.#state ? this.fault.event : undefined
      if (fault) this.fault = undefined
      next = fault ?? NEXT[this.#state]
    }
  }

  #serves(version: string): void {
    this.#serving.add(version)
    if (this.#serving.size > 1) this.together.push([...this.#serving].join(' and '))
  }
}
