/**
 * Rules for the published conformance suite, which has keys of kinds and roles of names that no repository of ours has. Bounds, canonical
 * form and the second lock for Ed25519 are the product's; the profile (core/tuf/profile.ts) is left out, since it refuses what is not ours.
 */
import { createPublicKey, verify } from 'node:crypto'
import { OffboxError } from '../../../core/errors.ts'
import { verifyEd25519 } from '../../../core/signing.ts'
import { keysFor, type MetadataRules } from '../../../core/trust/rules.ts'
import { parseBounded } from '../../../core/tuf/bounded-json.ts'
import { signedBytes } from '../../../core/tuf/canonical-json.ts'
import type { Metadata } from '../../../core/tuf/metadata.ts'

export const OPEN_RULES: MetadataRules = {
  bytesMax: () => 1024 * 1024,
  parse: (bytes, role) => {
    const raw = parseBounded(bytes, 1024 * 1024, `${role}.json`) as Partial<Metadata> | null
    if (typeof raw?.signed !== 'object' || raw.signed === null || !Array.isArray(raw.signatures)) throw malformed(role)
    const type = ['root', 'timestamp', 'snapshot'].includes(role) ? role : 'targets'
    if (raw.signed._type !== type || !Number.isSafeInteger(raw.signed.version)) throw malformed(role)
    return raw as Metadata
  },
  requireThreshold: (metadata, role, delegator) => {
    const { keys, of } = keysFor(role, delegator)
    const message = signedBytes(metadata.signed)
    const signers = [...new Set(of.keyids)].filter((keyid) => {
      const sig = metadata.signatures.find((one) => one.keyid === keyid)?.sig ?? ''
      return Object.hasOwn(keys, keyid) && holds(message, new Uint8Array(Buffer.from(sig, 'hex')), keys[keyid] as LooseKey)
    })
    if (signers.length < of.threshold) throw new OffboxError('TRUST_THRESHOLD', `${signers.length} of ${of.threshold} keys of ${role} signed`)
  },
  rootsMax: 256,
  rolesVisitedMax: 32,
}

interface LooseKey {
  readonly keytype: string
  readonly scheme: string
  readonly keyval: { readonly public: string }
}

function holds(message: Uint8Array, signature: Uint8Array, { keytype, scheme, keyval }: LooseKey): boolean {
  if (keytype === 'ed25519') return verifyEd25519(message, signature, new Uint8Array(Buffer.from(keyval.public, 'hex')))
  const key = createPublicKey(keyval.public)
  return verify('sha256', message, scheme.startsWith('rsassa-pss') ? { key, padding: 6 } : key, signature)
}

function malformed(role: string): OffboxError {
  return new OffboxError('TRUST_MALFORMED', `${role}.json is not of its type`)
}
