/** What the owners of a fleet do with its trust repository: make it, rotate and revoke keys, delegate services, publish bundles. */
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'
import { publicKeyOf, tufKeyId, tufKeyOf } from '../../core/tuf/keys.ts'
import { TUF_LIMITS } from '../../core/tuf/limits.ts'
import { type DelegatedRole, type RoleKeys, servicePaths, serviceRole, TOP_ROLES, type TopRole, type TufKey } from '../../core/tuf/metadata.ts'
import { makeDirectory } from '../home/atomic.ts'
import { lockHome } from '../home/lock.ts'
import { change, delegations, LIFETIME_MS, listed, type RootContent, type Wishes } from './change.ts'
import { type Disk, nodeDisk, readGeneration, writeGeneration } from './generations.ts'
import type { KeyRing, OpenKey } from './key-ring.ts'
import { delegationOf, latestRoot, openRepository, type Repository } from './repository.ts'

export interface TrustContext {
  /** $OFFBOX_HOME/trust. */
  readonly path: string
  readonly keys: KeyRing
  readonly nowMs: number
  readonly disk?: Disk
}

/** $OFFBOX_HOME/trust/keys: private keys, unless they are kept elsewhere. */
export function keysOf(trust: string): string {
  return join(trust, 'keys')
}

/** The repository in force, verified. @throws HOME_INVALID there is none; STORE_CORRUPT */
export async function readTrust(path: string): Promise<Repository> {
  const files = await readGeneration(path)
  if (!files) throw new OffboxError('HOME_INVALID', `${path} holds no trust repository; make one: offbox trust init`)
  return openRepository(files)
}

/** @throws STATE_REFUSED there is one already */
export async function initTrust(
  context: TrustContext,
  options: { rootKeys: number; threshold: number; rootDirectories?: readonly string[] },
): Promise<Repository> {
  const { rootKeys, threshold, rootDirectories = [] } = options
  if (!(threshold >= 1 && threshold <= rootKeys && rootKeys <= TUF_LIMITS.keysPerRoleMax)) {
    throw new OffboxError('ARGUMENT_INVALID', `${threshold} of ${rootKeys} root keys: at least 1, at most ${TUF_LIMITS.keysPerRoleMax}`)
  }
  return await locked(context, async () => {
    if (await readGeneration(context.path)) throw new OffboxError('STATE_REFUSED', `${context.path} holds a trust repository already; it is never made anew`)
    const made: Record<TopRole, OpenKey[]> = {
      root: await context.keys.make('root', rootKeys, rootDirectories),
      timestamp: await context.keys.make('timestamp', 1),
      snapshot: await context.keys.make('snapshot', 1),
      targets: await context.keys.make('targets', 1),
    }
    const roles = Object.fromEntries(
      TOP_ROLES.map((role) => [role, { keyids: made[role].map(({ keyid }) => keyid), threshold: role === 'root' ? threshold : 1 }]),
    ) as unknown as RootContent['roles']
    return await publishChange(context, null, { root: { keys: tableOf(Object.values(made).flat()), roles } })
  })
}

/** Lets a service's keys sign for its bundles and for nothing else. @throws STATE_REFUSED it is delegated already */
export async function delegate(
  context: TrustContext,
  service: string,
  options: { publicKeys?: readonly Uint8Array[]; threshold?: number; directory?: string } = {},
): Promise<Repository> {
  if (!isServiceName(service)) throw new OffboxError('ARGUMENT_INVALID', `${JSON.stringify(service)} is no service name`)
  const { publicKeys = [], threshold = 1, directory } = options
  return await locked(context, async () => {
    const before = await readTrust(context.path)
    const name = serviceRole(service)
    if (delegationOf(before.targets.signed, name)) throw new OffboxError('STATE_REFUSED', `${name} is delegated already; rotate it, or revoke it first`)
    if (publicKeys.length === 0) {
      if (!(threshold >= 1 && threshold <= TUF_LIMITS.keysPerRoleMax)) {
        throw new OffboxError('ARGUMENT_INVALID', `a threshold of ${threshold}: at least 1, at most ${TUF_LIMITS.keysPerRoleMax}`)
      }
      await requireSigners(context.keys, before, ['targets'])
    }
    const keys =
      publicKeys.length > 0 ? publicKeys.map(tufKeyOf) : (await context.keys.make(name, threshold, directory ? [directory] : [])).map(({ key }) => key)
    const table = Object.fromEntries(keys.map((key) => [tufKeyId(key), key]))
    const keyids = Object.keys(table)
    if (threshold < 1 || threshold > keyids.length) throw new OffboxError('ARGUMENT_INVALID', `a threshold of ${threshold} with ${keyids.length} keys`)
    const role: DelegatedRole = { name, keyids, threshold, paths: [servicePaths(service)], terminating: true }
    const elsewhere = publicKeys.length > 0 && !(await hasKeys(context.keys, role))
    // Its old metadata would be in force again, which the new keys have not signed.
    if (elsewhere && before.snapshot.signed.meta[`${name}.json`]) {
      throw new OffboxError('TRUST_THRESHOLD', `${name} was delegated before: its new keys have to be at hand (--key-dir), to sign that it starts anew`)
    }
    return await publishChange(context, before, {
      targets: delegations(before.targets.signed, name, role, table),
      ...(elsewhere ? {} : { roles: new Map([[name, { targets: {} }]]) }),
    })
  })
}

