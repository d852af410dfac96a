/**
 * How far a repository had come when somebody looked: the versions below which nothing may be accepted again. A device takes them from its
 * own store and from the witness. Versions below the root count only while the same keys sign timestamp and snapshot: a repository
 * whose keys were stolen and replaced starts to count anew (TUF specification, 5.3.11), and only the root keys can say so.
 */
import { OffboxError } from '../errors.ts'
import type { RoleKeys } from '../tuf/metadata.ts'
import { signedBytes } from '../tuf/canonical-json.ts'
import { createHash } from 'node:crypto'

export interface Heights {
  readonly root: number
  /** SHA-256 over the keys and thresholds of timestamp and snapshot, hex. */
  readonly keys: string
  /** 0 for none. */
  readonly timestamp: number
  readonly snapshot: number
  /** "targets" and each delegated role that the snapshot lists. */
  readonly targets: Readonly<Record<string, number>>
}

/** `Heights.keys` of a root. */
export function keysDigest(roles: { readonly timestamp: RoleKeys; readonly snapshot: RoleKeys }): string {
  const plain = ({ keyids, threshold }: RoleKeys) => ({ keyids: [...keyids].sort(), threshold })
  const content = { timestamp: plain(roles.timestamp), snapshot: plain(roles.snapshot) }
  return createHash('sha256').update(signedBytes(content)).digest('hex')
}

/** The higher of both. */
export function highest(one: Heights, other: Heights): Heights {
  if (one.keys !== other.keys) return one.root >= other.root ? one : other
  const targets: Record<string, number> = { ...one.targets }
  for (const [role, version] of Object.entries(other.targets)) targets[role] = Math.max(targets[role] ?? 0, version)
  return {
    root: Math.max(one.root, other.root),
    keys: one.keys,
    timestamp: Math.max(one.timestamp, other.timestamp),
    snapshot: Math.max(one.snapshot, other.snapshot),
    targets,
  }
}

/**
 * @param seenBy for the message: who saw `floor`
 * @throws TRUST_ROLLBACK `found` is below `floor` anywhere
 */
export function requireHeights(found: Heights, floor: Heights, seenBy: string): void {
  const refuse = (role: string, version: number, than: number) =>
    new OffboxError('TRUST_ROLLBACK', `${role} version ${version} is older than version ${than}, which ${seenBy} has seen`)
  if (found.root < floor.root) throw refuse('root', found.root, floor.root)
  if (found.keys !== floor.keys) {
    if (found.root > floor.root) return
    throw new OffboxError('TRUST_ROLLBACK', `root version ${found.root} is another one than the one that ${seenBy} has seen`)
  }
  if (found.timestamp < floor.timestamp) throw refuse('timestamp', found.timestamp, floor.timestamp)
  if (found.snapshot < floor.snapshot) throw refuse('snapshot', found.snapshot, floor.snapshot)
  for (const [role, version] of Object.entries(floor.targets)) {
    const here = Object.hasOwn(found.targets, role) ? (found.targets[role] ?? 0) : 0
    if (here < version) throw refuse(role, here, version)
  }
}

/** Whether `found` is below `floor` anywhere. */
export function isBelow(found: Heights, floor: Heights): boolean {
  try {
    requireHeights(found, floor, '')
    return false
  } catch (error) {
    if (error instanceof OffboxError && error.code === 'TRUST_ROLLBACK') return true
    throw error
  }
}

/** Strict: of a signed statement or a store. Null when it is not of this shape. */
export function readHeights(raw: unknown): Heights | null {
  const { root, keys, timestamp, snapshot, targets } = (raw ?? {}) as { [key: string]: unknown }
  const isVersion = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0
  const named = typeof targets === 'object' && targets !== null && !Array.isArray(targets) ? Object.entries(targets) : null
  if (![root, timestamp, snapshot].every(isVersion) || !named?.every(([, version]) => isVersion(version))) return null
  if (typeof keys !== 'string' || !/^[0-9a-f]{64}$/.test(keys)) return null
  return {
    root: root as number,
    keys,
    timestamp: timestamp as number,
    snapshot: snapshot as number,
    targets: Object.fromEntries(named) as Record<string, number>,
  }
}
