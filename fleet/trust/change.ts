/**
 * One change of a repository: of what shall be different (`Wishes`), `change` makes every file that follows from it (a new role needs a
 * new snapshot, a new snapshot a new timestamp), each signed with the keys that the root, or the delegation, demands. In memory alone.
 */
import { OffboxError } from '../../core/errors.ts'
import { TUF_LIMITS } from '../../core/tuf/limits.ts'
import {
  type DelegatedRole,
  type FileMeta,
  fileName,
  type Metadata,
  type RoleKeys,
  type Root,
  type Signed,
  type Snapshot,
  SPEC_VERSION,
  type Targets,
  type Timestamp,
} from '../../core/tuf/metadata.ts'
import { parseMetadata } from '../../core/tuf/profile.ts'
import { roleBytesMax } from '../../core/tuf/push.ts'
import { formatMetadata, signMetadata } from '../../core/tuf/signatures.ts'
import type { KeyRing } from './key-ring.ts'
import { latestRoot, metaOf, openRepository, type Repository } from './repository.ts'

const DAY_MS = 24 * 60 * 60 * 1000
/** How long each role's metadata holds. The timestamp bounds how long a device can be kept on an old repository unawares. */
export const LIFETIME_MS = { root: 365 * DAY_MS, targets: 180 * DAY_MS, snapshot: 30 * DAY_MS, timestamp: 7 * DAY_MS } as const

export type RootContent = Pick<Root, 'keys' | 'roles'>
export type TargetsContent = Pick<Targets, 'targets' | 'delegations'>

export interface Wishes {
  /** New keys or thresholds. */
  readonly root?: RootContent
  /** New delegations. */
  readonly targets?: TargetsContent
  /** New targets of delegated roles, by role name. */
  readonly roles?: ReadonlyMap<string, TargetsContent>
  /** Roles to sign anew with the same content, since they would expire or their keys have changed. */
  readonly again?: ReadonlySet<string>
}

/**
 * The repository after the change, verified. Every new version is one above the last.
 * @param before null for the first
 * @throws TRUST_THRESHOLD, TRUST_KEY_LOCKED too few keys at hand; LIMIT_REACHED a file grew over its bound
 */
export async function change(before: Repository | null, wishes: Wishes, keys: KeyRing, nowMs: number): Promise<Repository> {
  const files = new Map(before ? kept(before) : [])
  const put = (metadata: Metadata, role: string) => {
    const bytes = formatMetadata(metadata)
    const [name, max] = [fileName(role, metadata.signed.version), roleBytesMax(role)]
    if (bytes.length > max) throw new OffboxError('LIMIT_REACHED', `${name} would have ${bytes.length} bytes, more than ${max}; withdraw old bundles`)
    // The same rules as a device has: what it would refuse is not published.
    parseMetadata(bytes, role)
    files.set(name, bytes)
    return metaOf(metadata)
  }
  const again = (role: string) => wishes.again?.has(role) === true
  const common = (role: keyof typeof LIFETIME_MS, last: number | undefined) => ({
    spec_version: SPEC_VERSION,
    version: (last ?? 0) + 1,
    expires: timeText(nowMs + LIFETIME_MS[role]),
  })

  const root = await nextRoot(before, wishes, keys, common)
  if (root) put(root, 'root')
  const { roles } = (root ?? latestRoot(before as Repository)).signed

  const meta: Record<string, FileMeta> = { ...before?.snapshot.signed.meta }
  const targets = wishes.targets ?? before?.targets.signed
  const targetsNew = wishes.targets !== undefined || again('targets') || !before
  if (targetsNew) {
    const content = { targets: targets?.targets ?? {}, ...(targets?.delegations ? { delegations: targets.delegations } : {}) }
    const signed: Targets = { _type: 'targets', ...common('targets', meta['targets.json']?.version), ...content }
    meta['targets.json'] = put(await signWith(keys, signed, 'targets', roles.targets), 'targets')
  }
  for (const role of targets?.delegations?.roles ?? []) {
    const content = wishes.roles?.get(role.name) ?? (again(role.name) ? before?.roles.get(role.name)?.signed : undefined)
    if (!content) continue
    const count = Object.keys(content.targets).length
    if (count > TUF_LIMITS.targetsPerRoleMax) throw new OffboxError('LIMIT_REACHED', `${role.name} would list ${count} bundles; withdraw old ones`)
    const signed: Targets = { _type: 'targets', ...common('targets', meta[`${role.name}.json`]?.version), targets: content.targets }
    meta[`${role.name}.json`] = put(await signWith(keys, signed, role.name, role), role.name)
  }

  const metaNew = JSON.stringify(meta) !== JSON.stringify(before?.snapshot.signed.meta)
  let snapshotMeta = before?.timestamp.signed.meta['snapshot.json']
  if (metaNew || again('snapshot') || !snapshotMeta) {
    const signed: Snapshot = { _type: 'snapshot', ...common('snapshot', before?.snapshot.signed.version), meta }
    snapshotMeta = put(await signWith(keys, signed, 'snapshot', roles.snapshot), 'snapshot')
  }
  // A device without a clock of its own learns the time from here.
  const fresh = { ...common('timestamp', before?.timestamp.signed.version), issued: timeText(nowMs) }
  const timestamp: Timestamp = { _type: 'timestamp', ...fresh, meta: { 'snapshot.json': snapshotMeta } }
  put(await signWith(keys, timestamp, 'timestamp', roles.timestamp), 'timestamp')
  return openRepository(files)
}

