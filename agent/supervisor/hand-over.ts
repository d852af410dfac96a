/**
 * How state goes from one version to another and back. It is taken when the giver has no unary call under way and its streams are off.
 * Small state is kept here as well, for the way back. Large state moves without being copied: should it be lost with a failed taker, the
 * giver, which stays quiesced until it is suspended, is asked again. Shared memory (services/sdk/hand-over.ts) stays where it is.
 */
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import type { SealedSnapshot } from '../../services/sdk/wire.ts'
import type { Call } from './calls.ts'
import type { Instance } from './instance.ts'
import type { SupervisorLimits } from './limits.ts'
import { highestCommon, type HandOverPlan } from './swap.ts'

/** To copy this much takes a millisecond or two while clients wait; more is moved. */
export const copiedStateBytesMax = 1024 * 1024

export interface HandOverOptions {
  readonly limits: SupervisorLimits
  /** Resumable streams that were taken off, for whoever serves next. */
  readonly parked: Set<Call>
  readonly log: (level: 'warn' | 'error', message: string, fields: Record<string, unknown>) => void
}

export class HandOver {
  readonly #options: HandOverOptions
  readonly #plan: HandOverPlan
  /** What the taker gets; and what the giver can come back with, once it is known. */
  #handed: SealedSnapshot | undefined
  #own: SealedSnapshot | undefined
  #finishing: Promise<unknown> = Promise.resolve()
  #goingBack = false

  constructor(plan: HandOverPlan, options: HandOverOptions) {
    this.#plan = plan
    this.#options = options
  }

  /** Bytes of state that were taken; 0 without any. */
  get bytes(): number {
    return this.#handed?.bytes.byteLength ?? 0
  }

  /**
   * Before a call is held, all that can be done by then: streams that the successor resumes are taken off, which takes the giver a while
   * for each, and both hosts get ready. @throws when one of them does not play along in time
   */
  async ready(giver: Instance, taker: Instance): Promise<void> {
    const { limits, parked } = this.#options
    const ready = async (one: Instance) => await one.rehearse(limits.quiesceTimeoutMs)
    if (!giver.alive) return await ready(taker)
    for (const call of giver.calls) if (call.method.resumable) park(call, parked)
    await Promise.all([ready(giver), ready(taker)])
  }

