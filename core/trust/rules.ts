/** What a client demands of a document before tuf-js sees it. The device's rules are this project's profile of TUF; there is no laxer set in the product. */
import { createHash } from 'node:crypto'
import { OffboxError } from '../errors.ts'
import { TUF_LIMITS } from '../tuf/limits.ts'
import type { Metadata, RoleKeys, Root, Targets } from '../tuf/metadata.ts'
import { parseMetadata } from '../tuf/profile.ts'
import { roleBytesMax } from '../tuf/push.ts'
import { requireThreshold } from '../tuf/signatures.ts'

export interface MetadataRules {
  bytesMax(role: string): number
  /** @throws TRUST_MALFORMED */
  parse(bytes: Uint8Array, role: string): Metadata
  /**
   * The second lock: counts signatures by code that shares nothing with tuf-js.
   * @throws TRUST_THRESHOLD too few of the keys that `delegator` names for `role`
   */
  requireThreshold(metadata: Metadata, role: string, delegator: Metadata): void
  /** New roots taken in one update. */
  readonly rootsMax: number
  /** Roles visited in the search for one target. */
  readonly rolesVisitedMax: number
}

export const DEVICE_RULES: MetadataRules = {
  bytesMax: roleBytesMax,
  parse: (bytes, role) => parseMetadata(bytes, role),
  requireThreshold: (metadata, role, delegator) => {
    const { keys, of } = keysFor(role, delegator)
    requireThreshold(metadata, role, of, keys)
  },
  rootsMax: TUF_LIMITS.rootsPerPushMax,
  // More delegations than this match no path of ours: each service has a folder of its own.
  rolesVisitedMax: 32,
}

/** Verdicts kept by `remembering`. */
const VERDICTS_MAX = 256

/**
 * The same rules, with verdicts of the second lock remembered: tweetnacl takes 15 ms a signature, and the same stored documents are
 * verified at every update. Only what passed is remembered, by a digest over all that the verdict rests on.
 * @param passed verdicts of before, by nobody but oneself; new ones are added to it
 */
export function remembering(rules: MetadataRules, passed: Set<string> = new Set()): MetadataRules {
  const requireThreshold: MetadataRules['requireThreshold'] = (metadata, role, delegator) => {
    const { keys, of } = keysFor(role, delegator)
    const named = of.keyids.map((keyid) => [keyid, keys[keyid]])
    const verdict = createHash('sha256')
      .update(JSON.stringify([metadata, of.threshold, named]))
      .digest('hex')
    if (passed.has(verdict)) return
    rules.requireThreshold(metadata, role, delegator)
    if (passed.size >= VERDICTS_MAX) passed.clear()
    passed.add(verdict)
  }
  return { ...rules, requireThreshold }
}

/** The keys that `delegator` names for `role`. @throws TRUST_THRESHOLD it names none */
export function keysFor(role: string, delegator: Metadata): { keys: Readonly<Record<string, unknown>>; of: RoleKeys } {
  const { signed } = delegator
  const found =
    signed._type === 'root'
      ? { keys: (signed as Root).keys, of: own((signed as Root).roles, role) }
      : { keys: (signed as Targets).delegations?.keys ?? {}, of: (signed as Targets).delegations?.roles.find(({ name }) => name === role) }
  if (!found.of) throw new OffboxError('TRUST_THRESHOLD', `${signed._type} names no keys for ${role}`)
  return { keys: found.keys, of: found.of }
}

function own(roles: Readonly<Record<string, RoleKeys>>, role: string): RoleKeys | undefined {
  return Object.hasOwn(roles, role) ? roles[role] : undefined
}
