/** What this device trusts, put together: how bundles are judged, what it asks when it enrols, and what it learns. */
import type { Anchors } from '../../core/anchors.ts'
import type { Clock } from '../../core/clock.ts'
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import type { Manifest, Tier } from '../../core/manifest.ts'
import type { SignedStatement } from '../../core/trust/statement.ts'
import type { TrustNumbers } from '../metrics/trust-families.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import { type BundleTrust, listedBundles, signedBundles } from './bundle-trust.ts'
import type { Evidence } from './evidence.ts'
import { type Examiner, inThisThread } from './examiner.ts'
import { TufTrust } from './tuf/tuf-trust.ts'

export interface DeviceTrustOptions {
  readonly anchors: Anchors
  readonly files: AtomicFiles
  readonly stateDir: string
  readonly clock: Clock
  readonly tierOf: (manifest: Manifest) => Tier
  /** Where signatures are verified; default: in this thread. */
  readonly examiner?: Examiner
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
    error(fields: object, message: string): void
  }
}

/** What a controller hands over beside an order. */
export interface Lesson {
  /** The witness's answer; null: none came. */
  readonly witness: SignedStatement | null
  readonly evidence: Evidence
}

/** Of audit/acknowledged.ts. */
export interface HeadTimes {
  provenAtMs(by: { fleet: string; caPem: string; deviceId: string }): number
  watch(listener: (atMs: number) => void): () => void
}

export class DeviceTrust {
  readonly bundles: BundleTrust
  /** Null: the image carries no trust anchors. */
  readonly tuf: TufTrust | null
  /** Called when targets or policy may have changed. */
  onChange: () => void = () => {}
  readonly #log: DeviceTrustOptions['log']

  private constructor(bundles: BundleTrust, tuf: TufTrust | null, log: DeviceTrustOptions['log']) {
    this.bundles = bundles
    this.tuf = tuf
    this.#log = log
  }

  /** @throws TRUST_MALFORMED, TRUST_THRESHOLD the anchored root cannot be used: such an image runs nothing */
  static async open(options: DeviceTrustOptions): Promise<DeviceTrust> {
    const { anchors, files, stateDir, clock, tierOf, log, examiner = inThisThread() } = options
    const { bundleKeys, trust } = anchors
    const verify = async (file: Uint8Array, trusted: typeof bundleKeys) => await examiner.bundle(file, trusted)
    if (!trust) {
      log.warn({}, 'this agent has no trust anchors: it runs whatever a bundle key signed, as for development only')
      return new DeviceTrust(signedBundles(bundleKeys, verify), null, log)
    }
    const witness = { keys: trust.witnessKeys, need: trust.witnessKeys.size > 0 ? ('without-store' as const) : ('never' as const) }
    const anchor = new TextEncoder().encode(trust.root)
    const tuf = await TufTrust.open({
      ...{ files, stateDir, clock, witness, anchor },
      fleet: anchors.fleet,
      buildTimeMs: trust.builtAtMs,
      examine: async (request) => await examiner.metadata(request),
      changed: () => opened.onChange(),
    })
    const opened = new DeviceTrust(listedBundles({ tuf, bundleKeys, verify, tierOf }), tuf, log)
    const { policy, needsWitness, rootVersion, problems } = tuf
    for (const problem of problems) log.error({ problem }, 'the store of trust was damaged')
    log.info({ rootVersion, policyVersion: policy?.policy.version ?? 0, needsWitness, witnessKeys: trust.witnessKeys.size }, 'trust is in force')
    return opened
  }

  /** What goes along with a request to enrol: a fresh question for the witness, and how far the roots of this device go. */
  question(): { challenge: Uint8Array; rootVersion: number } {
    const { tuf } = this
    if (!tuf) return { challenge: new Uint8Array(), rootVersion: 0 }
    return { challenge: tuf.witnessNeed === 'never' ? new Uint8Array() : tuf.challenge(), rootVersion: tuf.rootVersion }
  }

  /** Whether nothing new is taken before the witness has answered. */
  get needsWitness(): boolean {
    return this.tuf?.needsWitness ?? false
  }

  /**
   * Takes what is good of it; what is not is logged. An enrolment stands without it: else nobody could reach the device to mend it. Resolves once the
   * witness's answer counts; metadata takes longer, and an order that comes meanwhile waits for it.
   */
  async learn({ witness, evidence }: Lesson): Promise<void> {
    const { tuf } = this
    if (!tuf) return
    if (witness) await this.#take('the statement of the witness', async () => await tuf.acceptStatement(witness))
    if (tuf.needsWitness) this.#log.warn({ answered: witness !== null }, 'nothing new is taken before the witness has answered')
    else if (evidence.metadata.files.length > 0) {
      void this.#take('metadata', async () => {
        await tuf.update(evidence.metadata, [], evidence.policy)
        const { rootVersion, policy, heights } = tuf
        this.#log.info({ rootVersion, policyVersion: policy?.policy.version ?? 0, timestamp: heights?.timestamp }, 'the repository is known as it is now')
      })
    }
  }

  async #take(what: string, act: () => Promise<unknown>): Promise<void> {
    try {
      await act()
    } catch (error) {
      this.#log.error({ what, code: codeOf(error), error: messageOf(error) }, 'the enrolment brought what is refused')
    }
  }

  /** For Metrics; null without trust anchors. */
  numbers(): TrustNumbers | null {
    const { tuf } = this
    if (!tuf) return null
    const { expiresMs, needsWitness, rootVersion, policy, heights, time } = tuf
    return { expiresMs, needsWitness, rootVersion, nowMs: time.nowMs(heights?.keys), policyVersion: policy?.policy.version ?? 0 }
  }

  /** Time that collectors of the audit log sign: what is kept of it, then what comes. */
  hear(heads: HeadTimes, by: Parameters<HeadTimes['provenAtMs']>[0]): void {
    const provenAtMs = heads.provenAtMs(by)
    if (provenAtMs > 0) this.tuf?.time.learn('audit', provenAtMs)
    heads.watch((atMs) => this.tuf?.time.learn('audit', atMs))
  }

  /** @throws STATE_REFUSED there are no trust anchors */
  require(): TufTrust {
    if (!this.tuf) throw new OffboxError('STATE_REFUSED', 'the image of this device carries no trust anchors')
    return this.tuf
  }
}
