/** The log of an agent from before records were chained: two files beside the directory of this one. They are kept, and the chain vouches for them. */
import { createHash } from 'node:crypto'
import { basename, dirname, join } from 'node:path'
import type { FileSystem } from '../store/file-system.ts'

export interface EarlierFile {
  readonly file: string
  readonly bytes: number
  readonly sha256: string
}

const names = ['audit.log.1', 'audit.log'] as const

/** What there is, oldest first; for a record. */
export async function findEarlier(directory: string, files: FileSystem): Promise<EarlierFile[]> {
  const found: EarlierFile[] = []
  for (const name of names) {
    const bytes = await files.read(join(dirname(directory), name))
    if (bytes) found.push({ file: name, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') })
  }
  return found
}

/** Moves them into the directory: call it when they are on record. */
export async function moveEarlier(directory: string, found: readonly EarlierFile[], files: FileSystem): Promise<void> {
  for (const { file } of found) await files.rename(join(dirname(directory), file), join(directory, `earlier-${basename(file)}`))
  if (found.length > 0) await files.sync(directory)
}
