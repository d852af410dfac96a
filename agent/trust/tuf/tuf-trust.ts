/**
 * What this device believes of its fleet's repository. Metadata comes in pushes; what a verified target says admits a file. Everything in the
 * store is signed and verified anew at each start, so that nothing is believed for lying there.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { join } from 'node:path'
import type { Clock } from '../../../core/clock.ts'
import { messageOf, OffboxError } from '../../../core/errors.ts'
import type { TrustedKeys } from '../../../core/signing.ts'
import { type Policy, POLICY_PATH, POLICY_ROLE, readPolicy } from '../../../core/policy.ts'
import { type Documents, NO_DOCUMENTS, NO_SOURCE, sameDocuments } from '../../../core/trust/documents.ts'
import { type Heights, highest, isBelow, requireHeights } from '../../../core/trust/heights.ts'
import { DEVICE_RULES, type MetadataRules, remembering } from '../../../core/trust/rules.ts'
import { NONCE_BYTES, readStatement, type SignedStatement, type Statement } from '../../../core/trust/statement.ts'
import { TrustedTime } from '../../../core/trust/time.ts'
import { Verification, type VerifiedTarget } from '../../../core/trust/verification.ts'
import { serviceKeys } from '../../../core/tuf/delegated-keys.ts'
import { expiresAtMs, parseMetadata } from '../../../core/tuf/profile.ts'
import { filesOf, type MetadataPush } from '../../../core/tuf/push.ts'
import type { Targets } from '../../../core/tuf/metadata.ts'
import type { AtomicFiles } from '../../store/atomic.ts'
import { Copies } from './copies.ts'
import { examineMetadata, type MetadataFindings, type MetadataRequest } from './examine.ts'
import { EMPTY_RECORD, packRecord, pruned, type TrustRecord, unpackRecord } from './record.ts'

/** A statement answers a nonce that is no older: a relay takes milliseconds, a person with a recorded answer does not. */
export const challengeLifetimeMs = 60_000

/** When a statement of the witness, made since this start, is needed before anything new is believed. */
export type WitnessNeed =
  /** Never; there is no witness. */
  | 'never'
  /** After a start that found no usable store: diskless, wiped, or both copies damaged. */
  | 'without-store'
  /** After every start. */
  | 'always'

export interface TufTrustOptions {
  readonly files: AtomicFiles
  readonly stateDir: string
  readonly fleet: string
  /** Root metadata from the image. */
  readonly anchor: Uint8Array
  readonly clock: Clock
  /** Of the image, Unix milliseconds. */
  readonly buildTimeMs: number
  readonly witness: { readonly keys: TrustedKeys; readonly need: WitnessNeed }
  /** For tests that show what a rule is good for. */
  readonly rules?: MetadataRules
  /** Where pushes are verified (examiner.ts); default: in this thread. */
  readonly examine?: (request: MetadataRequest) => Promise<MetadataFindings>
  /** Called when targets and policy were read anew, stored already. */
  readonly changed?: () => void
}

/** What the newest targets metadata of this device says of itself, verified. */
interface Belief {
  /** Null: they name no policy. */
  readonly policy: PolicyInForce | null
  readonly targets: Targets
}

export interface PolicyInForce {
  readonly policy: Policy
  /** Of the file, hex. */
  readonly sha256: string
}

export class TufTrust {
  readonly #options: TufTrustOptions
  readonly #rules: MetadataRules
  readonly #copies: Copies
  readonly time: TrustedTime
  #record: TrustRecord = EMPTY_RECORD
  /** Nothing below it is accepted, whoever saw it. */
  #floor: { heights: Heights; seenBy: string } | null = null
  /** What the witness said last. */
  #witnessed: Heights | null = null
  #needsWitness: boolean
  #challenge: { nonce: Uint8Array; untilMs: number } | null = null
  #last: Promise<unknown> = Promise.resolve()
  #problems: readonly string[] = []
  /** Null before any targets metadata was verified. */
  #belief: Belief | null = null
  #rootVersion = 0

  private constructor(options: TufTrustOptions) {
    this.#options = options
    this.#rules = remembering(options.rules ?? DEVICE_RULES)
    this.#copies = new Copies(options.files, join(options.stateDir, 'trust', 'tuf'))
    this.time = new TrustedTime(options.clock, options.buildTimeMs)
    this.#needsWitness = options.witness.need !== 'never'
  }

  /**
   * Reads the store. A damaged copy is made good from the other one; `problems` tells.
   * @throws TRUST_MALFORMED, TRUST_THRESHOLD the anchor is no usable root
   */
  static async open(options: TufTrustOptions): Promise<TufTrust> {
    const trust = new TufTrust(options)
    await trust.#load()
    return trust
  }

