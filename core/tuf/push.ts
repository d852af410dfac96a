/**
 * What travels to a device with an order: the files of the repository that a TUF client would ask for, by the names under which it would
 * ask. A device reads from the push alone; whoever carries it can leave files out or send old ones, but can make none.
 */
import { OffboxError } from '../errors.ts'
import { TUF_LIMITS } from './limits.ts'
import { parseFileName } from './metadata.ts'

export interface MetadataFile {
  /** As in the repository: "2.root.json", "timestamp.json", "7.snapshot.json", "3.targets.json", "5.service-telemetry.json". */
  readonly name: string
  /** Exact bytes, unverified. */
  readonly bytes: Uint8Array
}

export interface MetadataPush {
  /** Roots first, rising; then timestamp, snapshot, targets, delegated roles. A push of roots alone is for a device far behind. */
  readonly files: readonly MetadataFile[]
}

/** Size limit of a file by its role. Pure. */
export function roleBytesMax(role: string): number {
  if (role === 'root') return TUF_LIMITS.rootBytesMax
  if (role === 'timestamp') return TUF_LIMITS.timestampBytesMax
  return role === 'snapshot' ? TUF_LIMITS.snapshotBytesMax : TUF_LIMITS.targetsBytesMax
}

/**
 * The files by name, after the bounds were checked; parses nothing.
 * @throws TRUST_MALFORMED too many files or bytes, a name that is none of ours, a name twice
 */
export function filesOf(push: MetadataPush): ReadonlyMap<string, Uint8Array> {
  const refuse = (why: string) => new OffboxError('TRUST_MALFORMED', `the pushed metadata ${why}`)
  if (push.files.length > TUF_LIMITS.filesPerPushMax) throw refuse(`has ${push.files.length} files, more than ${TUF_LIMITS.filesPerPushMax}`)
  const files = new Map<string, Uint8Array>()
  let [roots, sizeBytes] = [0, 0]
  for (const { name, bytes } of push.files) {
    const parsed = parseFileName(name)
    if (!parsed) throw refuse(`names a file ${JSON.stringify(name.slice(0, 80))}`)
    if (files.has(name)) throw refuse(`holds ${name} twice`)
    if (bytes.length > roleBytesMax(parsed.role)) throw refuse(`holds ${name} with ${bytes.length} bytes, more than ${roleBytesMax(parsed.role)}`)
    sizeBytes += bytes.length
    if (parsed.role === 'root') roots += 1
    files.set(name, bytes)
  }
  if (roots > TUF_LIMITS.rootsPerPushMax) throw refuse(`holds ${roots} roots, more than ${TUF_LIMITS.rootsPerPushMax}`)
  if (sizeBytes > TUF_LIMITS.pushBytesMax) throw refuse(`has ${sizeBytes} bytes, more than ${TUF_LIMITS.pushBytesMax}`)
  return files
}
