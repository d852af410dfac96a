/** What a trust repository says, for people and programs: roles, versions, expiry, and who may sign what. Pure. */
import { type RoleKeys, TOP_ROLES, type Signed } from '../../core/tuf/metadata.ts'
import { expiresAtMs } from '../../core/tuf/profile.ts'
import { LIFETIME_MS } from './change.ts'
import type { KeyFile } from './key-file.ts'
import { latestRoot, type Repository } from './repository.ts'

export interface RoleStatus {
  readonly role: string
  /** 0: nothing signed yet. */
  readonly version: number
  /** UTC; empty when nothing is signed yet. */
  readonly expires: string
  readonly expiresInHours: number
  readonly threshold: number
  readonly keys: readonly { readonly keyid: string /** Key files at hand. */; readonly files: readonly string[] }[]
  /** What its keys may sign. */
  readonly signs: readonly string[]
  /** Bundles it lists: paths. */
  readonly targets: readonly string[]
}

export interface TrustStatus {
  readonly roles: readonly RoleStatus[]
  readonly rootVersions: number
  /** Key files that no role lists: revoked, or of another repository. */
  readonly unusedKeyFiles: readonly string[]
  readonly warnings: readonly string[]
}

/** Of its lifetime, what is left when the warnings begin. */
const WARN_SHARE = 0.25
const HOUR_MS = 60 * 60 * 1000

const SIGNS: Readonly<Record<(typeof TOP_ROLES)[number], readonly string[]>> = {
  root: ['the keys and thresholds of root, timestamp, snapshot and targets'],
  timestamp: ['which snapshot is the newest'],
  snapshot: ['which versions of targets and of the services belong together'],
  targets: ['which keys sign for which service', 'the policy'],
}

export function statusOf(repository: Repository, files: readonly KeyFile[], nowMs: number): TrustStatus {
  const root = latestRoot(repository).signed
  const row = (role: string, keys: RoleKeys, signed: Signed | undefined, signs: readonly string[]): RoleStatus => ({
    role,
    version: signed?.version ?? 0,
    expires: signed?.expires ?? '',
    expiresInHours: signed ? Math.floor((expiresAtMs(signed) - nowMs) / HOUR_MS) : 0,
    threshold: keys.threshold,
    keys: keys.keyids.map((keyid) => ({ keyid, files: files.filter((file) => file.keyid === keyid).map(({ path }) => path) })),
    signs,
    targets: signed?._type === 'targets' ? Object.keys(signed.targets).sort() : [],
  })
  const signed = { root, timestamp: repository.timestamp.signed, snapshot: repository.snapshot.signed, targets: repository.targets.signed }
  const roles = [
    ...TOP_ROLES.map((role) => row(role, root.roles[role], signed[role], SIGNS[role])),
    ...(signed.targets.delegations?.roles ?? []).map((role) => row(role.name, role, repository.roles.get(role.name)?.signed, role.paths)),
  ]
  const listed = new Set(roles.flatMap(({ keys }) => keys.map(({ keyid }) => keyid)))
  const unusedKeyFiles = files.filter(({ keyid }) => !listed.has(keyid)).map(({ path }) => path)
  return { roles, rootVersions: repository.roots.length, unusedKeyFiles, warnings: roles.flatMap((role) => warningsOf(role)) }
}

/** Whether so little is left of a role's life that it is time to sign it anew. */
export function isDue({ role, version, expiresInHours }: RoleStatus): boolean {
  const lifetimeMs = LIFETIME_MS[role as keyof typeof LIFETIME_MS] ?? LIFETIME_MS.targets
  return version > 0 && expiresInHours * HOUR_MS < lifetimeMs * WARN_SHARE
}

function warningsOf(status: RoleStatus): string[] {
  const { role, version, expires, expiresInHours, threshold, keys } = status
  const renew = role === 'timestamp' || role === 'snapshot' ? 'offbox trust refresh' : `offbox trust refresh --role ${role}`
  if (version === 0) return [`${role} has signed nothing yet: none of its bundles is published`]
  const expired =
    expiresInHours < 0 ? [`${role} expired at ${expires}: devices run what they run, and take nothing new until it is signed again (${renew})`] : []
  const soon = expiresInHours >= 0 && isDue(status) ? [`${role} expires in ${inWords(expiresInHours)}, at ${expires} (${renew})`] : []
  // Lost: more key files gone than the role can do without cannot be seen from here, since they may be elsewhere on purpose.
  const alone =
    role === 'root' && keys.length === threshold ? ['every root key is needed to change the root: one lost key and it can never be changed again'] : []
  return [...expired, ...soon, ...alone]
}

function inWords(hours: number): string {
  return hours < 48 ? `${hours} hours` : `${Math.floor(hours / 24)} days`
}
