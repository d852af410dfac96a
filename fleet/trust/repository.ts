/**
 * A repository in memory: the metadata in force, and the exact bytes of each file. `openRepository` verifies what was read: all that is in
 * force, and of the chain of roots the newest by its own keys and by those of the one before. change.ts makes the next one of it.
 */
import { createHash } from 'node:crypto'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { canonicalJson } from '../../core/tuf/canonical-json.ts'
import { type FileMeta, fileName, type Metadata, type RoleKeys, type Root, type Snapshot, type Targets, type Timestamp } from '../../core/tuf/metadata.ts'
import { parseMetadata } from '../../core/tuf/profile.ts'
import { formatMetadata, requireThreshold } from '../../core/tuf/signatures.ts'
import type { RepositoryFiles } from './generations.ts'

export interface Repository {
  /** Every root from version 1 on, in order. */
  readonly roots: readonly Metadata<Root>[]
  readonly timestamp: Metadata<Timestamp>
  readonly snapshot: Metadata<Snapshot>
  readonly targets: Metadata<Targets>
  /** Delegated roles that targets names and that have signed something, by name. */
  readonly roles: ReadonlyMap<string, Metadata<Targets>>
  /** The bytes of all these. */
  readonly files: RepositoryFiles
}

export function latestRoot(repository: Pick<Repository, 'roots'>): Metadata<Root> {
  return repository.roots.at(-1) as Metadata<Root>
}

/** How a delegated role may sign; undefined when it is not delegated (any more). */
export function delegationOf(targets: Targets, role: string) {
  return targets.delegations?.roles.find((one) => one.name === role)
}

/**
 * Parses and verifies a repository as read.
 * @throws STORE_CORRUPT a file is missing, not the one that another names, or signed by too few
 */
export function openRepository(files: RepositoryFiles): Repository {
  try {
    return verified(files)
  } catch (error) {
    if (!(error instanceof OffboxError)) throw error
    throw new OffboxError('STORE_CORRUPT', `the trust repository cannot be used: ${messageOf(error)}`, { cause: error })
  }
}

function verified(files: RepositoryFiles): Repository {
  const roots: Metadata<Root>[] = []
  for (let version = 1; files.has(fileName('root', version)); version++) {
    const root = parseMetadata(bytesOf(files, fileName('root', version)), 'root')
    require(root.signed.version === version, `${version}.root.json is version ${root.signed.version}`)
    roots.push(root)
  }
  const root = roots.at(-1)
  if (!root) throw new OffboxError('TRUST_MALFORMED', '1.root.json is missing')
  verifyRoots(roots, files)
  const timestamp = parseMetadata(bytesOf(files, 'timestamp.json'), 'timestamp')
  verifyOnce(bytesOf(files, 'timestamp.json'), timestamp, 'timestamp', root.signed.roles.timestamp, root.signed.keys)
  const snapshotMeta = timestamp.signed.meta['snapshot.json']
  const snapshotBytes = named(files, 'snapshot', snapshotMeta)
  const snapshot = parseMetadata(snapshotBytes, 'snapshot')
  require(snapshot.signed.version === snapshotMeta.version, 'the snapshot has another version than the timestamp says')
  verifyOnce(snapshotBytes, snapshot, 'snapshot', root.signed.roles.snapshot, root.signed.keys)
  const targets = readTargets(files, snapshot.signed, 'targets', root.signed.roles.targets, root.signed.keys)
  const { keys = {}, roles: delegated = [] } = targets.signed.delegations ?? {}
  // A team whose keys are elsewhere has a delegation before it has signed anything.
  const signed = delegated.filter((role) => snapshot.signed.meta[`${role.name}.json`])
  const roles = new Map(signed.map((role) => [role.name, readTargets(files, snapshot.signed, role.name, role, keys)]))
  return { roots, timestamp, snapshot, targets, roles, files }
}

/** Each root is signed by its own keys and by those of the one before. The last two: the others were so when they were published. */
function verifyRoots(roots: readonly Metadata<Root>[], files: RepositoryFiles): void {
  const [before, last] = roots.length > 1 ? roots.slice(-2) : [undefined, roots[0]]
  if (!last) return
  const bytes = bytesOf(files, fileName('root', last.signed.version))
  verifyOnce(bytes, last, 'root', last.signed.roles.root, last.signed.keys)
  if (before) verifyOnce(bytes, last, 'the root before', before.signed.roles.root, before.signed.keys)
}

/** Files found good, by digest of their bytes and of the keys asked for. */
const good = new Set<string>()
const GOOD_MAX = 1024

/** A signature in pure JavaScript takes 10 ms: the same bytes under the same keys are verified once in a process. @throws as `requireThreshold` */
function verifyOnce(bytes: Uint8Array, metadata: Metadata, name: string, role: RoleKeys, keys: Readonly<Record<string, unknown>>): void {
  const { keyids, threshold } = role
  const seen = `${sha256(bytes)} ${canonicalJson({ keyids, threshold, keys: keyids.map((keyid) => keys[keyid] ?? null) })}`
  if (good.has(seen)) return
  requireThreshold(metadata, name, role, keys)
  if (good.size >= GOOD_MAX) good.clear()
  good.add(seen)
}

function readTargets(files: RepositoryFiles, snapshot: Snapshot, role: string, keys: RoleKeys, table: Readonly<Record<string, unknown>>): Metadata<Targets> {
  const meta = snapshot.meta[`${role}.json`]
  if (!meta) throw new OffboxError('TRUST_MALFORMED', `the snapshot names no ${role}.json`)
  const bytes = named(files, role, meta)
  const metadata = parseMetadata(bytes, role) as Metadata<Targets>
  require(metadata.signed.version === meta.version, `${role} has another version than the snapshot says`)
  verifyOnce(bytes, metadata, role, keys, table)
  return metadata
}

function named(files: RepositoryFiles, role: string, meta: FileMeta): Uint8Array {
  const name = fileName(role, meta.version)
  const bytes = bytesOf(files, name)
  require(bytes.length === meta.length && sha256(bytes) === meta.hashes.sha256, `${name} is not the file that was signed for`)
  return bytes
}

function bytesOf(files: RepositoryFiles, name: string): Uint8Array {
  const bytes = files.get(name)
  if (!bytes) throw new OffboxError('TRUST_MALFORMED', `${name} is missing`)
  return bytes
}

function require(holds: boolean, text: string): void {
  if (!holds) throw new OffboxError('TRUST_MALFORMED', text)
}

/** What another file says of `metadata`. */
export function metaOf(metadata: Metadata): FileMeta {
  const bytes = formatMetadata(metadata)
  return { version: metadata.signed.version, length: bytes.length, hashes: { sha256: sha256(bytes) } }
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
