/** Files of the controller's home: written whole or not at all, and on disk when the promise resolves. */
import { randomBytes } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { messageOf, OffboxError } from '../../core/errors.ts'

/** Marks a file that a crash left half-written; never a name of ours otherwise. */
const TEMPORARY = '.tmp-'

export interface WriteOptions {
  /** File mode, default 0600: the home holds secrets, so nothing in it is public unless said. */
  readonly mode?: number
}

/**
 * Replaces `path` by `data`: temporary file, fsync, rename, fsync of the directory. Whoever reads sees the old bytes or the new.
 * @throws STORE_FULL the disk is full; the old file stands
 */
export async function writeAtomic(path: string, data: string | Uint8Array, options: WriteOptions = {}): Promise<void> {
  const temporary = join(dirname(path), `${TEMPORARY}${basename(path)}-${randomBytes(4).toString('hex')}`)
  try {
    const file = await open(temporary, 'wx', options.mode ?? 0o600)
    try {
      await file.writeFile(data)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
    await syncDirectory(dirname(path))
  } catch (error) {
    // The write has failed already; a temporary file that cannot be removed either is cleaned at the next start.
    await unlink(temporary).catch(() => {})
    throw asStoreError(error, path)
  }
}

/** Makes a directory (0700) and those above it, durably. */
export async function makeDirectory(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 })
  if (first) await syncDirectory(dirname(first))
}

/** The bytes of a file; null when there is none. */
export async function readIfThere(path: string): Promise<Buffer | null> {
  try {
    return await readFile(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

/** Removes what an interrupted `writeAtomic` left in a directory. For the holder of the lock only. */
export async function cleanTemporaries(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (name.startsWith(TEMPORARY)) await unlink(join(directory, name))
  }
}

/** Names that were made in it outlive a power cut. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

function asStoreError(error: unknown, path: string): unknown {
  const errno = (error as NodeJS.ErrnoException).code
  if (errno === 'ENOSPC' || errno === 'EDQUOT') return new OffboxError('STORE_FULL', `no space left to write ${path}`, { cause: error })
  if (errno === 'EACCES' || errno === 'EROFS' || errno === 'EPERM') {
    return new OffboxError('HOME_INVALID', `no permission to write ${path}: ${messageOf(error)}`, { cause: error })
  }
  return error
}
