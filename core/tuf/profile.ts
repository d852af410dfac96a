/**
 * The part of TUF that this project uses: Ed25519 keys under their own names, explicit paths, bounded counts, safe numbers. A device
 * checks it before tuf-js sees a file, so that what tuf-js would let pass (a threshold above the number of keys, hash-prefix
 * delegations, keys of other kinds) never gets there.
 */
import { OffboxError } from '../errors.ts'
import { parseBounded } from './bounded-json.ts'
import { publicKeyOf } from './keys.ts'
import { TUF_LIMITS } from './limits.ts'
import { type Metadata, type Root, type Signed, type Snapshot, type Targets, type Timestamp, TOP_ROLES } from './metadata.ts'
import { roleBytesMax } from './push.ts'

type SignedOf<R extends string> = R extends 'root' ? Root : R extends 'timestamp' ? Timestamp : R extends 'snapshot' ? Snapshot : Targets

/**
 * Parses a file and checks its shape; verifies no signature.
 * @param role "root", "timestamp", "snapshot", "targets" or a delegated role's name
 * @throws TRUST_MALFORMED naming the file and the broken rule
 */
export function parseMetadata<R extends string>(bytes: Uint8Array, role: R): Metadata<SignedOf<R>> {
  const file = `${role}.json`
  const raw = parseBounded(bytes, roleBytesMax(role), file)
  const check = new Check(file)
  const { signed, signatures } = check.object(raw, 'the file')
  const content = check.object(signed, 'signed')
  const type = TOP_ROLES.includes(role as never) ? role : 'targets'
  check.rule(content['_type'] === type, `_type must be ${type}`)
  check.rule(typeof content['spec_version'] === 'string' && /^1\.\d{1,3}(\.\d{1,3})?$/.test(content['spec_version']), 'spec_version must be 1.x')
  check.version(content['version'], 'version')
  check.rule(isTime(content['expires']), 'expires must be UTC in whole seconds')
  checkSignatures(check, signatures)
  RULES[type as keyof typeof RULES](check, content)
  return raw as Metadata<SignedOf<R>>
}

/** Milliseconds since 1970 of `expires`. */
export function expiresAtMs(signed: Pick<Signed, 'expires'>): number {
  return Date.parse(signed.expires)
}

const RULES = { root: checkRoot, timestamp: checkTimestamp, snapshot: checkSnapshot, targets: checkTargets }

function checkSignatures(check: Check, raw: unknown): void {
  const signatures = check.list(raw, 'signatures', TUF_LIMITS.signaturesMax)
  const keyids = signatures.map((entry) => {
    const { keyid, sig } = check.object(entry, 'signatures[]')
    check.rule(isHex(keyid, 64), 'signatures[].keyid must be 64 hex digits')
    // Empty is what some signers leave for a key that has yet to sign; it counts for nothing.
    check.rule(sig === '' || isHex(sig, 128), 'signatures[].sig must be 128 hex digits')
    return keyid
  })
  check.rule(new Set(keyids).size === keyids.length, 'a key signed twice')
}

function checkRoot(check: Check, root: Record<string, unknown>): void {
  check.rule(root['consistent_snapshot'] === true, 'consistent_snapshot must be true')
  const keys = checkKeys(check, root['keys'])
  const roles = check.object(root['roles'], 'roles')
  check.rule(Object.keys(roles).sort().join() === [...TOP_ROLES].sort().join(), `roles must be ${TOP_ROLES.join(', ')}`)
  for (const [name, role] of Object.entries(roles)) checkRole(check, check.object(role, `roles.${name}`), keys, `roles.${name}`)
}

function checkTimestamp(check: Check, timestamp: Record<string, unknown>): void {
  check.rule(timestamp['issued'] === undefined || isTime(timestamp['issued']), 'issued must be UTC in whole seconds')
  const meta = check.object(timestamp['meta'], 'meta')
  check.rule(Object.keys(meta).join() === 'snapshot.json', 'meta must name snapshot.json alone')
  checkFileMeta(check, meta['snapshot.json'], 'snapshot.json')
}

function checkSnapshot(check: Check, snapshot: Record<string, unknown>): void {
  const meta = Object.entries(check.object(snapshot['meta'], 'meta'))
  check.rule(meta.length <= TUF_LIMITS.delegationsMax + 1, `meta must have at most ${TUF_LIMITS.delegationsMax + 1} entries`)
  for (const [name, entry] of meta) {
    check.rule(/^(targets|service-[a-z][a-z0-9-]{0,39})\.json$/.test(name), 'meta must name targets.json and service roles')
    checkFileMeta(check, entry, name)
  }
}