  /** What was wrong with the store at the start, for the log. */
  get problems(): readonly string[] {
    return this.#problems
  }

  /** How far the repository is known to have come; null on a device that knows nothing yet. */
  get heights(): Heights | null {
    return this.#floor?.heights ?? null
  }

  /** Whether updates wait for a statement of the witness. */
  get needsWitness(): boolean {
    return this.#needsWitness
  }

  get witnessNeed(): WitnessNeed {
    return this.#options.witness.need
  }

  /** Of the newest root that this device holds. */
  get rootVersion(): number {
    return this.#rootVersion
  }

  /** Null: there is none, so nothing may run. */
  get policy(): PolicyInForce | null {
    return this.#belief?.policy ?? null
  }

  /** When the timestamp at hand expires, Unix milliseconds; 0: there is none. */
  get expiresMs(): number {
    const bytes = this.#record.documents.timestamp
    return bytes ? expiresAtMs(parseMetadata(bytes, 'timestamp').signed) : 0
  }

  /** Keys that the targets delegate a service to, by bundle key id. */
  serviceKeys(service: string): TrustedKeys {
    return this.#belief ? serviceKeys(this.#belief.targets, service) : new Map()
  }

  /** A fresh question for the witness, 32 bytes; the one before it becomes void. Valid for `challengeLifetimeMs`. */
  challenge(): Uint8Array {
    const nonce = new Uint8Array(randomBytes(NONCE_BYTES))
    this.#challenge = { nonce, untilMs: this.#options.clock.monotonicMs() + challengeLifetimeMs }
    return nonce
  }

  /**
   * Takes the answer to the last challenge, once. Durable when it resolves.
   * @throws WITNESS_UNTRUSTED badly signed, for another fleet, or for another question than the last one
   * @throws TRUST_ROLLBACK the witness has seen less than it said before: it was set back
   */
  async acceptStatement(signed: SignedStatement): Promise<void> {
    await this.#inTurn(async () => {
      const statement = readStatement(signed, this.#options.witness.keys)
      this.#requireAnswer(statement)
      if (this.#witnessed) {
        if (!statement.heights) throw new OffboxError('TRUST_ROLLBACK', 'the witness has forgotten what it saw')
        requireHeights(statement.heights, this.#witnessed, 'the same witness')
      }
      await this.#keep({ ...this.#record, statement: signed })
      this.#believe(statement)
      this.#challenge = null
      this.#needsWitness = false
    })
  }

  /**
   * Verifies pushed metadata and says what it vouches for. What was accepted on the way is kept also when a later part is refused, as TUF
   * demands, as far as the store takes it; versions it has seen are never taken back. Durable when it resolves. A push of roots alone, with no `paths`, only moves the root.
   * A push that is empty asks what is stored, which must not have expired.
   * @param paths of targets, e.g. "services/telemetry/1.1.0.offbox"
   * @param policy the file that the targets name; empty: the one at hand is meant
   * @returns in the order of `paths`
   * @throws TRUST_MALFORMED, TRUST_THRESHOLD, TRUST_ROLLBACK, TRUST_EXPIRED, TRUST_MISMATCH, TRUST_UNAVAILABLE, TRUST_UNLISTED, STORE_FULL
   */
  async update(push: MetadataPush, paths: readonly string[], policy: Uint8Array = new Uint8Array()): Promise<readonly VerifiedTarget[]> {
    return await this.#inTurn(async () => {
      if (this.#needsWitness) throw new OffboxError('TRUST_UNAVAILABLE', 'there is no statement of the witness since this start')
      const { anchor } = this.#options
      const [stored, time] = [this.#record.documents, this.time.marks()]
      const findings = await this.#examine({ anchor, stored, files: filesOf(push), paths, time, floor: this.#floor })
      const chosen = await attempt(() => this.#policyFor(findings, policy))
      if (chosen.refusal) {
        // Policy and metadata count together: what names a policy that is not there is as if it had not come, but for its roots.
        await this.#keepRoots(findings).catch(() => {})
        throw chosen.refusal
      }
      if (!findings.refusal) {
        await this.#keepAccepted(findings, chosen.value)
        return findings.targets
      }
      // Why it was refused is what to tell; the next push that is taken tells of a store that is still full.
      await this.#keepAccepted(findings, chosen.value).catch(() => {})
      throw new OffboxError(findings.refusal.code, findings.refusal.message)
    })
  }

  async #examine(request: MetadataRequest): Promise<MetadataFindings> {
    return this.#options.examine ? await this.#options.examine(request) : await examineMetadata(request, this.#rules)
  }

