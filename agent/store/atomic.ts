/**
 * Files that are either wholly the old content or wholly the new one, whatever is cut when: temporary file, fsync, rename,
 * fsync of the directory. Each carries the SHA-256 of its content, so that a torn or rotted file is detected and set aside.
 */
import { createHash } from 'node:crypto'
import { basename, dirname, join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { type FileSystem, nodeFileSystem } from './file-system.ts'

const MAGIC = Buffer.from('OFFBOXS\x01', 'latin1')
const DIGEST_BYTES = 32
const HEADER_BYTES = MAGIC.length + DIGEST_BYTES
const TEMPORARY_PREFIX = '.tmp-'
/** Suffix of a file that failed its check. At most one a name is kept, for whoever looks into it. */
export const CORRUPT_SUFFIX = '.corrupt'

/** Writes to one path are carried out one after another; different paths run at once. */
export class AtomicFiles {
  readonly #files: FileSystem
  readonly #writing = new Map<string, Promise<unknown>>()
  #sequence = 0

  constructor(files: FileSystem = nodeFileSystem) {
    this.#files = files
  }

  /**
   * Null when there is no such file.
   * @throws STORE_CORRUPT the content fails its check; the file has been set aside under CORRUPT_SUFFIX
   */
  async read(path: string): Promise<Uint8Array | null> {
    const sealed = await this.#files.read(path)
    if (sealed === null) return null
    const content = sealed.subarray(HEADER_BYTES)
    const whole = sealed.length >= HEADER_BYTES && MAGIC.equals(sealed.subarray(0, MAGIC.length))
    if (whole && digest(content).equals(sealed.subarray(MAGIC.length, HEADER_BYTES))) return content
    await this.setAside(path)
    throw new OffboxError('STORE_CORRUPT', `${path} fails its check; it is set aside as ${basename(path)}${CORRUPT_SUFFIX}`)
  }

  /** A stored JSON value. @throws STORE_CORRUPT */
  async readJson(path: string): Promise<unknown> {
    const bytes = await this.read(path)
    if (bytes === null) return null
    try {
      return JSON.parse(Buffer.from(bytes).toString('utf8'))
    } catch (error) {
      await this.setAside(path)
      throw new OffboxError('STORE_CORRUPT', `${path} is not JSON; it is set aside`, { cause: error })
    }
  }

  /**
   * Durable when it resolves. Directories are made as needed, mode 0700. A rejection leaves the old content, but for a
   * directory that cannot be synced: then either content may be found after a power cut.
   * @throws STORE_FULL
   */
  async write(path: string, bytes: Uint8Array, options: { mode?: number } = {}): Promise<void> {
    await this.#inOrder(path, async () => await this.#replace(path, bytes, options.mode ?? 0o600))
  }

  async writeJson(path: string, value: unknown, options: { mode?: number } = {}): Promise<void> {
    await this.write(path, Buffer.from(JSON.stringify(value)), options)
  }

  /**
   * Adds to a file that carries no digest: each line needs a check of its own. In order with other writes to the path.
   * @param options.durable on disk when it resolves; otherwise a power cut may take it back
   * @throws STORE_FULL part of it may have been written
   */
  async append(path: string, bytes: Uint8Array, options: { durable: boolean }): Promise<void> {
    await this.#inOrder(path, async () => {
      try {
        await this.#files.makeDirectory(dirname(path))
        await this.#files.append(path, bytes, 0o600)
        if (!options.durable) return
        await this.#files.sync(path)
        // Its name as well: it may have been made by this.
        await this.#files.sync(dirname(path))
      } catch (error) {
        throw storeError(path, error)
      }
    })
  }

  /** The bytes of a file made by `append`; null when there is none. */
  async readAppended(path: string): Promise<Uint8Array | null> {
    return await this.#files.read(path)
  }

  /** Durable when it resolves; an absent file is fine. */
  async remove(path: string): Promise<void> {
    await this.#files.remove(path)
    await this.#syncIfThere(dirname(path))
  }

  /** A directory with all it holds, durably; absent is fine. */
  async removeTree(path: string): Promise<void> {
    await this.#files.removeTree(path)
    await this.#syncIfThere(dirname(path))
  }

  /** Names of files and directories, sorted, without temporary files and (unless asked for) files set aside. Empty when absent. */
  async list(directory: string, options: { setAside?: boolean } = {}): Promise<string[]> {
    const entries = await this.#files.list(directory)
    const names = entries.map(({ name }) => name).filter((name) => !name.startsWith(TEMPORARY_PREFIX))
    return names.filter((name) => options.setAside || !name.endsWith(CORRUPT_SUFFIX)).sort()
  }

  async setAside(path: string): Promise<void> {
    await this.#files.rename(path, path + CORRUPT_SUFFIX)
    await this.#files.sync(dirname(path))
  }

  /** Removes what interrupted writes left anywhere below `directory`. Call once at start, before any write. */
  async sweep(directory: string): Promise<void> {
    for (const { name, directory: isDirectory } of await this.#files.list(directory)) {
      if (isDirectory) await this.sweep(join(directory, name))
      else if (name.startsWith(TEMPORARY_PREFIX)) await this.#files.remove(join(directory, name))
    }
  }

  async #inOrder(path: string, act: () => Promise<void>): Promise<void> {
    const before = this.#writing.get(path) ?? Promise.resolve()
    const done = before.catch(() => {}).then(act)
    this.#writing.set(path, done)
    try {
      await done
    } finally {
      if (this.#writing.get(path) === done) this.#writing.delete(path)
    }
  }

  async #replace(path: string, bytes: Uint8Array, mode: number): Promise<void> {
    const directory = dirname(path)
    this.#sequence += 1
    const temporary = join(directory, `${TEMPORARY_PREFIX}${process.pid}-${this.#sequence}-${basename(path)}`)
    try {
      await this.#files.makeDirectory(directory)
      await this.#files.create(temporary, Buffer.concat([MAGIC, digest(bytes), bytes]), mode)
      await this.#files.sync(temporary)
      await this.#files.rename(temporary, path)
    } catch (error) {
      // What cannot be removed now is swept at the next start; the reason to report is the first one.
      await this.#files.remove(temporary).catch(() => {})
      throw storeError(path, error)
    }
    try {
      await this.#files.sync(directory)
    } catch (error) {
      throw storeError(path, error)
    }
  }

  async #syncIfThere(directory: string): Promise<void> {
    try {
      await this.#files.sync(directory)
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') throw error
    }
  }
}

/** STORE_FULL for a full disk or quota, the error itself otherwise. */
export function storeError(path: string, error: unknown): unknown {
  const errno = (error as { code?: unknown } | null)?.code
  if (errno !== 'ENOSPC' && errno !== 'EDQUOT') return error
  return new OffboxError('STORE_FULL', `no space to write ${basename(path)}; nothing was changed`, { cause: error })
}

function digest(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}
