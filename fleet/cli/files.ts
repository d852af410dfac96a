/** Files that a command is given by name: read within a bound, replaced whole. */
import { createReadStream } from 'node:fs'
import { realpath, stat } from 'node:fs/promises'
import { bundleBytesMax } from '../../core/bundle-format.ts'
import { type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import { writeAtomic } from '../home/atomic.ts'

/**
 * Reads no more than the bound, whatever a size says: a pipe has none.
 * @throws ARGUMENT_INVALID it cannot be read; `tooLong` it has more than `bytesMax` bytes
 */
export async function readInput(path: string, bytesMax: number, tooLong: ErrorCode = 'ARGUMENT_INVALID'): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  try {
    // `end` is the last byte that is read: one more than the bound, to tell that there are more.
    for await (const chunk of createReadStream(path, { end: bytesMax })) chunks.push(chunk as Buffer)
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${path} cannot be read: ${messageOf(error)}`, { cause: error })
  }
  const bytes = Buffer.concat(chunks)
  if (bytes.length > bytesMax) throw new OffboxError(tooLong, `${path} has more than ${bytesMax} bytes`)
  return new Uint8Array(bytes)
}

/** @throws ARGUMENT_INVALID, BUNDLE_MALFORMED more bytes than a bundle may have */
export async function readBundleFile(path: string): Promise<Uint8Array> {
  return await readInput(path, bundleBytesMax, 'BUNDLE_MALFORMED')
}

/** Puts other bytes into a file that is there, whole or not at all; it stays as open to others as it was. */
export async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  try {
    const file = await realpath(path)
    await writeAtomic(file, bytes, { mode: (await stat(file)).mode & 0o777 })
  } catch (error) {
    if (error instanceof OffboxError) throw error
    throw new OffboxError('ARGUMENT_INVALID', `${path} cannot be written: ${messageOf(error)}`, { cause: error })
  }
}