const timeText = (atMs: number) => `${new Date(atMs).toISOString().slice(0, 19)}Z`

type CommonOf = (role: 'root', last: number | undefined) => Pick<Root, 'spec_version' | 'version' | 'expires'>

/** Signed by the keys of the root before, so that a device can follow, and by its own (TUF specification, section 5.3.4). */
async function nextRoot(before: Repository | null, wishes: Wishes, keys: KeyRing, common: CommonOf): Promise<Metadata<Root> | null> {
  const last = before ? latestRoot(before).signed : undefined
  if (!wishes.root && !wishes.again?.has('root')) return null
  const content = wishes.root ?? (last as Root)
  const signed: Root = { _type: 'root', ...common('root', last?.version), consistent_snapshot: true, keys: content.keys, roles: content.roles }
  const signers = [...(last ? await keys.signersFor('the root in force', last.roles.root) : []), ...(await keys.signersFor('the new root', signed.roles.root))]
  return signMetadata(
    signed,
    signers.filter((signer, index) => signers.findIndex((one) => one.keyid === signer.keyid) === index),
  )
}

async function signWith<T extends Signed>(keys: KeyRing, signed: T, name: string, role: RoleKeys): Promise<Metadata<T>> {
  return signMetadata(signed, await keys.signersFor(name, role))
}

/** Every root, and what is in force now: whoever began to read before the change can end. What was in force before that goes. */
function kept({ roots, snapshot, targets, roles, files }: Repository): [string, Uint8Array][] {
  const names = [
    ...roots.map((root) => fileName('root', root.signed.version)),
    fileName('snapshot', snapshot.signed.version),
    fileName('targets', targets.signed.version),
    ...[...roles].map(([role, metadata]) => fileName(role, metadata.signed.version)),
  ]
  return names.map((name) => [name, files.get(name) as Uint8Array])
}

/** The delegations with `role` in place of the one of its name, or without it. Keys that no role lists any more go as well. */
export function delegations(targets: Targets, name: string, role: DelegatedRole | null, added: Readonly<Record<string, Root['keys'][string]>>): TargetsContent {
  const roles = [...(targets.delegations?.roles ?? []).filter((one) => one.name !== name), ...(role ? [role] : [])]
  const all = { ...targets.delegations?.keys, ...added }
  return { targets: targets.targets, delegations: { keys: listed(all, roles), roles } }
}

/** Of `keys`, those that a role lists. */
export function listed<K>(keys: Readonly<Record<string, K>>, roles: readonly RoleKeys[]): Record<string, K> {
  return Object.fromEntries(Object.entries(keys).filter(([keyid]) => roles.some((role) => role.keyids.includes(keyid))))
}