/**
 * Gives a role new keys: as many as it had, or one in place of `replace`. The old ones sign nothing any more.
 * @param role root, timestamp, snapshot, targets or service-NAME
 */
export async function rotate(context: TrustContext, role: string, options: { replace?: string; directories?: readonly string[] } = {}): Promise<Repository> {
  return await locked(context, async () => {
    const before = await readTrust(context.path)
    await requireSigners(context.keys, before, [], new Map([[role, goneOf(before, role, options.replace)]]))
    return await publishChange(context, before, await replaced(context, before, role, options.replace, options.directories))
  })
}

/**
 * Takes trust away. A key is replaced by a new one in each role that lists it; a delegation, or a target, is removed.
 * @param what a key id (16 digits suffice), service-NAME, or services/NAME/VERSION.offbox
 * @throws ARGUMENT_INVALID nothing of that name
 */
export async function revoke(context: TrustContext, what: string, options: { directories?: readonly string[] } = {}): Promise<Repository> {
  return await locked(context, async () => {
    const before = await readTrust(context.path)
    return await publishChange(context, before, await revocation(context, before, what, options.directories))
  })
}

/** Signs the timestamp anew, the snapshot when half its time is over, and the roles named. */
export async function refresh(context: TrustContext, roles: readonly string[] = []): Promise<Repository> {
  return await locked(context, async () => {
    const before = await readTrust(context.path)
    const known = [...TOP_ROLES, ...before.roles.keys()]
    const unknown = roles.find((role) => !known.includes(role))
    if (unknown !== undefined) throw new OffboxError('ARGUMENT_INVALID', `no role ${JSON.stringify(unknown)}; there are ${known.join(', ')}`)
    const half = Date.parse(before.snapshot.signed.expires) - context.nowMs < LIFETIME_MS.snapshot / 2
    return await publishChange(context, before, { again: new Set([...roles, ...(half ? ['snapshot'] : [])]) })
  })
}

/** Changes what roles list; `next` answers what shall be different, null for nothing. For publishing bundles and the policy. */
export async function changeListed(
  context: TrustContext,
  next: (before: Repository) => Promise<Pick<Wishes, 'targets' | 'roles'> | null>,
): Promise<Repository> {
  return await locked(context, async () => {
    const before = await readTrust(context.path)
    const wishes = await next(before)
    return wishes === null ? before : await publishChange(context, before, wishes)
  })
}

async function revocation(context: TrustContext, before: Repository, what: string, directories: readonly string[] | undefined): Promise<Wishes> {
  const targets = before.targets.signed
  if (delegationOf(targets, what)) return { targets: delegations(targets, what, null, {}) }
  for (const [role, { signed }] of before.roles) {
    if (!Object.hasOwn(signed.targets, what)) continue
    return { roles: new Map([[role, { targets: Object.fromEntries(Object.entries(signed.targets).filter(([path]) => path !== what)) }]]) }
  }
  const root = latestRoot(before).signed
  const keyids = [...Object.keys(root.keys), ...Object.keys(targets.delegations?.keys ?? {})].filter((id) => what.length >= 16 && id.startsWith(what))
  const keyid = keyids[0]
  if (keyid === undefined) throw new OffboxError('ARGUMENT_INVALID', `no key, delegation or target ${JSON.stringify(what)} is trusted; see offbox trust status`)
  context.keys.avoid(keyid)
  const lists = [
    ...TOP_ROLES.filter((role) => root.roles[role].keyids.includes(keyid)),
    ...rolesOf(before)
      .filter((one) => one.keyids.includes(keyid))
      .map(({ name }) => name),
  ]
  await requireSigners(context.keys, before, [], new Map(lists.map((role) => [role, [keyid]])))
  let wishes: Wishes = {}
  let seen = before
  for (const role of lists) {
    const next = await replaced(context, seen, role, keyid, directories)
    wishes = { ...wishes, ...next, again: new Set([...(wishes.again ?? []), ...(next.again ?? [])]) }
    seen = withWishes(seen, next)
  }
  return wishes
}