function checkTargets(check: Check, content: Record<string, unknown>): void {
  const targets = Object.entries(check.object(content['targets'], 'targets'))
  check.rule(targets.length <= TUF_LIMITS.targetsPerRoleMax, `targets must have at most ${TUF_LIMITS.targetsPerRoleMax} entries`)
  for (const [path, raw] of targets) {
    check.rule(/^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$/.test(path) && !/\/\.|\/\//.test(path), `target path ${JSON.stringify(path.slice(0, 80))}`)
    const target = check.object(raw, `target ${path}`)
    checkLengthAndHash(check, target, `target ${path}`)
    if (target['custom'] !== undefined) check.object(target['custom'], `custom of ${path}`)
  }
  if (content['delegations'] !== undefined) checkDelegations(check, check.object(content['delegations'], 'delegations'))
}

function checkDelegations(check: Check, delegations: Record<string, unknown>): void {
  const keys = checkKeys(check, delegations['keys'])
  const roles = check.list(delegations['roles'], 'delegations.roles', TUF_LIMITS.delegationsMax)
  const names = roles.map((raw) => {
    const role = check.object(raw, 'delegations.roles[]')
    const { name, paths, terminating } = role
    check.rule(typeof name === 'string' && /^service-[a-z][a-z0-9-]{0,39}$/.test(name), 'a delegated role is called service-NAME')
    checkRole(check, role, keys, String(name))
    check.rule(typeof terminating === 'boolean', `terminating of ${name} must be true or false`)
    check.rule(!('path_hash_prefixes' in role), `${name} must name its paths`)
    const patterns = check.list(paths, `paths of ${name}`, 8)
    // minimatch knows braces, classes and extglobs; a plain star is all that is used, and all that is easy to read. One in each part at most: it
    // makes a regular expression of them, which takes minutes for "*a*a*a*a*b".
    check.rule(
      patterns.every((one) => typeof one === 'string' && /^[A-Za-z0-9._/*-]{1,200}$/.test(one) && !/\*[^/]*\*/.test(one)),
      `paths of ${name}`,
    )
    return name
  })
  check.rule(new Set(names).size === names.length, 'a delegated role is named twice')
}

function checkKeys(check: Check, raw: unknown): Set<string> {
  const keys = Object.entries(check.object(raw, 'keys'))
  check.rule(keys.length <= TUF_LIMITS.keysMax, `keys must have at most ${TUF_LIMITS.keysMax} entries`)
  for (const [keyid, key] of keys) publicKeyOf(keyid, key)
  return new Set(keys.map(([keyid]) => keyid))
}

function checkRole(check: Check, role: Record<string, unknown>, keys: ReadonlySet<string>, name: string): void {
  const keyids = check.list(role['keyids'], `keyids of ${name}`, TUF_LIMITS.keysPerRoleMax)
  check.rule(new Set(keyids).size === keyids.length, `a key of ${name} is listed twice`)
  check.rule(
    keyids.every((keyid) => keys.has(keyid as string)),
    `${name} lists a key that the file does not hold`,
  )
  const threshold = role['threshold']
  check.rule(Number.isSafeInteger(threshold) && (threshold as number) >= 1 && (threshold as number) <= keyids.length, `threshold of ${name}`)
}

function checkFileMeta(check: Check, raw: unknown, name: string): void {
  const entry = check.object(raw, name)
  check.version(entry['version'], `version of ${name}`)
  checkLengthAndHash(check, entry, name)
}

function checkLengthAndHash(check: Check, entry: Record<string, unknown>, what: string): void {
  check.rule(Number.isSafeInteger(entry['length']) && (entry['length'] as number) > 0, `length of ${what}`)
  check.rule(isHex(check.object(entry['hashes'], `hashes of ${what}`)['sha256'], 64), `sha256 of ${what}`)
}

const isHex = (value: unknown, digits: number) => typeof value === 'string' && value.length === digits && /^[0-9a-f]*$/.test(value)
const isTime = (value: unknown) => typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(value) && !Number.isNaN(Date.parse(value))

class Check {
  readonly #file: string
  constructor(file: string) {
    this.#file = file
  }

  rule(holds: boolean, text: string): void {
    if (!holds) throw new OffboxError('TRUST_MALFORMED', `${this.#file} breaks a rule: ${text}`)
  }

  object(value: unknown, what: string): Record<string, unknown> {
    this.rule(typeof value === 'object' && value !== null && !Array.isArray(value), `${what} must be an object`)
    return value as Record<string, unknown>
  }

  list(value: unknown, what: string, max: number): unknown[] {
    this.rule(Array.isArray(value) && value.length <= max, `${what} must be a list of at most ${max}`)
    return value as unknown[]
  }

  version(value: unknown, what: string): void {
    this.rule(Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) < 1_000_000_000, `${what} must be a number from 1`)
  }
}