  /** The policy that goes with what was found; undefined: what there is stays, since the targets were not reached. */
  #policyFor({ refreshed, policy: target, heights }: MetadataFindings, pushed: Uint8Array): { policy: PolicyInForce; bytes: Uint8Array } | null | undefined {
    if (!refreshed) return undefined
    if (!target) return null
    const bytes = pushed.length > 0 ? pushed : this.#record.policy
    if (!bytes || (pushed.length === 0 && sha256(bytes) !== target.hashes['sha256'])) {
      throw new OffboxError('TRUST_UNAVAILABLE', `there is no ${POLICY_PATH}, which the targets name`)
    }
    const policy = readPolicy(bytes, target)
    const [found, before] = [{ policy, sha256: sha256(bytes) }, this.policy]
    // Whoever counted to the end with stolen keys loses them together with those of timestamp and snapshot: then it counts anew.
    if (before && heights.keys === this.#floor?.heights.keys) requireNewer(found, before)
    return { policy: found, bytes: new Uint8Array(bytes) }
  }

  async #load(): Promise<void> {
    const problems: string[] = []
    const found: { record: TrustRecord; verification: Verification }[] = []
    const believed: Uint8Array[] = []
    // The anchor is checked by itself first, so that a bad image is not taken for a bad store.
    this.#rootVersion = this.#verification(NO_DOCUMENTS).heights.root
    const copies = await this.#copies.read()
    for (const { name, bytes, corrupt } of copies) {
      if (corrupt) problems.push(`copy ${name} failed its checksum, or cannot be read`)
      if (!bytes) continue
      // Mostly they are the same, and need no second look.
      if (believed.some((one) => Buffer.compare(one, bytes) === 0)) {
        believed.push(bytes)
        continue
      }
      try {
        const record = unpackRecord(bytes)
        const verification = this.#verification(record.documents)
        verification.loadStored()
        found.push({ record, verification })
        believed.push(bytes)
      } catch (error) {
        if (!(error instanceof OffboxError)) throw error
        problems.push(`copy ${name} is not believed: ${error.message}`)
      }
    }
    for (const { record, verification } of found) this.#adopt(record, verification, problems)
    const chosen = found.find(({ record }) => record === this.#record)
    if (chosen) await this.#readBelief(chosen.verification, problems)
    // A store that says nothing of how far the repository had come is as good as none, however whole it is.
    const knows = this.#floor !== null && (this.#floor.heights.timestamp > 0 || this.#witnessed !== null)
    if (knows && this.#options.witness.need === 'without-store') this.#needsWitness = false
    await this.#makeGood(believed, problems)
    this.#problems = problems
  }

  /** Of two copies the one that has come further; both count as seen. */
  #adopt(record: TrustRecord, verification: Verification, problems: string[]): void {
    const { heights } = verification
    if (verification.issuedAtMs > 0) this.time.learn('timestamp', verification.issuedAtMs, heights.keys)
    if (this.#record === EMPTY_RECORD || (this.#floor && isBelow(this.#floor.heights, heights))) this.#record = record
    this.#raise(heights, 'this device')
    if (!record.statement) return
    try {
      this.#believe(readStatement(record.statement, this.#options.witness.keys))
    } catch (error) {
      // An image may bring another witness: its predecessor's word is no reason to lose the rest.
      problems.push(`the stored statement is not believed: ${messageOf(error)}`)
    }
  }

  async #makeGood(found: readonly Uint8Array[], problems: string[]): Promise<void> {
    const [one, other] = found
    if (!one || (other && Buffer.compare(one, other) === 0)) return
    try {
      await this.#keep(this.#record)
    } catch (error) {
      // It can be read, which is what matters now; the next update tells of it if it lasts.
      problems.push(`the store could not be made good: ${messageOf(error)}`)
    }
  }

