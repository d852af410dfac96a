/**
 * The repository on disk: plain files as a TUF client fetches them, in a directory that is replaced as a whole.
 *
 *   trust/repository -> generations/17     a symbolic link, replaced by one rename: the moment of publication
 *   trust/generations/17/2.root.json …
 *
 * A new generation is a directory of its own: files that stay are hard links, new ones are written and synced, and only then the link is
 * turned. Whoever reads, and whoever comes after a crash, finds the old repository or the new one, never a mixture.
 */
import { link, mkdir, open, readdir, readFile, readlink, rename, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { TUF_LIMITS } from '../../core/tuf/limits.ts'
import { parseFileName } from '../../core/tuf/metadata.ts'

/** The operations that change the disk; tests cut between them. */
export interface Disk {
  makeDirectory(path: string): Promise<void>
  /** Writes a new file and syncs it. */
  write(path: string, data: Uint8Array): Promise<void>
  link(from: string, to: string): Promise<void>
  symlink(target: string, path: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  sync(directory: string): Promise<void>
  remove(path: string): Promise<void>
}

export type RepositoryFiles = ReadonlyMap<string, Uint8Array>

/** Files of a repository: every root there was, and two versions of each role at most. */
const filesMax = 4096

/** Readings that a publication may disturb before the next one is given up on: each takes milliseconds. */
const ATTEMPTS_MAX = 5

/** The files in force, by name; null when there is no repository yet. @throws STORE_CORRUPT */
export async function readGeneration(trust: string): Promise<RepositoryFiles | null> {
  for (let attempt = 1; ; attempt++) {
    const current = await currentGeneration(trust)
    if (current === null) return null
    try {
      return await readFiles(join(trust, 'generations', String(current)))
    } catch (error) {
      // Two publications since the link was read: it points to a newer one by now.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT' && attempt < ATTEMPTS_MAX) continue
      if (error instanceof OffboxError) throw error
      throw new OffboxError('STORE_CORRUPT', `${join(trust, 'repository')} cannot be read: ${(error as Error).message}`, { cause: error })
    }
  }
}

async function readFiles(directory: string): Promise<RepositoryFiles> {
  const names = await readdir(directory)
  if (names.length > filesMax) throw new OffboxError('STORE_CORRUPT', `${directory} holds more than ${filesMax} files`)
  const files = new Map<string, Uint8Array>()
  for (const name of names) {
    if (!parseFileName(name)) continue
    const bytes = await readFile(join(directory, name))
    if (bytes.length > TUF_LIMITS.targetsBytesMax) throw new OffboxError('STORE_CORRUPT', `${join(directory, name)} has ${bytes.length} bytes`)
    files.set(name, new Uint8Array(bytes))
  }
  return files
}

/**
 * Publishes `files` in place of what is there. The caller holds the trust lock.
 * @throws STORE_FULL the disk is full; the old repository stands
 */
export async function writeGeneration(trust: string, files: RepositoryFiles, disk: Disk = nodeDisk): Promise<void> {
  const all = join(trust, 'generations')
  await disk.makeDirectory(all)
  const current = await currentGeneration(trust)
  // What a crash left of the next one, and what nobody reads any more.
  await removeOthers(all, current, disk)
  const name = String((current ?? 0) + 1)
  const directory = join(all, name)
  await disk.makeDirectory(directory)
  for (const [file, bytes] of files) {
    const old = current === null ? null : join(all, String(current), file)
    if (old && (await sameBytes(old, bytes))) await disk.link(old, join(directory, file))
    else await disk.write(join(directory, file), bytes)
  }
  await disk.sync(directory)
  await disk.sync(all)
  const pointer = join(trust, '.tmp-repository')
  await disk.remove(pointer)
  await disk.symlink(join('generations', name), pointer)
  await disk.rename(pointer, join(trust, 'repository'))
  await disk.sync(trust)
  // The generation before stays until the next publication: somebody may be reading it.
}

/** Number of the generation in force; null for none. @throws STORE_CORRUPT the link points elsewhere */
async function currentGeneration(trust: string): Promise<number | null> {
  const path = join(trust, 'repository')
  const target = await readlink(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw new OffboxError('STORE_CORRUPT', `${path} is not the link that it should be`, { cause: error })
  })
  if (target === null) return null
  const found = /^generations\/([1-9]\d{0,8})$/.exec(target)
  if (!found) throw new OffboxError('STORE_CORRUPT', `${path} points to ${target}`)
  return Number(found[1])
}

async function removeOthers(all: string, current: number | null, disk: Disk): Promise<void> {
  for (const name of await readdir(all)) {
    if (name !== String(current)) await disk.remove(join(all, name))
  }
}

async function sameBytes(path: string, bytes: Uint8Array): Promise<boolean> {
  const there = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  return there !== null && Buffer.compare(there, bytes) === 0
}

export const nodeDisk: Disk = {
  makeDirectory: async (path) => void (await mkdir(path, { recursive: true, mode: 0o700 })),
  write: async (path, data) => {
    const file = await open(path, 'wx', 0o644).catch(asStoreError)
    try {
      await file.writeFile(data)
      await file.sync()
    } catch (error) {
      asStoreError(error)
    } finally {
      await file.close()
    }
  },
  link: async (from, to) => await link(from, to).catch(asStoreError),
  symlink: async (target, path) => await symlink(target, path).catch(asStoreError),
  rename: async (from, to) => await rename(from, to),
  sync: async (path) => {
    const directory = await open(path, 'r')
    try {
      await directory.sync()
    } finally {
      await directory.close()
    }
  },
  remove: async (path) => await rm(path, { recursive: true, force: true }),
}

function asStoreError(error: unknown): never {
  const errno = (error as NodeJS.ErrnoException).code
  if (errno === 'ENOSPC' || errno === 'EDQUOT')
    throw new OffboxError('STORE_FULL', 'no space left for the trust repository; the old one stands', { cause: error })
  throw error
}
