/**
 * The policy of the fleet's devices: a target that the top-level targets role lists itself. Its bytes lie beside the repository, under their
 * digest, written before the metadata that names them: killed at any moment, what the repository names is there.
 */
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { type Capability, isServiceName, type Manifest, type Tier } from '../../core/manifest.ts'
import { checkPolicy, formatPolicy, type Policy, POLICY_PATH, policyBytesMax, type ServicePolicy } from '../../core/policy.ts'
import { parseBounded } from '../../core/tuf/bounded-json.ts'
import { readIfThere, writeAtomic } from '../home/atomic.ts'
import { type Repository, sha256 } from './repository.ts'
import { changeListed, type TrustContext } from './trust.ts'

export type PolicyServices = Policy['services']

export interface PublishedPolicy {
  readonly policy: Policy
  /** The file, as devices get it. */
  readonly bytes: Uint8Array
  /** Of the file, hex. */
  readonly sha256: string
}

/** The policy in force; null: there is none, so devices run nothing. @throws STORE_CORRUPT the repository names one that is not there, or rotten */
export async function readPolicyOf(trust: string, { targets }: Pick<Repository, 'targets'>): Promise<PublishedPolicy | null> {
  const target = targets.signed.targets[POLICY_PATH]
  if (!target) return null
  const digest = target.hashes.sha256
  const path = fileOf(trust, digest)
  const bytes = await readIfThere(path)
  if (!bytes || sha256(bytes) !== digest) throw new OffboxError('STORE_CORRUPT', `${path}, the policy that the repository names, is missing or rotten`)
  return { policy: parsePolicy(bytes), bytes: new Uint8Array(bytes), sha256: digest }
}

/** Of a file that somebody wrote. @throws TRUST_MALFORMED naming the rule */
export function parsePolicy(bytes: Uint8Array): Policy {
  return checkPolicy(parseBounded(bytes, policyBytesMax, 'the policy'))
}

/**
 * Publishes what `next` makes of the services that the policy names now. The same again changes nothing.
 * @param versionMin for a policy that is to replace a lost one: devices refuse a version lower than one they have seen
 * @throws STORE_CORRUPT the policy in force is lost and no `versionMin` is given; TRUST_*
 */
export async function changePolicy(
  context: TrustContext,
  next: (before: PolicyServices) => PolicyServices,
  versionMin = 0,
): Promise<{ policy: Policy; changed: boolean }> {
  let done: { policy: Policy; changed: boolean } | undefined
  await changeListed(context, async (repository) => {
    const before = await readPolicyOf(context.path, repository).catch((error) => {
      if (versionMin > 0) return null
      throw error
    })
    const policy: Policy = { version: Math.max((before?.policy.version ?? 0) + 1, versionMin), services: next(before?.policy.services ?? {}) }
    const same = before && Buffer.compare(formatPolicy({ ...policy, version: before.policy.version }), before.bytes) === 0
    done = same ? { policy: before.policy, changed: false } : { policy, changed: true }
    if (same) return null
    const bytes = formatPolicy(policy)
    const digest = sha256(bytes)
    await store(context.path, digest, bytes, before?.sha256)
    const { targets, delegations } = repository.targets.signed
    const listed = { ...targets, [POLICY_PATH]: { length: bytes.length, hashes: { sha256: digest } } }
    return { targets: { targets: listed, ...(delegations ? { delegations } : {}) } }
  })
  return done as { policy: Policy; changed: boolean }
}

/** What a service has to be allowed for a bundle of it to run. */
export interface PolicyWish {
  readonly service: string
  /** Bundle key ids, hex. */
  readonly keyIds: readonly string[]
  readonly capabilities: readonly Capability[]
  readonly tiers: readonly Tier[]
}

/** A process of its own is stricter than a worker: who may run in a worker may be put into a process by the device's own choice. */
export function wishOf(manifest: Manifest, keyIds: readonly string[]): PolicyWish {
  return { service: manifest.name, keyIds, capabilities: manifest.capabilities, tiers: manifest.tier === 'process' ? ['process'] : ['worker', 'process'] }
}

/** The services with these allowed as well; what is allowed already stays. Pure. @throws ARGUMENT_INVALID not a service's name */
export function allowing(services: PolicyServices, wishes: readonly PolicyWish[]): PolicyServices {
  const next: Record<string, ServicePolicy> = { ...services }
  for (const { service, keyIds, capabilities, tiers } of wishes) {
    if (!isServiceName(service)) throw new OffboxError('ARGUMENT_INVALID', `${JSON.stringify(service)} is no service name`)
    const before = Object.hasOwn(next, service) ? next[service] : undefined
    next[service] = {
      keys: union(before?.keys ?? [], keyIds),
      capabilities: union(before?.capabilities ?? [], capabilities),
      tiers: union(before?.tiers ?? [], tiers),
    }
  }
  return next
}

function union<T>(one: readonly T[], other: readonly T[]): readonly T[] {
  return [...new Set([...one, ...other])]
}

/** The one before stays until the next change: somebody may be reading the repository that names it. */
async function store(trust: string, digest: string, bytes: Uint8Array, before: string | undefined): Promise<void> {
  const directory = join(trust, 'policies')
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await writeAtomic(fileOf(trust, digest), bytes)
  const kept = [digest, before].map((one) => `${one}.json`)
  for (const name of await readdir(directory)) if (/^[0-9a-f]{64}\.json$/.test(name) && !kept.includes(name)) await rm(join(directory, name), { force: true })
}

function fileOf(trust: string, digest: string): string {
  return join(trust, 'policies', `${digest}.json`)
}