  /** The targets and the policy at hand, expired or not: what ran before must be able to start without anybody's help. */
  async #readBelief(verification: Verification, problems: string[]): Promise<void> {
    this.#rootVersion = verification.heights.root
    const { documents, policy: bytes } = this.#record
    if (!documents.timestamp) return
    try {
      const target = await verification.storedTarget(POLICY_PATH)
      this.#believeTargets(null)
      if (target?.role !== POLICY_ROLE) return
      const policy = readPolicy(bytes ?? new Uint8Array(), target)
      this.#believeTargets({ policy, sha256: sha256(bytes ?? new Uint8Array()) })
    } catch (error) {
      if (!(error instanceof OffboxError)) throw error
      problems.push(`there is no policy: ${error.message}`)
    }
  }

  /** Of the targets metadata in the store, which was verified. */
  #believeTargets(policy: PolicyInForce | null): void {
    const bytes = this.#record.documents.targets.get('targets')
    if (bytes) this.#belief = { policy, targets: parseMetadata(bytes, 'targets').signed }
  }

  /** Roots always: they only ever go on. The rest if it is not below what was seen. @param chosen undefined: the policy stays */
  async #keepAccepted(findings: MetadataFindings, chosen: { policy: PolicyInForce; bytes: Uint8Array } | null | undefined): Promise<void> {
    const { documents, heights, issuedAtMs } = findings
    if (this.#floor && isBelow(heights, this.#floor.heights)) return await this.#keepRoots(findings)
    if (issuedAtMs > 0) this.time.learn('timestamp', issuedAtMs, heights.keys)
    this.#raise(heights, 'this device')
    const [kept, before] = [pruned(documents), this.#record]
    const policy = chosen === undefined ? before.policy : (chosen?.bytes ?? null)
    const same = sameDocuments(kept, before.documents) && sameBytes(policy, before.policy)
    if (!same) await this.#keep({ ...before, documents: kept, policy: policy ?? null })
    this.#rootVersion = heights.root
    if (chosen === undefined) return
    this.#believeTargets(chosen?.policy ?? null)
    this.#options.changed?.()
  }

  async #keepRoots({ documents, heights }: MetadataFindings): Promise<void> {
    const before = this.#record.documents
    // Other keys with a newer root are never below, so these are the same ones.
    if (this.#floor && heights.keys === this.#floor.heights.keys) {
      this.#raise({ ...this.#floor.heights, root: Math.max(this.#floor.heights.root, heights.root) }, 'this device')
    }
    const kept: Documents = { ...before, roots: documents.roots }
    if (!sameDocuments(kept, before)) await this.#keep({ ...this.#record, documents: kept })
    this.#rootVersion = heights.root
  }

  async #keep(record: TrustRecord): Promise<void> {
    await this.#copies.write(packRecord(record))
    this.#record = record
  }

  #requireAnswer(statement: Statement): void {
    const refuse = (why: string) => new OffboxError('WITNESS_UNTRUSTED', `the statement of the witness ${why}`)
    if (statement.fleet !== this.#options.fleet) throw refuse(`is for fleet ${JSON.stringify(statement.fleet.slice(0, 40))}`)
    if (!this.#challenge || this.#options.clock.monotonicMs() > this.#challenge.untilMs) throw refuse('comes unasked, or too late')
    if (!timingSafeEqual(Buffer.from(statement.nonce, 'hex'), this.#challenge.nonce)) throw refuse('answers another question')
  }

  #believe({ heights, timeMs }: Statement): void {
    this.time.learn('witness', timeMs)
    if (!heights) return
    this.#witnessed = heights
    this.#raise(heights, 'the witness')
  }

  #raise(heights: Heights, seenBy: string): void {
    if (this.#floor && !isBelow(this.#floor.heights, heights)) return
    this.#floor = { heights: this.#floor ? highest(this.#floor.heights, heights) : heights, seenBy }
  }

  #verification(stored: Documents): Verification {
    const nowMs = (keys: string) => this.time.nowMs(keys)
    return new Verification({ anchor: this.#options.anchor, stored, source: NO_SOURCE, nowMs, rules: this.#rules })
  }

  async #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const done = this.#last.catch(() => {}).then(act)
    this.#last = done
    return await done
  }
}

/** @throws BUNDLE_CORRUPT `file` is not the one that the target means */
export function requireTargetFile(target: VerifiedTarget, file: Uint8Array): void {
  if (file.length === target.length && sha256(file) === target.hashes['sha256']) return
  throw new OffboxError('BUNDLE_CORRUPT', `${target.path} is not the file that ${target.role} signed for`)
}

/** @throws TRUST_ROLLBACK, TRUST_MISMATCH */
function requireNewer(found: PolicyInForce, before: PolicyInForce): void {
  const [version, seen] = [found.policy.version, before.policy.version]
  if (version < seen) throw new OffboxError('TRUST_ROLLBACK', `policy version ${version} is older than version ${seen}, which this device has seen`)
  if (version === seen && found.sha256 !== before.sha256) throw new OffboxError('TRUST_MISMATCH', `another policy of version ${version} is in force already`)
}

async function attempt<T>(act: () => T): Promise<{ value: T; refusal: null } | { value: undefined; refusal: OffboxError }> {
  try {
    return { value: act(), refusal: null }
  } catch (error) {
    if (error instanceof OffboxError && error.code !== 'INTERNAL') return { value: undefined, refusal: error }
    throw error
  }
}

function sameBytes(one: Uint8Array | null | undefined, other: Uint8Array | null | undefined): boolean {
  return one && other ? Buffer.compare(one, other) === 0 : (one ?? null) === (other ?? null)
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
