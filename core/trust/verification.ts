/**
 * One run of the TUF client workflow (specification 1.0, section 5) over documents from anywhere. tuf-js decides each step
 * (`TrustedMetadataStore`); here are the order of the steps, the second lock before each of them, trusted time instead of the clock, and an error
 * that a caller can act on. tuf-js's own Updater is not used: it writes files that a power cut tears, and keeps no cause of an error.
 */
import { ExpiredMetadataError, EqualVersionError, RepositoryError } from 'tuf-js/dist/error.js'
import { TrustedMetadataStore } from 'tuf-js/dist/store.js'
import { OffboxError } from '../errors.ts'
import type { Metadata, Root, Targets, Timestamp } from '../tuf/metadata.ts'
import type { Documents, MetadataSource } from './documents.ts'
import { type Heights, keysDigest } from './heights.ts'
import { keysFor, type MetadataRules } from './rules.ts'

declare const verified: unique symbol
/** What signed metadata says of one file. Only a Verification makes it; nothing else admits a file. */
export interface VerifiedTarget {
  readonly path: string
  /** Bytes. */
  readonly length: number
  /** Algorithm to hex; "sha256" is always among them under the device's rules. */
  readonly hashes: Readonly<Record<string, string>>
  readonly custom: Readonly<Record<string, unknown>>
  /** The role that vouches for it, and the keys that may sign for that role. */
  readonly role: string
  readonly keyIds: readonly string[]
  readonly [verified]: true
}

export interface VerificationOptions {
  /** Root metadata that is trusted from the start: the image's. */
  readonly anchor: Uint8Array
  readonly stored: Documents
  readonly source: MetadataSource
  /**
   * Trusted time, Unix milliseconds: what is expired by it is refused. Asked once the root is known.
   * @param keys of the root in force, as in Heights: a time that other keys vouched for may have been a thief's
   */
  readonly nowMs: (keys: string) => number
  readonly rules: MetadataRules
}

interface Accepted {
  roots: Uint8Array[]
  timestamp: Uint8Array | null
  snapshot: Uint8Array | null
  targets: Map<string, Uint8Array>
}

/** One at a time; good for one refresh and any number of searches after it. */
export class Verification {
  readonly #options: VerificationOptions
  readonly #set: TrustedMetadataStore
  /** Documents that tuf-js trusts, as parsed: whom they delegate to. */
  readonly #parsed = new Map<string, Metadata>()
  readonly #accepted: Accepted
  #issuedAtMs = 0
  #nowMs = 0

