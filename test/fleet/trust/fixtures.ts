/** A trust repository in a directory of its own, and tuf-js as a client that reads pushed files and nothing else. */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BaseFetcher, Updater } from 'tuf-js'
import { DownloadHTTPError } from 'tuf-js/dist/error.js'
import { filesOf } from '../../../core/tuf/push.ts'
import { fileName, targetPath } from '../../../core/tuf/metadata.ts'
import { KeyRing } from '../../../fleet/trust/key-ring.ts'
import { makePush } from '../../../fleet/trust/make-push.ts'
import { fromText } from '../../../fleet/trust/passphrase.ts'
import { latestRoot, type Repository } from '../../../fleet/trust/repository.ts'
import { initTrust, keysOf, readTrust, type TrustContext } from '../../../fleet/trust/trust.ts'
import { makeBundle, makeKey, type SigningKey, trust as trusted } from '../../fixtures/bundles.ts'

export const PASSPHRASE = 'correct horse battery'
/** Cheap: what scrypt costs is measured elsewhere. */
export const costLog2 = 14

export interface TestTrust {
  readonly path: string
  /** Signs `bundle`s; the only one of the anchors. */
  readonly key: SigningKey
  /** A command's view. Keys once opened stay so, unless directories or a passphrase are given. */
  context(options?: { nowMs?: number; directories?: string[]; passphrase?: string }): TrustContext
  read(): Promise<Repository>
  /** A bundle that a key of the fleet's anchors signed, and those anchors. */
  bundle(service: string, version: string): Uint8Array
  readonly anchors: ReturnType<typeof trusted>
  remove(): void
}

/** @param from a repository to begin with a copy of */
export async function testTrust(options: { init?: boolean; nowMs?: number; from?: TestTrust; key?: SigningKey } = {}): Promise<TestTrust> {
  const directory = mkdtempSync(join(tmpdir(), 'offbox-trust-'))
  const path = join(directory, 'trust')
  const key = options.from?.key ?? options.key ?? makeKey()
  const ring = new KeyRing([keysOf(path)], fromText(PASSPHRASE, 'the test'), { costLog2 })
  if (options.from) cpSync(options.from.path, path, { recursive: true, verbatimSymlinks: true })
  const made: TestTrust = {
    path,
    key,
    context: ({ nowMs = options.nowMs ?? Date.now(), directories = [], passphrase } = {}) => ({
      path,
      nowMs,
      keys:
        passphrase === undefined && directories.length === 0
          ? ring
          : new KeyRing([keysOf(path), ...directories], fromText(passphrase ?? PASSPHRASE, 'the test'), { costLog2 }),
    }),
    read: async () => await readTrust(path),
    bundle: (name, version) => makeBundle(key, { name, version }),
    anchors: trusted(key),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  }
  if (options.init !== false && !options.from) await initTrust(made.context(), { rootKeys: 3, threshold: 2 })
  return made
}

/** A device's stand-in: keeps its metadata in a directory, as tuf-js does, and is updated by pushes alone. */
export class TufClient {
  readonly directory: string
  constructor(firstRoot: Uint8Array) {
    this.directory = mkdtempSync(join(tmpdir(), 'offbox-tuf-client-'))
    writeFileSync(join(this.directory, 'root.json'), firstRoot)
  }

  /** @returns the length and hash that were signed for, or null for a target that nobody signed */
  async update(repository: Repository, service: string, version: string, rootVersion = 1): Promise<{ length: number; sha256: string } | null> {
    const { push } = makePush(repository, { rootVersion, services: [service] })
    return await this.take(filesOf(push), service, version)
  }

  async take(files: ReadonlyMap<string, Uint8Array>, service: string, version: string) {
    const fetcher = new PushFetcher(files)
    const options = { metadataDir: this.directory, metadataBaseUrl: 'https://push.invalid', fetcher }
    const updater = new Updater(options)
    await updater.refresh()
    const info = await updater.getTargetInfo(targetPath(service, version))
    return info ? { length: info.length, sha256: String(info.hashes['sha256']) } : null
  }

  /** Another device that is where this one is. */
  copy(): TufClient {
    const other = new TufClient(new Uint8Array())
    cpSync(this.directory, other.directory, { recursive: true })
    return other
  }

  forget(): void {
    for (const name of readdirSync(this.directory)) if (name !== 'root.json') rmSync(join(this.directory, name))
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }
}

export function firstRoot(repository: Repository): Uint8Array {
  return repository.files.get(fileName('root', 1)) as Uint8Array
}

export const rootVersionOf = (repository: Repository) => latestRoot(repository).signed.version

class PushFetcher extends BaseFetcher {
  readonly #files: ReadonlyMap<string, Uint8Array>
  constructor(files: ReadonlyMap<string, Uint8Array>) {
    super()
    this.#files = files
  }

  async fetch(url: string): Promise<ReadableStream<Uint8Array<ArrayBuffer>>> {
    const bytes = this.#files.get(decodeURIComponent(new URL(url).pathname.slice(1)))
    if (!bytes) throw new DownloadHTTPError('not in the push', 404)
    return new Blob([bytes as Uint8Array<ArrayBuffer>]).stream() as ReadableStream<Uint8Array<ArrayBuffer>>
  }
}

/** Directories of a test, made as an owner of a key would. */
export function ownDirectory(parent: string, name: string): string {
  const path = join(parent, name)
  mkdirSync(path, { recursive: true, mode: 0o700 })
  return path
}
