/** Whether somebody of the fleet signed something: with the key of a certificate that the fleet CA issued. Whose it must be is the caller's to say. */
import { verify, X509Certificate } from 'node:crypto'
import { messageOf } from './errors.ts'
import { chainPemBytesMax, readLeaf } from './x509.ts'

export interface SignedByCertificate {
  /** ECDSA P-256 over the SHA-256 of the bytes, 64 bytes (IEEE P1363). */
  readonly signature: Uint8Array
  /** The signer's certificate first. */
  readonly chainPem: string
}

type Leaf = ReturnType<typeof readLeaf>

/**
 * @param isSigner whether the certificate is of the one that must have signed
 * @param signer who that is, for the refusal
 * @param refuse makes the error of what proves nothing, from the reason
 * @throws what `refuse` makes. Whether the certificate was in force at the time is left to the caller, who knows the time
 */
export function requireSigned(
  bytes: Uint8Array,
  { signature, chainPem }: SignedByCertificate,
  caPem: string,
  isSigner: (leaf: Leaf) => boolean,
  signer: string,
  refuse: (why: string) => Error,
): Leaf {
  let leaf: Leaf
  let signs: boolean
  let issued: boolean
  try {
    if (chainPem.length > chainPemBytesMax) throw new Error(`a chain of more than ${chainPemBytesMax} bytes`)
    const certificate = new X509Certificate(chainPem)
    issued = certificate.verify(new X509Certificate(caPem).publicKey)
    signs = verify('sha256', bytes, { key: certificate.publicKey, dsaEncoding: 'ieee-p1363' }, signature)
    leaf = readLeaf(chainPem)
  } catch (error) {
    throw refuse(`its certificate cannot be read: ${messageOf(error)}`)
  }
  if (!issued) throw refuse('the fleet CA did not issue the certificate')
  if (!isSigner(leaf)) throw refuse(`the certificate is that of ${leaf.spiffeId || 'nobody'}, not of ${signer}`)
  if (!signs) throw refuse('the signature does not match')
  return leaf
}