  /** @throws TRUST_MALFORMED, TRUST_THRESHOLD the anchor is not a root signed by itself; STORE_CORRUPT the stored roots do not follow from it */
  constructor(options: VerificationOptions) {
    this.#options = options
    const { anchor, stored } = options
    const root = this.#parse(anchor, 'root')
    options.rules.requireThreshold(root, 'root', root)
    this.#set = step('the anchored root', () => new TrustedMetadataStore(Buffer.from(anchor)))
    setReferenceTime(this.#set, 0)
    this.#parsed.set('root', root)
    this.#accepted = { roots: [], timestamp: stored.timestamp, snapshot: stored.snapshot, targets: new Map(stored.targets) }
    this.#takeStoredRoots(stored.roots)
  }

  /** What may be stored: everything accepted so far, also when a later step was refused. */
  get documents(): Documents {
    return this.#accepted
  }

  /** When the repository says that it made the timestamp in force, Unix milliseconds; 0 for unknown. */
  get issuedAtMs(): number {
    return this.#issuedAtMs
  }

  get root(): Metadata<Root> {
    return this.#parsed.get('root') as Metadata<Root>
  }

  /** How far the verified documents have come. */
  get heights(): Heights {
    const { root, timestamp, snapshot } = this.#set
    const targets = Object.entries(snapshot?.signed.meta ?? {}).map(([name, { version }]) => [name.replace(/\.json$/, ''), version] as const)
    return {
      root: root.signed.version,
      keys: keysDigest(this.root.signed.roles),
      timestamp: timestamp?.signed.version ?? 0,
      snapshot: Math.max(snapshot?.signed.version ?? 0, timestamp?.signed.snapshotMeta.version ?? 0),
      targets: Object.fromEntries(targets),
    }
  }

  /**
   * Takes stored timestamp and snapshot as far as they still verify: for their heights. Nothing expires here.
   * Not together with `refresh` on one object.
   */
  loadStored(): void {
    attempt(() => this.#takeStoredTimestamp())
    attempt(() => this.#takeStoredSnapshot())
  }

  /** Section 5.3: every newer root the source has, each signed by the one before it and by itself. @throws a code of trust */
  async refreshRoot(): Promise<void> {
    const { source, rules } = this.#options
    for (let taken = 0; ; taken++) {
      const bytes = await source.root(this.#set.root.signed.version + 1, rules.bytesMax('root'))
      if (bytes === null) return
      if (taken === rules.rootsMax) throw new OffboxError('TRUST_MALFORMED', `more than ${rules.rootsMax} new roots at once`)
      this.#takeRoot(bytes)
    }
  }

  /**
   * Sections 5.3 to 5.6: root, timestamp, snapshot, targets.
   * @throws TRUST_MALFORMED, TRUST_THRESHOLD, TRUST_ROLLBACK, TRUST_EXPIRED, TRUST_MISMATCH, TRUST_UNAVAILABLE
   */
  async refresh(): Promise<void> {
    await this.refreshRoot()
    this.#nowMs = this.#options.nowMs(keysDigest(this.root.signed.roles))
    setReferenceTime(this.#set, this.#nowMs)
    await this.#refreshTimestamp()
    await this.#refreshSnapshot()
    await this.#loadTargets('targets', 'root')
  }

  /**
   * Section 5.6.7: the first role, in order of trust, that lists the path. Null when none does. After `refresh`.
   * @throws as `refresh`: a role that is asked for and refused ends the search
   */
  async target(path: string): Promise<VerifiedTarget | null> {
    const visits = [{ role: 'targets', delegator: 'root' }]
    const visited = new Set<string>()
    while (visits.length > 0 && visited.size <= this.#options.rules.rolesVisitedMax) {
      const { role, delegator } = visits.pop() as (typeof visits)[number]
      // A role that two delegate to is searched once, but must be signed as each of them demands.
      const { signed } = await this.#loadTargets(role, delegator)
      if (visited.has(role)) continue
      visited.add(role)
      if (Object.hasOwn(signed.targets, path)) return this.#brand(path, role, delegator)
      const next = []
      for (const { role: child, terminating } of signed.delegations?.rolesForTarget(path) ?? []) {
        next.push({ role: child, delegator: role })
        if (!terminating) continue
        visits.length = 0
        break
      }
      visits.push(...next.reverse())
    }
    return null
  }

  /**
   * As `target`, of what is stored. Newer metadata that came without the rest of it outdates the stored targets, and must not take away what
   * was believed before: then they count by themselves, as far as the root's keys still sign for them. For what ran already, nothing new.
   */
  async storedTarget(path: string): Promise<VerifiedTarget | null> {
    try {
      return await this.target(path)
    } catch (error) {
      const bytes = this.#options.stored.targets.get('targets')
      if (!bytes || !(error instanceof OffboxError) || error.code === 'INTERNAL') throw error
      const { targets } = this.#checked(bytes, 'targets', 'root').signed as Targets
      const found = Object.hasOwn(targets, path) ? targets[path] : undefined
      return found ? brand(path, found, 'targets', this.root) : null
    }
  }

  #brand(path: string, role: string, delegator: string): VerifiedTarget {
    const found = this.#set.getRole(role)?.signed.targets[path]
    const parsed = this.#parsed.get(delegator)
    if (!found || !parsed) throw new OffboxError('INTERNAL', `${role} was verified and is gone`)
    return brand(path, found, role, parsed)
  }

  #takeStoredRoots(roots: readonly Uint8Array[]): void {
    for (const bytes of roots) {
      try {
        // An image newer than the store brings a newer anchor: what came before it is of no interest.
        if (this.#parse(bytes, 'root').signed.version <= this.#set.root.signed.version) continue
        this.#takeRoot(bytes)
      } catch (error) {
        throw new OffboxError('STORE_CORRUPT', 'the stored roots do not follow from the anchored one', { cause: error })
      }
    }
  }

  #takeRoot(bytes: Uint8Array): void {
    const { rules } = this.#options
    const root = this.#parse(bytes, 'root')
    const expected = this.#set.root.signed.version + 1
    if (root.signed.version !== expected)
      throw new OffboxError('TRUST_MISMATCH', `a root of version ${root.signed.version} in the place of version ${expected}`)
    rules.requireThreshold(root, 'root', this.root)
    rules.requireThreshold(root, 'root', root)
    step('root', () => this.#set.updateRoot(Buffer.from(bytes)))
    this.#parsed.set('root', root)
    this.#accepted.roots.push(bytes)
  }

  #takeStoredTimestamp(): void {
    const bytes = this.#accepted.timestamp
    if (!bytes) return
    const timestamp = this.#checked(bytes, 'timestamp', 'root')
    try {
      this.#set.updateTimestamp(Buffer.from(bytes))
    } finally {
      // An expired one still says how far the repository had come.
      if (this.#set.timestamp) this.#noteIssue(timestamp)
    }
  }

  async #refreshTimestamp(): Promise<void> {
    const { source, rules } = this.#options
    attempt(() => this.#takeStoredTimestamp())
    const bytes = await source.timestamp(rules.bytesMax('timestamp'))
    if (bytes === null) throw unavailable('timestamp.json')
    const timestamp = this.#checked(bytes, 'timestamp', 'root')
    try {
      step('timestamp', () => this.#set.updateTimestamp(Buffer.from(bytes)), 'TRUST_ROLLBACK')
      this.#accepted.timestamp = bytes
      this.#noteIssue(timestamp)
    } catch (error) {
      // The version that is in force already: that one stays, whatever this one says (5.4.3.1).
      if (!(error instanceof OffboxError && error.cause instanceof EqualVersionError)) throw error
    }
    if (this.#set.timestamp?.signed.isExpired(new Date(this.#nowMs))) throw new OffboxError('TRUST_EXPIRED', 'the timestamp is expired')
  }

  #takeStoredSnapshot(): void {
    const bytes = this.#accepted.snapshot
    if (!bytes) throw unavailable('a stored snapshot')
    this.#checked(bytes, 'snapshot', 'root')
    this.#set.updateSnapshot(Buffer.from(bytes), true)
  }

  async #refreshSnapshot(): Promise<void> {
    if (attempt(() => this.#takeStoredSnapshot())) return
    const meta = this.#set.timestamp?.signed.snapshotMeta
    if (!meta) throw unavailable('timestamp.json')
    const version = this.#named(meta.version)
    const bytes = await this.#options.source.snapshot(version, this.#bytesMax('snapshot', meta.length))
    if (bytes === null) throw unavailable(version === undefined ? 'snapshot.json' : `${version}.snapshot.json`)
    step('snapshot', () => meta.verify(Buffer.from(bytes)), 'TRUST_MISMATCH')
    const snapshot = this.#checked(bytes, 'snapshot', 'root')
    if (snapshot.signed.version !== meta.version) throw mismatch('snapshot', snapshot.signed.version, 'timestamp', meta.version)
    step('snapshot', () => this.#set.updateSnapshot(Buffer.from(bytes)), 'TRUST_ROLLBACK')
    this.#accepted.snapshot = bytes
  }

  async #loadTargets(role: string, delegator: string) {
    if (this.#set.getRole(role)) {
      this.#verifyAgain(role, delegator)
    } else if (!attempt(() => this.#takeTargets(this.#accepted.targets.get(role), role, delegator))) {
      const meta = this.#listed(role)
      const version = this.#named(meta.version)
      const bytes = await this.#options.source.targets(role, version, this.#bytesMax(role, meta.length))
      if (bytes === null) throw unavailable(version === undefined ? `${role}.json` : `${version}.${role}.json`)
      this.#takeTargets(bytes, role, delegator)
    }
    const loaded = this.#set.getRole(role)
    if (!loaded) throw new OffboxError('INTERNAL', `tuf-js did not keep ${role}`)
    return loaded
  }

  #takeTargets(bytes: Uint8Array | undefined, role: string, delegator: string): void {
    if (!bytes) throw unavailable(`a stored ${role}`)
    const meta = this.#listed(role)
    step(role, () => meta.verify(Buffer.from(bytes)), 'TRUST_MISMATCH')
    const targets = this.#checked(bytes, role, delegator)
    if (targets.signed.version !== meta.version) throw mismatch(role, targets.signed.version, 'snapshot', meta.version)
    step(role, () => this.#set.updateDelegatedTargets(Buffer.from(bytes), role, delegator))
    this.#parsed.set(role, targets)
    // Last in order is what was used last.
    this.#accepted.targets.delete(role)
    this.#accepted.targets.set(role, bytes)
  }

  #verifyAgain(role: string, delegator: string): void {
    const [metadata, parent] = [this.#parsed.get(role), this.#parsed.get(delegator)]
    const [known, above] = [this.#set.getRole(role), delegator === 'root' ? this.#set.root : this.#set.getRole(delegator)]
    if (!metadata || !parent || !known || !above) throw new OffboxError('INTERNAL', `${role} or ${delegator} was verified and is gone`)
    this.#options.rules.requireThreshold(metadata, role, parent)
    step(role, () => above.verifyDelegate(role, known), 'TRUST_THRESHOLD')
  }

  /** What the snapshot says of a role. */
  #listed(role: string) {
    const meta = this.#set.snapshot?.signed.meta ?? {}
    const found = Object.hasOwn(meta, `${role}.json`) ? meta[`${role}.json`] : undefined
    if (!found) throw unavailable(`${role}.json in the snapshot`)
    return found
  }

  #parse(bytes: Uint8Array, role: string): Metadata {
    return this.#options.rules.parse(bytes, role)
  }

  /** Parsed within bounds, and past the second lock. */
  #checked(bytes: Uint8Array, role: string, delegator: string): Metadata {
    const parent = this.#parsed.get(delegator)
    if (!parent) throw new OffboxError('INTERNAL', `${delegator} was verified and is gone`)
    const metadata = this.#parse(bytes, role)
    this.#options.rules.requireThreshold(metadata, role, parent)
    return metadata
  }

  #bytesMax(role: string, said: number | undefined): number {
    return Math.min(this.#options.rules.bytesMax(role), said ?? Number.POSITIVE_INFINITY)
  }

  #named(version: number): number | undefined {
    return this.#set.root.signed.consistentSnapshot ? version : undefined
  }

  #noteIssue({ signed }: Metadata): void {
    const issuedAtMs = Date.parse((signed as Timestamp).issued ?? '')
    if (issuedAtMs <= Date.parse(signed.expires)) this.#issuedAtMs = issuedAtMs
  }
}

function brand(path: string, found: Pick<VerifiedTarget, 'length' | 'hashes'> & { custom?: unknown }, role: string, delegator: Metadata): VerifiedTarget {
  const { keyids } = keysFor(role, delegator).of
  return { path, length: found.length, hashes: { ...found.hashes }, custom: found.custom, role, keyIds: keyids } as unknown as VerifiedTarget
}

/** tuf-js reads the wall clock once, at construction. This is the one place that reaches into it; a release without the field is refused. */
function setReferenceTime(set: TrustedMetadataStore, nowMs: number): void {
  const inner = set as unknown as { referenceTime?: unknown }
  if (!(inner.referenceTime instanceof Date)) throw new OffboxError('INTERNAL', 'tuf-js keeps its time elsewhere')
  inner.referenceTime = new Date(nowMs)
}

type Refusal = 'TRUST_MALFORMED' | 'TRUST_MISMATCH' | 'TRUST_ROLLBACK' | 'TRUST_THRESHOLD'

/** One step of tuf-js. @param otherwise the code of a refusal that tuf-js gives no better class */
function step<T>(what: string, act: () => T, otherwise: Refusal = 'TRUST_MALFORMED'): T {
  try {
    return act()
  } catch (error) {
    throw new OffboxError(codeOf(error, otherwise), `${what} is refused: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
}

function codeOf(error: unknown, otherwise: Refusal) {
  if (error instanceof ExpiredMetadataError) return 'TRUST_EXPIRED'
  // The class is not exported where it can be imported; the second lock counts first, so this is for a defect of that one.
  if (error instanceof Error && /was signed by \d+\/\d+ keys/.test(error.message)) return 'TRUST_THRESHOLD'
  return error instanceof RepositoryError || otherwise !== 'TRUST_ROLLBACK' ? otherwise : 'TRUST_MALFORMED'
}

/** Whether it went through: of a stored document any refusal means no more than that a new one is needed. */
function attempt(act: () => void): boolean {
  try {
    act()
    return true
  } catch (error) {
    if (error instanceof OffboxError && error.code === 'INTERNAL') throw error
    return false
  }
}

function unavailable(what: string): OffboxError {
  return new OffboxError('TRUST_UNAVAILABLE', `there is no ${what}`)
}

function mismatch(role: string, version: number, by: string, than: number): OffboxError {
  return new OffboxError('TRUST_MISMATCH', `${role} has version ${version}, the ${by} names version ${than}`)
}
