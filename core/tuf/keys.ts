/** Keys in TUF metadata: Ed25519 only, named by SHA-256 of their canonical form, so that one key cannot stand under two names. */
import { createHash } from 'node:crypto'
import { OffboxError } from '../errors.ts'
import { isSmallOrder } from '../signing.ts'
import { signedBytes } from './canonical-json.ts'
import type { TufKey } from './metadata.ts'

/** @param publicKey 32 bytes. @throws TRUST_MALFORMED a wrong length, or a point that would verify anything */
export function tufKeyOf(publicKey: Uint8Array): TufKey {
  if (publicKey.length !== 32 || isSmallOrder(publicKey)) throw new OffboxError('TRUST_MALFORMED', 'not a usable Ed25519 public key of 32 bytes')
  return { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: Buffer.from(publicKey).toString('hex') } }
}

/** SHA-256 over the canonical form of the key object, hex. Not the keyId of bundles, which is over the raw 32 bytes. */
export function tufKeyId(key: TufKey): string {
  return createHash('sha256').update(signedBytes(key)).digest('hex')
}

/**
 * The raw 32 bytes of a key found in metadata.
 * @param keyid the name it stands under, which must be its own
 * @throws TRUST_MALFORMED another algorithm, a wrong length, a small-order point, another key's name
 */
export function publicKeyOf(keyid: string, key: unknown): Uint8Array {
  const refuse = (why: string) => new OffboxError('TRUST_MALFORMED', `key ${String(keyid).slice(0, 16)}: ${why}`)
  const { keytype, scheme, keyval } = (key ?? {}) as { keytype?: unknown; scheme?: unknown; keyval?: { public?: unknown } }
  if (keytype !== 'ed25519' || scheme !== 'ed25519') throw refuse('only Ed25519 keys are used')
  const hex = keyval?.public
  if (typeof hex !== 'string' || !/^[0-9a-f]{64}$/.test(hex)) throw refuse('its public part must be 64 lower-case hex digits')
  const bytes = new Uint8Array(Buffer.from(hex, 'hex'))
  if (isSmallOrder(bytes)) throw refuse('a small-order point would verify anything')
  if (tufKeyId(tufKeyOf(bytes)) !== keyid) throw refuse('it stands under a name that is not its own')
  return bytes
}
