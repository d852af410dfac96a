/**
 * Services on disk: stateDir/bundles/NAME/ holds VERSION.offbox files, `active` (the version to run, and its configuration),
 * `last-good` (the one that was active before, for when the active one crashes too often) and, during a change, `candidate-CHANGE`
 * (what `active` becomes when the change is confirmed). Every load verifies the
 * signature anew: what was trusted when stored may not be trusted now.
 */
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import type { VerifiedBundle } from '../supervisor/types.ts'
import { verifyBundle } from './verify.ts'
import semver from 'semver'

export interface Active {
  readonly version: string
  readonly config: unknown
  /** The change that made it active. */
  readonly changeId: string
}

const LAST_GOOD = 'last-good'
const CANDIDATE_PREFIX = 'candidate-'
const BUNDLE_SUFFIX = '.offbox'

export class BundleStore {
  readonly #files: AtomicFiles
  readonly #root: string
  readonly #trusted: (service: string) => TrustedKeys

  /** @param trusted for a service's bundles, as of now */
  constructor(files: AtomicFiles, stateDir: string, trusted: (service: string) => TrustedKeys) {
    this.#files = files
    this.#root = join(stateDir, 'bundles')
    this.#trusted = trusted
  }

  /** Names of services with something stored, sorted. */
  async services(): Promise<string[]> {
    return (await this.#files.list(this.#root)).filter(isServiceName)
  }

  /** Null when the service has no confirmed version. @throws STORE_CORRUPT */
  async active(service: string): Promise<Active | null> {
    return await this.#note(this.#at(service, 'active'))
  }

  /** What was active before; null when nothing was, or when it was fallen back to. @throws STORE_CORRUPT */
  async lastGood(service: string): Promise<Active | null> {
    return await this.#note(this.#at(service, LAST_GOOD))
  }

  /** What a change under way would make active. @throws STORE_CORRUPT */
  async candidate(service: string, changeId: string): Promise<Active | null> {
    return await this.#note(this.#at(service, CANDIDATE_PREFIX + changeId))
  }

  /** @throws STORE_CORRUPT (also another bundle than its place says), BUNDLE_NOT_FOUND, and the errors of verifyBundle */
  async load(service: string, version: string): Promise<VerifiedBundle> {
    const file = await this.#files.read(this.#at(service, version + BUNDLE_SUFFIX))
    if (file === null) throw new OffboxError('BUNDLE_NOT_FOUND', `${service} ${version} is not stored on this device`)
    const bundle = verifyBundle(file, this.#trusted(service))
    const { name, version: built } = bundle.manifest
    // What was trusted for one service, at one version, is not trusted for lying in the place of another.
    if (name !== service || built !== version) throw new OffboxError('STORE_CORRUPT', `in the place of ${service} ${version} lies ${name} ${built}`)
    return bundle
  }

  /**
   * Stores a candidate: its bundle (null: it is there already), then the note that names it. Durable.
   * @throws STORE_FULL (nothing but the bundle may be left)
   */
  async stage(service: string, bundle: Uint8Array | null, candidate: Active): Promise<void> {
    if (bundle) await this.#files.write(this.#at(service, candidate.version + BUNDLE_SUFFIX), bundle)
    await this.#files.writeJson(this.#at(service, CANDIDATE_PREFIX + candidate.changeId), candidate)
  }

  /**
   * Makes a candidate the active version, in one durable step; what was active becomes the last good one, or nothing does
   * (`fallenBack`: what was active has failed). Safe to repeat.
   * @throws STORE_CORRUPT neither the candidate nor its having become active can be found; what was active stays so
   */
  async commit(service: string, changeId: string, { fallenBack = false } = {}): Promise<void> {
    const path = this.#at(service, CANDIDATE_PREFIX + changeId)
    const candidate = await this.candidate(service, changeId)
    if (candidate) {
      const before = await this.active(service).catch(() => null)
      if (before && before.changeId !== changeId && !fallenBack) await this.#files.writeJson(this.#at(service, LAST_GOOD), before)
      await this.#files.writeJson(this.#at(service, 'active'), candidate)
      if (fallenBack) await this.#files.remove(this.#at(service, LAST_GOOD))
      // Last: as long as it is there, all of this is done again after a cut.
      await this.#files.remove(path)
    } else if ((await this.active(service))?.changeId !== changeId) {
      throw new OffboxError('STORE_CORRUPT', `the candidate of change ${changeId} is gone`)
    }
  }

  /** Forgets a candidate. Safe to repeat. */
  async drop(service: string, changeId: string): Promise<void> {
    await this.#files.remove(this.#at(service, CANDIDATE_PREFIX + changeId))
  }

  /** Forgets every candidate, e.g. of a change whose journal was lost. */
  async dropAll(service: string): Promise<void> {
    for (const name of await this.#files.list(this.#at(service))) {
      if (name.startsWith(CANDIDATE_PREFIX)) await this.#files.remove(this.#at(service, name))
    }
  }

  /** Removes bundles that neither the active version nor the last good one nor a candidate needs. Not during a change of this service. */
  async collect(service: string): Promise<void> {
    const names = await this.#files.list(this.#at(service))
    const needed = new Set<string>()
    const active = await this.active(service)
    if (active) needed.add(active.version + BUNDLE_SUFFIX)
    // Without an active version there is nothing to fall back from. A note that rotted is of no use to anybody.
    const lastGood = active && (await this.lastGood(service).catch(() => null))
    if (lastGood) needed.add(lastGood.version + BUNDLE_SUFFIX)
    for (const name of names.filter((name) => name.startsWith(CANDIDATE_PREFIX))) {
      const candidate = await this.#note(this.#at(service, name))
      if (candidate) needed.add(candidate.version + BUNDLE_SUFFIX)
    }
    for (const name of names) {
      if (name.endsWith(BUNDLE_SUFFIX) && !needed.has(name)) await this.#files.remove(this.#at(service, name))
    }
    if (needed.size === 0) await this.#files.removeTree(this.#at(service))
  }

  /** Forgets a service: first what makes it run, durably, then the rest. Safe to repeat. */
  async forget(service: string): Promise<void> {
    await this.#files.remove(this.#at(service, 'active'))
    await this.#files.removeTree(this.#at(service))
  }

  /** A checksum says that it is as it was written, not that it was written here: a version becomes part of a path. @throws STORE_CORRUPT */
  async #note(path: string): Promise<Active | null> {
    const raw = await this.#files.readJson(path)
    if (raw === null) return null
    const { version, changeId } = raw as { version?: unknown; changeId?: unknown }
    if (typeof version === 'string' && semver.valid(version) === version && typeof changeId === 'string') return raw as Active
    await this.#files.setAside(path)
    throw new OffboxError('STORE_CORRUPT', `${path} names no version; it is set aside`)
  }

  #at(service: string, ...names: string[]): string {
    // Names come from verified manifests or from our own journal; a path must not depend on that alone.
    if (!isServiceName(service)) throw new OffboxError('ARGUMENT_INVALID', `${JSON.stringify(service)} cannot name a service`)
    return join(this.#root, service, ...names)
  }
}
