/**
 * Writes an initramfs: cpio "newc" as the kernel's Documentation/driver-api/early-userspace/buffer-format.rst describes it.
 * Entries are sorted by path and carry no times, owners or inode numbers of the machine that builds, so that equal content gives
 * equal bytes.
 */
import { ImageFailure } from './failure.ts'

export type Entry = { readonly path: string; readonly mode: number } & (
  | { readonly type: 'file'; readonly data: Uint8Array }
  | { readonly type: 'directory' }
  | { readonly type: 'symlink'; readonly target: string }
  | { readonly type: 'device'; readonly major: number; readonly minor: number }
)

const FILE_BYTES_MAX = 0xffff_ffff
const TYPE_BITS = { file: 0o100000, directory: 0o040000, symlink: 0o120000, device: 0o020000 } as const

/**
 * The archive piece by piece; file data is handed out uncopied. Missing parent directories are added with mode 0755.
 * @param entries absolute paths without `.` or `..`, in any order, each path once
 * @throws IMAGE_INVALID a path is relative or named twice, or a file is larger than 4 GiB
 */
export function* writeCpio(entries: Iterable<Entry>): Generator<Uint8Array> {
  const byPath = new Map<string, Entry>()
  for (const entry of entries) {
    if (!/^(\/[^/]+)+$/.test(entry.path) || /\/\.\.?(\/|$)/.test(entry.path))
      throw new ImageFailure('IMAGE_INVALID', `not an absolute, plain path: ${entry.path}`)
    if (byPath.has(entry.path)) throw new ImageFailure('IMAGE_INVALID', `${entry.path} would be in the image twice`)
    byPath.set(entry.path, entry)
  }
  for (const path of [...byPath.keys()]) {
    for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
      const parent = path.slice(0, end)
      if (!byPath.has(parent)) byPath.set(parent, { path: parent, mode: 0o755, type: 'directory' })
    }
  }
  // "/a" sorts before "/a/b", so a directory always comes before what it holds.
  const sorted = [...byPath.values()].sort((one, other) => (one.path < other.path ? -1 : 1))
  let inode = 1
  for (const entry of sorted) yield* record(entry, inode++)
  yield* record(null, 0)
}

function* record(entry: Entry | null, inode: number): Generator<Uint8Array> {
  const data = entry?.type === 'file' ? entry.data : entry?.type === 'symlink' ? Buffer.from(entry.target) : new Uint8Array(0)
  if (data.length > FILE_BYTES_MAX) throw new ImageFailure('IMAGE_INVALID', `${entry?.path} is larger than 4 GiB`)
  const name = Buffer.from(`${entry ? entry.path.slice(1) : 'TRAILER!!!'}\0`)
  const device = entry?.type === 'device' ? entry : { major: 0, minor: 0 }
  const fields = [
    inode,
    entry ? TYPE_BITS[entry.type] | entry.mode : 0,
    0, // uid
    0, // gid
    entry?.type === 'directory' ? 2 : 1, // links
    0, // modification time
    data.length,
    0, // device that holds it
    0,
    device.major,
    device.minor,
    name.length,
    0, // checksum, unused in this variant
  ]
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
  yield Buffer.concat([header, name, padding(header.length + name.length)])
  if (data.length > 0) {
    yield data
    yield padding(data.length)
  }
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4)
}
