/** The controller's bundles: registry/NAME/VERSION.offbox, verified when they come in and again when they are read. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import semver from 'semver'
import { bundleBytesMax } from '../../core/bundle-format.ts'
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { makeDirectory, readIfThere, writeAtomic } from '../home/atomic.ts'
import { anchoredKeys, type BundleKeys, readServiceBundle } from './verify.ts'

export interface BundleFacts {
  readonly service: string
  readonly version: string
  /** Of the file, hex. */
  readonly sha256: string
  readonly sizeBytes: number
  /** Trusted keys that signed it, hex. */
  readonly keyIds: readonly string[]
}

/** Bundles kept at once. Nothing is deleted unasked, so this bounds the disk: 4,096 bundles of at most 16 MiB. */
export const bundlesMax = 4_096

export class Registry {
  readonly #directory: string
  readonly #keys: () => Promise<BundleKeys>
  /** Facts of files read before; a bundle under a name and version never changes. */
  readonly #facts = new Map<string, BundleFacts>()

  /** @param keys a function where they may change while the registry is in use */
  constructor(directory: string, keys: TrustedKeys | (() => Promise<BundleKeys>)) {
    this.#directory = directory
    this.#keys = typeof keys === 'function' ? keys : async () => anchoredKeys(keys)
  }

  /**
   * Verifies a bundle file and keeps it. The same bytes again answer the same.
   * @throws BUNDLE_MALFORMED, BUNDLE_UNTRUSTED, BUNDLE_CORRUPT, BUNDLE_EXISTS, LIMIT_REACHED, STORE_FULL
   */
  async put(file: Uint8Array): Promise<BundleFacts> {
    const keys = await this.#keys()
    const facts = readServiceBundle(file, keys)
    const path = this.#path(facts.service, facts.version)
    const there = await readIfThere(path)
    if (there) {
      if (Buffer.compare(there, file) === 0) return facts
      // Bytes that no longer verify are a rotten disk, and the same release put again is the cure.
      if (isIntact(there, keys)) {
        throw new OffboxError('BUNDLE_EXISTS', `${facts.service} ${facts.version} is in the registry with other bytes`)
      }
    } else if ((await this.list()).length >= bundlesMax) {
      throw new OffboxError('LIMIT_REACHED', `the registry holds ${bundlesMax} bundles`)
    }
    await makeDirectory(join(this.#directory, facts.service))
    await writeAtomic(path, file, { mode: 0o644 })
    this.#facts.set(path, facts)
    return facts
  }

  /** The bytes of a bundle, verified anew. @throws BUNDLE_NOT_FOUND, BUNDLE_CORRUPT, BUNDLE_UNTRUSTED (the key was withdrawn) */
  async read(service: string, version: string): Promise<Uint8Array> {
    const file = this.#isName(service, version) ? await readIfThere(this.#path(service, version)) : null
    if (!file) throw new OffboxError('BUNDLE_NOT_FOUND', `the registry has no ${service.slice(0, 64)} ${version.slice(0, 64)}`)
    const facts = readServiceBundle(file, await this.#keys())
    if (facts.service !== service || facts.version !== version) {
      throw new OffboxError('BUNDLE_CORRUPT', `the registry's file of ${service} ${version} holds ${facts.service} ${facts.version}`)
    }
    return file
  }

  /** @throws BUNDLE_NOT_FOUND */
  async require(service: string, version: string): Promise<void> {
    await this.read(service, version)
  }

  /** By service, then version. A file that cannot be verified is left out: it cannot be supplied either. */
  async list(): Promise<BundleFacts[]> {
    const found: BundleFacts[] = []
    for (const service of (await readdir(this.#directory)).sort()) {
      if (!isServiceName(service)) continue
      for (const name of await readdir(join(this.#directory, service))) {
        if (!name.endsWith('.offbox') || name.startsWith('.')) continue
        const facts = await this.#factsOf(join(this.#directory, service, name))
        if (facts) found.push(facts)
      }
    }
    return found.sort((a, b) => (a.service === b.service ? semver.compare(a.version, b.version) : a.service < b.service ? -1 : 1))
  }

  async #factsOf(path: string): Promise<BundleFacts | null> {
    const known = this.#facts.get(path)
    if (known) return known
    try {
      const file = await readIfThere(path)
      if (!file) return null
      const facts = readServiceBundle(file, await this.#keys())
      this.#facts.set(path, facts)
      return facts
    } catch (error) {
      if (error instanceof OffboxError) return null
      throw error
    }
  }

  #isName(service: string, version: string): boolean {
    return isServiceName(service) && semver.valid(version) === version
  }

  #path(service: string, version: string): string {
    return join(this.#directory, service, `${version}.offbox`)
  }
}

/** Gathers an upload. @throws LIMIT_REACHED more than a bundle can have */
export async function gather(chunks: AsyncIterable<{ chunk: Uint8Array }>): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let sizeBytes = 0
  for await (const { chunk } of chunks) {
    sizeBytes += chunk.length
    if (sizeBytes > bundleBytesMax) throw new OffboxError('LIMIT_REACHED', `the upload has more than ${bundleBytesMax} bytes`)
    parts.push(chunk)
  }
  return new Uint8Array(Buffer.concat(parts))
}

function isIntact(file: Uint8Array, keys: BundleKeys): boolean {
  try {
    readServiceBundle(file, keys)
    return true
  } catch (error) {
    if (error instanceof OffboxError) return false
    throw error
  }
}
