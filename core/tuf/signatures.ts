/** Signs metadata, and counts who signed it. Verification is core/signing.ts's: tweetnacl and node:crypto must agree. */
import { OffboxError } from '../errors.ts'
import { verifyEd25519 } from '../signing.ts'
import { signedBytes } from './canonical-json.ts'
import { publicKeyOf } from './keys.ts'
import type { Metadata, RoleKeys, Signed } from './metadata.ts'

export interface TufSigner {
  readonly keyid: string
  /** 64 bytes over exactly `message`. */
  sign(message: Uint8Array): Uint8Array
}

/** Signs anew with each signer; nobody else's signature stays. @throws TRUST_MALFORMED no canonical form */
export function signMetadata<T extends Signed>(signed: T, signers: readonly TufSigner[]): Metadata<T> {
  const bytes = signedBytes(signed)
  return { signed, signatures: signers.map((signer) => ({ keyid: signer.keyid, sig: Buffer.from(signer.sign(bytes)).toString('hex') })) }
}

/** The file: readable JSON, since people look at it. Its exact bytes are what snapshot and timestamp name. */
export function formatMetadata(metadata: Metadata): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(metadata, null, 1)}\n`)
}

/**
 * The keys of `role` whose signature holds, each counted once however often it signed or is listed.
 * @param keys the delegator's keys, by keyid
 * @throws TRUST_MALFORMED a key that is not usable, or signed content without canonical form
 */
export function signersOf(metadata: Metadata, role: RoleKeys, keys: Readonly<Record<string, unknown>>): string[] {
  const bytes = signedBytes(metadata.signed)
  return [...new Set(role.keyids)].filter((keyid) => {
    const sig = metadata.signatures.find((one) => one.keyid === keyid)?.sig
    if (sig === undefined || !/^[0-9a-f]{128}$/.test(sig) || !Object.hasOwn(keys, keyid)) return false
    return verifyEd25519(bytes, new Uint8Array(Buffer.from(sig, 'hex')), publicKeyOf(keyid, keys[keyid]))
  })
}

/** @throws TRUST_THRESHOLD fewer of the role's keys signed than it demands; TRUST_MALFORMED as `signersOf` */
export function requireThreshold(metadata: Metadata, name: string, role: RoleKeys, keys: Readonly<Record<string, unknown>>): void {
  const count = signersOf(metadata, role, keys).length
  if (count < role.threshold) {
    const file = `${metadata.signed._type} version ${metadata.signed.version}`
    throw new OffboxError('TRUST_THRESHOLD', `${file}: ${count} of the ${role.keyids.length} keys of ${name} signed, ${role.threshold} must`)
  }
}