  /** @throws when the giver does not play along in time */
  async take(giver: Instance): Promise<void> {
    const { schema, ownSchema } = this.#plan
    const { quiesceTimeoutMs } = this.#options.limits
    takeStreamsOff(giver, this.#options.parked)
    if (schema === undefined) return await giver.quiesce(quiesceTimeoutMs)
    this.#handed = await giver.snapshot(schema, quiesceTimeoutMs, true)
    if (this.#moves) return
    this.#own = ownSchema === schema ? this.#handed : await giver.snapshot(ownSchema ?? schema, quiesceTimeoutMs)
  }

  /** Starts the taker with it. @throws SNAPSHOT_CORRUPT, and what the service throws */
  async give(taker: Instance): Promise<void> {
    try {
      await taker.serve(this.#handed, this.#moves)
    } catch (error) {
      // The copy kept here may be what is damaged: the giver is asked again.
      if (codeOf(error) === 'SNAPSHOT_CORRUPT') this.#own = undefined
      throw error
    }
  }

  /**
   * After the flip, while calls flow: compares what both sides find in memory that they share, and secures the way back. Only then is the
   * giver suspended.
   * @returns why the taker must not stay
   */
  async finish(giver: Instance, taker: Instance): Promise<OffboxError | undefined> {
    const securing = this.#verify(giver, taker).finally(async () => await this.#secureOwn(giver))
    this.#finishing = securing.catch(() => {})
    const wrong = await securing
    if (!this.#goingBack) void giver.suspend()
    return wrong
  }

  /** What a giver that has to go on, since the taker failed, is to start with. */
  async before(giver: Instance): Promise<readonly (SealedSnapshot | undefined)[]> {
    await this.#secureOwn(giver)
    return [this.#own]
  }

  /**
   * What `taker`, the version before, is to start with, best first: what was accepted since the swap is in the state of the version being
   * reverted, if that hands it back in time and in a format that the taker reads.
   */
  async back(giver: Instance, taker: Instance): Promise<readonly (SealedSnapshot | undefined)[]> {
    this.#goingBack = true
    await this.#finishing
    try {
      return [(await takeBack(giver, taker, this.#options)) ?? this.#own, this.#own]
    } catch (error) {
      this.#options.log('warn', 'the version being reverted did not hand its state back', { version: giver.version, error: messageOf(error) })
      return [this.#own]
    }
  }

  /** Starts `instance` again, in its warm worker or a new one, with the first of `states` it takes. */
  async bringBack(instance: Instance, states: readonly (SealedSnapshot | undefined)[], again: (like: Instance) => Instance): Promise<Instance> {
    for (const state of new Set(states)) {
      for (const one of instance.alive ? [instance, again(instance)] : [again(instance)]) {
        try {
          await one.resume(state)
          return one
        } catch (error) {
          this.#options.log('error', 'the version before did not come back', { version: one.version, error: messageOf(error) })
          void one.stop(messageOf(error))
        }
      }
    }
    // Its restart policy goes on from here, without the state.
    return again(instance)
  }

  /** Too large to keep a copy. */
  get #moves(): boolean {
    return this.#handed !== undefined && this.#handed.checksum !== undefined && this.bytes > copiedStateBytesMax
  }

  async #verify(giver: Instance, taker: Instance): Promise<OffboxError | undefined> {
    // What moved was checked before the taker saw it.
    if (!this.#handed || this.#handed.checksum !== undefined) return undefined
    const { quiesceTimeoutMs } = this.#options.limits
    try {
      const [given, taken] = await Promise.all([giver.checksum(quiesceTimeoutMs), taker.checksum(quiesceTimeoutMs)])
      if (given === taken) return undefined
    } catch (error) {
      // A taker that is gone is told by its own end; a giver that is gone took the proof with it.
      this.#options.log('warn', 'shared state was not compared', { version: taker.version, error: messageOf(error) })
      return undefined
    }
    return new OffboxError('SNAPSHOT_CORRUPT', `${this.bytes} bytes of shared state are not as version ${giver.version} gave them`)
  }

  /** The giver still has its state: it is quiesced, and nothing was served by it since. */
  async #secureOwn(giver: Instance): Promise<void> {
    const { ownSchema } = this.#plan
    if (this.#own || ownSchema === undefined || !giver.alive) return
    this.#own = await giver.snapshot(ownSchema, this.#options.limits.revertTimeoutMs).catch((error) => {
      this.#options.log('error', 'the version before has no state of its own to come back with', { version: giver.version, error: messageOf(error) })
      return undefined
    })
  }
}

/** @throws when it does not play along in time: clients are waiting */
async function takeBack(giver: Instance, taker: Instance, { limits, parked }: HandOverOptions): Promise<SealedSnapshot | undefined> {
  if (!giver.alive || giver.silent) throw new Error('it does not answer')
  const { revertTimeoutMs } = limits
  await giver.idle(revertTimeoutMs)
  takeStreamsOff(giver, parked)
  const schema = highestCommon(giver.bundle.manifest, taker.bundle.manifest)
  if (schema !== undefined) return await giver.snapshot(schema, revertTimeoutMs, true)
  await giver.quiesce(revertTimeoutMs)
  return undefined
}

/**
 * The worker answers a cancellation at once and in order: when it has answered whatever is asked next, everything it sent on these
 * streams is with their clients.
 */
function takeStreamsOff(giver: Instance, parked: Set<Call>): void {
  for (const call of giver.calls) {
    if (call.method.kind === 'unary') continue
    if (call.method.resumable) park(call, parked)
    else call.fail('SWAP_IN_PROGRESS', 'a swap ended this stream')
  }
}

function park(call: Call, parked: Set<Call>): void {
  parked.add(call)
  call.detach()
}