/** What replacing keys of a role takes: a new root or new delegations, and the role's metadata signed by its new keys. */
async function replaced(
  { keys }: TrustContext,
  before: Repository,
  role: string,
  replace: string | undefined,
  directories: readonly string[] | undefined,
): Promise<Wishes> {
  const root = latestRoot(before).signed
  const top = topRole(role)
  const old = roleOf(before, role)
  const gone = goneOf(before, role, replace)
  const made = await keys.make(role, gone.length, directories)
  const fresh = { keyids: [...old.keyids.filter((keyid) => !gone.includes(keyid)), ...made.map(({ keyid }) => keyid)], threshold: old.threshold }
  if (!top) {
    const delegation = { ...(delegationOf(before.targets.signed, role) as DelegatedRole), ...fresh }
    return { targets: delegations(before.targets.signed, role, delegation, tableOf(made)), again: new Set([role]) }
  }
  const roles = { ...root.roles, [top]: fresh }
  return { root: { keys: listed({ ...root.keys, ...tableOf(made) }, Object.values(roles)), roles }, again: new Set(top === 'root' ? [] : [top]) }
}

const topRole = (role: string): TopRole | undefined => TOP_ROLES.find((one) => one === role)

/** @throws ARGUMENT_INVALID no such role */
function roleOf(before: Repository, role: string): RoleKeys {
  const top = topRole(role)
  const found: RoleKeys | undefined = top ? latestRoot(before).signed.roles[top] : delegationOf(before.targets.signed, role)
  if (found) return found
  const known = [...TOP_ROLES, ...rolesOf(before).map((one) => one.name)]
  throw new OffboxError('ARGUMENT_INVALID', `no role ${JSON.stringify(role)}; there are ${known.join(', ')}`)
}

/** The keys of a role that are to be replaced. @throws ARGUMENT_INVALID none */
function goneOf(before: Repository, role: string, replace: string | undefined): readonly string[] {
  const { keyids } = roleOf(before, role)
  const gone = replace === undefined ? keyids : keyids.filter((keyid) => replace.length >= 16 && keyid.startsWith(replace))
  if (gone.length > 0) return gone
  throw new OffboxError('ARGUMENT_INVALID', `${role} has no key ${replace}; it has ${keyids.map((id) => id.slice(0, 16)).join(', ')}`)
}

/**
 * Opens what a change will have to be signed with, as far as it is there already: no key is made for a change that cannot be signed.
 * @param changed roles whose metadata changes; what follows from it is added here
 * @param gone by role, the keys that new ones will replace: they need not be there, unless they are of the root in force
 * @throws TRUST_THRESHOLD, TRUST_KEY_LOCKED
 */
async function requireSigners(
  keys: KeyRing,
  before: Repository,
  changed: readonly string[],
  gone: ReadonlyMap<string, readonly string[]> = new Map(),
): Promise<void> {
  const signing = new Set([...changed, ...gone.keys()])
  const services = [...signing].filter((role) => !topRole(role))
  if (services.length > 0) signing.add('targets')
  if (signing.has('targets')) signing.add('snapshot')
  signing.add('timestamp')
  if ([...gone.keys()].some(topRole)) await keys.signersFor('the root in force', latestRoot(before).signed.roles.root)
  for (const role of signing) {
    // A service that has signed nothing yet signs nothing now.
    if (!topRole(role) && !before.roles.has(role)) continue
    const { keyids, threshold } = roleOf(before, role)
    const lost = gone.get(role) ?? []
    await keys.signersFor(role, { keyids: keyids.filter((keyid) => !lost.includes(keyid)), threshold: Math.max(0, threshold - lost.length) })
  }
}

/** As the repository would look to the next step of the same change; only what such a step reads. */
function withWishes(repository: Repository, wishes: Wishes): Repository {
  const root = latestRoot(repository)
  const roots = wishes.root ? [...repository.roots.slice(0, -1), { ...root, signed: { ...root.signed, ...wishes.root } }] : repository.roots
  const targets = wishes.targets ? { ...repository.targets, signed: { ...repository.targets.signed, ...wishes.targets } } : repository.targets
  return { ...repository, roots, targets }
}

async function publishChange(context: TrustContext, before: Repository | null, wishes: Wishes): Promise<Repository> {
  const after = await change(before, wishes, context.keys, context.nowMs)
  await writeGeneration(context.path, after.files, context.disk ?? nodeDisk)
  return after
}

async function locked<T>({ path }: TrustContext, work: () => Promise<T>): Promise<T> {
  await makeDirectory(keysOf(path))
  const unlock = await lockHome(join(path, 'lock'), 'trust command')
  try {
    return await work()
  } finally {
    await unlock()
  }
}

async function hasKeys(keys: KeyRing, role: RoleKeys): Promise<boolean> {
  const here = new Set((await keys.files()).map(({ keyid }) => keyid))
  return role.keyids.filter((keyid) => here.has(keyid)).length >= role.threshold
}

const rolesOf = (repository: Repository) => repository.targets.signed.delegations?.roles ?? []

/** By key id; each is checked as a device checks it. */
function tableOf(keys: readonly OpenKey[]): Record<string, TufKey> {
  for (const { keyid, key } of keys) publicKeyOf(keyid, key)
  return Object.fromEntries(keys.map(({ keyid, key }) => [keyid, key]))
}
