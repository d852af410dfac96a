/**
 * What a device lets run, as its owners signed it: which keys may ship which service, what that service may be lent, and in which tier it
 * may run. A target of the repository that only the top-level targets keys can change. Whatever it does not name may not run.
 */
import { createHash } from 'node:crypto'
import { OffboxError } from './errors.ts'
import { CAPABILITIES, type Capability, isServiceName, type Tier, TIERS } from './manifest.ts'
import type { VerifiedTarget } from './trust/verification.ts'
import { parseBounded } from './tuf/bounded-json.ts'

/** Its target path. The role "targets" itself has to vouch for it: a delegated role that does is not believed. */
export const POLICY_PATH = 'policy/device.json'
/** The role whose keys change it. */
export const POLICY_ROLE = 'targets'
/** 64 services with four keys each take 24 kB. */
export const policyBytesMax = 64 * 1024

export const POLICY_LIMITS = { servicesMax: 256, keysPerServiceMax: 16 } as const

export interface ServicePolicy {
  /** Bundle key ids (SHA-256 of the raw public key, hex): one of them has to have signed. No wildcard. */
  readonly keys: readonly string[]
  readonly capabilities: readonly Capability[]
  /** Tiers in which the service may run here. */
  readonly tiers: readonly Tier[]
}

export interface Policy {
  /** Rises with every change: a device refuses a lower one, and another one of the same version. */
  readonly version: number
  /** By service name. */
  readonly services: Readonly<Record<string, ServicePolicy>>
}

/** What is judged. */
export interface PolicySubject {
  readonly service: string
  /** Trusted keys whose signature on the bundle holds. */
  readonly keyIds: readonly string[]
  readonly capabilities: readonly Capability[]
  /** Where it would run: what its manifest asks for, or what is stricter by the device's own choice. */
  readonly tier: Tier
}

/** The rule that forbids it, in words; null: none does. Pure. @param policy null: there is none, so nothing may run */
export function policyVerdict(policy: Policy | null, subject: PolicySubject): string | null {
  const { service, keyIds, capabilities, tier } = subject
  if (!policy) return 'there is no policy, so nothing may run'
  const rule = Object.hasOwn(policy.services, service) ? policy.services[service] : undefined
  const where = `policy version ${policy.version}`
  if (!rule) return `${where} does not name ${service}`
  if (!keyIds.some((keyId) => rule.keys.includes(keyId))) {
    return `${where}, services.${service}.keys: none of them signed it (signed by ${keyIds.map((keyId) => keyId.slice(0, 16)).join(', ') || 'no trusted key'})`
  }
  const denied = capabilities.find((capability) => !rule.capabilities.includes(capability))
  if (denied !== undefined) return `${where}, services.${service}.capabilities: "${denied}" is not among them`
  if (!rule.tiers.includes(tier)) return `${where}, services.${service}.tiers: "${tier}" is not among them`
  return null
}

/** @throws POLICY_DENIED naming the rule */
export function requirePolicy(policy: Policy | null, subject: PolicySubject): void {
  const broken = policyVerdict(policy, subject)
  if (broken !== null) throw new OffboxError('POLICY_DENIED', `${subject.service} may not run here: ${broken}`)
}

/**
 * Checks that the bytes are those that the target means, then parses.
 * @throws TRUST_MISMATCH another file, or a role other than the top-level targets vouches for it
 * @throws TRUST_MALFORMED signed, and yet no policy
 */
export function readPolicy(bytes: Uint8Array, target: VerifiedTarget): Policy {
  if (target.path !== POLICY_PATH || target.role !== POLICY_ROLE) {
    throw new OffboxError('TRUST_MISMATCH', `${target.role} vouches for ${target.path}, which it has no say in`)
  }
  if (bytes.length !== target.length || sha256(bytes) !== target.hashes['sha256']) {
    throw new OffboxError('TRUST_MISMATCH', `the policy is not the file that ${target.role} signed for`)
  }
  return checkPolicy(parseBounded(bytes, policyBytesMax, 'the policy'))
}

/** The file of a policy: readable JSON, names in order. @throws TRUST_MALFORMED as `checkPolicy`, or too long for a device */
export function formatPolicy(policy: Policy): Uint8Array {
  const { version, services } = checkPolicy(policy)
  const sorted = Object.fromEntries(Object.entries(services).sort(([one], [other]) => (one < other ? -1 : 1)))
  const bytes = new TextEncoder().encode(`${JSON.stringify({ version, services: sorted }, null, 1)}\n`)
  if (bytes.length > policyBytesMax) throw malformed(`it has ${bytes.length} bytes, more than ${policyBytesMax}`)
  return bytes
}

/** The rules of the format, for its maker as well as its reader. Returns what it was given. @throws TRUST_MALFORMED naming the rule */
export function checkPolicy(raw: unknown): Policy {
  const policy = fields(raw, 'it', ['version', 'services'])
  const version = policy['version']
  if (!Number.isSafeInteger(version) || (version as number) < 1 || (version as number) > 0xffffffff) throw malformed('version must be a number from 1')
  const services = Object.entries(object(policy['services'], 'services'))
  if (services.length > POLICY_LIMITS.servicesMax) throw malformed(`services has more than ${POLICY_LIMITS.servicesMax} entries`)
  for (const [name, rule] of services) checkService(name, rule)
  return raw as Policy
}

function checkService(name: string, raw: unknown): void {
  if (!isServiceName(name)) throw malformed(`${JSON.stringify(String(name).slice(0, 60))} cannot name a service`)
  const where = `services.${name}`
  const rule = fields(raw, where, ['keys', 'capabilities', 'tiers'])
  const isKeyId = (value: unknown) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)
  list(rule['keys'], `${where}.keys`, POLICY_LIMITS.keysPerServiceMax, isKeyId, '64 hex digits each')
  list(rule['capabilities'], `${where}.capabilities`, CAPABILITIES.length, (value) => CAPABILITIES.includes(value as Capability), CAPABILITIES.join(', '))
  list(rule['tiers'], `${where}.tiers`, TIERS.length, (value) => TIERS.includes(value as Tier), TIERS.join(', '))
}

function object(raw: unknown, what: string): Record<string, unknown> {
  if (typeof raw === 'object' && raw !== null && !Array.isArray(raw)) return raw as Record<string, unknown>
  throw malformed(`${what} must be an object`)
}

/** All of them, and no others: a rule that an old device does not know must not be taken for one that it obeys. */
function fields(raw: unknown, what: string, names: readonly string[]): Record<string, unknown> {
  const found = object(raw, what)
  const strange = Object.keys(found).find((name) => !names.includes(name))
  if (strange !== undefined) throw malformed(`${what} has an unknown field ${JSON.stringify(strange.slice(0, 60))}`)
  return found
}

function list(raw: unknown, what: string, countMax: number, isGood: (value: unknown) => boolean, rule: string): void {
  const ok = Array.isArray(raw) && raw.length <= countMax && raw.every(isGood) && new Set(raw).size === raw.length
  if (!ok) throw malformed(`${what} must be a list of at most ${countMax}, nothing twice: ${rule}`)
}

function malformed(why: string): OffboxError {
  return new OffboxError('TRUST_MALFORMED', `the policy breaks a rule: ${why}`)
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
