/**
 * Ed25519 verification as this project means it. tweetnacl alone accepts malleated signatures (S >= L) and small-order
 * public keys; both are refused here, and node:crypto must agree with tweetnacl. RFC 8032, sections 5.1.3 and 5.1.7.
 */
import { createHash, createPublicKey, verify as nodeVerify } from 'node:crypto'
import nacl from 'tweetnacl'

declare const verified: unique symbol
/** Bytes whose signature was checked. Parsers of our own formats accept nothing else. */
export type VerifiedBytes = Uint8Array & { readonly [verified]: true }

/** A public key that is trusted for what it is about to verify: raw 32 bytes. */
export type TrustedKeys = ReadonlyMap<string, Uint8Array>

/** SHA-256 of the raw public key (32 bytes), lower-case hex. */
export function keyIdOf(publicKey: Uint8Array): string {
  return createHash('sha256').update(publicKey).digest('hex')
}

/** The group order L, little-endian (RFC 8032, section 5.1). */
const L = BigInt('0x1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed')

/** y coordinates of the eight points of small order and their non-canonical twins, sign bit cleared, little-endian hex. */
const SMALL_ORDER_Y = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
])

/** Whether `publicKey` (32 bytes) is one of the points that verify anything. */
export function isSmallOrder(publicKey: Uint8Array): boolean {
  const y = Buffer.from(publicKey)
  y[31] = (y[31] ?? 0) & 0x7f
  return SMALL_ORDER_Y.has(y.toString('hex'))
}

/**
 * Whether `signature` (64 bytes) over exactly `message` was made with `publicKey` (32 bytes). Never throws: a wrong length
 * is false. Cost: about 20 ms per kilobyte of message (tweetnacl is pure JavaScript), so sign digests, not payloads.
 */
export function verifyEd25519(message: Uint8Array, signature: Uint8Array, publicKey: Uint8Array): boolean {
  if (signature.length !== 64 || publicKey.length !== 32) return false
  if (isSmallOrder(publicKey) || isSmallOrder(signature.subarray(0, 32))) return false
  const s = BigInt(`0x${Buffer.from(signature.subarray(32)).reverse().toString('hex')}`)
  if (s >= L) return false
  if (!nacl.sign.detached.verify(message, signature, publicKey)) return false
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKey).toString('base64url') }
  return nodeVerify(null, message, createPublicKey({ key: jwk, format: 'jwk' }), signature)
}

/** Brands a copy of `bytes` when one of `signatures` by a trusted key matches `signed`; null when none does. */
export function brandVerified(
  bytes: Uint8Array,
  signed: Uint8Array,
  signatures: readonly { keyId: string; signature: Uint8Array }[],
  trusted: TrustedKeys,
): VerifiedBytes | null {
  for (const { keyId, signature } of signatures) {
    const key = trusted.get(keyId)
    if (key && verifyEd25519(signed, signature, key)) return new Uint8Array(bytes) as VerifiedBytes
  }
  return null
}

/** As `brandVerified`, and says which trusted keys signed: each is tried, and counts once. */
export function brandSigned(
  bytes: Uint8Array,
  signed: Uint8Array,
  signatures: readonly { keyId: string; signature: Uint8Array }[],
  trusted: TrustedKeys,
): { bytes: VerifiedBytes; keyIds: readonly string[] } | null {
  const keyIds = new Set<string>()
  for (const { keyId, signature } of signatures) {
    const key = trusted.get(keyId)
    if (key && !keyIds.has(keyId) && verifyEd25519(signed, signature, key)) keyIds.add(keyId)
  }
  return keyIds.size > 0 ? { bytes: new Uint8Array(bytes) as VerifiedBytes, keyIds: [...keyIds] } : null
}
