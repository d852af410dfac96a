/** Reads an initramfs back: one "newc" archive, in memory. The image is checked with it, so it trusts no length or path it finds. */
import type { Entry } from './cpio.ts'
import { ImageFailure } from './failure.ts'

const HEADER_BYTES = 110
const PATH_BYTES_MAX = 4096

/**
 * @param archive uncompressed; file data of the result points into it
 * @throws IMAGE_INVALID not one complete newc archive with nothing behind it, or an entry that is no file, directory, link or
 *   character device
 */
export function readCpio(archive: Buffer): Entry[] {
  const entries: Entry[] = []
  for (let at = 0; ; ) {
    if (at + HEADER_BYTES > archive.length || archive.toString('latin1', at, at + 6) !== '070701') throw invalid(at, 'no header')
    const field = (index: number) => {
      const text = archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8)
      if (!/^[0-9a-fA-F]{8}$/.test(text)) throw invalid(at, 'a field is not hexadecimal')
      return Number.parseInt(text, 16)
    }
    const [mode, sizeBytes, major, minor, nameBytes] = [field(1), field(6), field(9), field(10), field(11)]
    const dataAt = align(at + HEADER_BYTES + nameBytes)
    if (nameBytes < 2 || nameBytes > PATH_BYTES_MAX || dataAt + sizeBytes > archive.length) throw invalid(at, 'a length passes the end')
    const name = archive.toString('utf8', at + HEADER_BYTES, at + HEADER_BYTES + nameBytes - 1)
    if (name === 'TRAILER!!!') {
      if (align(dataAt) < archive.length) throw invalid(at, 'something follows the end')
      return entries
    }
    entries.push(entryOf(at, `/${name}`, mode, archive.subarray(dataAt, dataAt + sizeBytes), major, minor))
    at = align(dataAt + sizeBytes)
  }
}

function entryOf(at: number, path: string, mode: number, data: Buffer, major: number, minor: number): Entry {
  const common = { path, mode: mode & 0o7777 }
  switch (mode & 0o170000) {
    case 0o100000:
      return { ...common, type: 'file', data }
    case 0o040000:
      return { ...common, type: 'directory' }
    case 0o120000:
      return { ...common, type: 'symlink', target: data.toString('utf8') }
    case 0o020000:
      return { ...common, type: 'device', major, minor }
    default:
      throw invalid(at, `${path} has mode ${mode.toString(8)}`)
  }
}

function align(offset: number): number {
  return (offset + 3) & ~3
}

function invalid(at: number, why: string): ImageFailure {
  return new ImageFailure('IMAGE_INVALID', `not a cpio archive, at byte ${at}: ${why}`)
}
