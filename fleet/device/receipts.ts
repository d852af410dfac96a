/** What a device's receipts prove: that it signed them, with a certificate of this fleet, and that none is missing in between. */
import { createHash, verify, X509Certificate } from 'node:crypto'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { readReceipt, type ReceiptBody, receiptSignedBytes } from '../../core/receipt.ts'
import { chainPemBytesMax, deviceDnsName, readLeaf, spiffeId } from '../../core/x509.ts'

export interface SignedReceipt {
  readonly body: Uint8Array
  readonly signature: Uint8Array
  readonly chainPem: string
}

/** Whom to trust, and of whom the receipts must be. */
export interface ReceiptTrust {
  readonly fleet: string
  readonly caPem: string
  readonly deviceId: string
}

export interface CheckedReceipts {
  /** Oldest first. */
  readonly receipts: readonly ReceiptBody[]
  /** What the chain itself does not show, e.g. that a number is missing; empty when it is whole. */
  readonly gaps: readonly string[]
}

/**
 * @param signed in any order; all of a stretch of the chain, or the gaps say that it is not
 * @throws CERTIFICATE_INVALID the first that proves nothing, and why
 */
export function checkReceipts(signed: readonly SignedReceipt[], trust: ReceiptTrust): CheckedReceipts {
  const checked = signed.map((one) => ({ body: checkReceipt(one, trust), digest: createHash('sha256').update(one.body).digest('hex') }))
  checked.sort((one, other) => one.body.sequence - other.body.sequence)
  const gaps: string[] = []
  for (const [at, { body }] of checked.entries()) {
    const before = checked[at - 1]
    if (!before) continue
    const { sequence } = before.body
    if (body.sequence === sequence) throw refuse(`two receipts bear number ${sequence}`)
    if (body.sequence !== sequence + 1) gaps.push(`between number ${sequence} and ${body.sequence} there are others`)
    else if (body.previous !== before.digest) throw refuse(`number ${body.sequence} does not follow what is shown as number ${sequence}`)
  }
  return { receipts: checked.map(({ body }) => body), gaps }
}

/** One by itself. @throws CERTIFICATE_INVALID, ARGUMENT_INVALID */
export function checkReceipt({ body, signature, chainPem }: SignedReceipt, { fleet, caPem, deviceId }: ReceiptTrust): ReceiptBody {
  let leaf: ReturnType<typeof readLeaf>
  let signs: boolean
  let issued: boolean
  try {
    if (chainPem.length > chainPemBytesMax) throw new Error(`a chain of more than ${chainPemBytesMax} bytes`)
    const certificate = new X509Certificate(chainPem)
    issued = certificate.verify(new X509Certificate(caPem).publicKey)
    signs = verify('sha256', receiptSignedBytes(body), { key: certificate.publicKey, dsaEncoding: 'ieee-p1363' }, signature)
    leaf = readLeaf(chainPem)
  } catch (error) {
    throw refuse(`its certificate cannot be read: ${messageOf(error)}`)
  }
  if (!issued) throw refuse('the fleet CA did not issue the certificate')
  if (leaf.spiffeId !== spiffeId(fleet, 'device', deviceId) || !leaf.dnsNames.includes(deviceDnsName(fleet, deviceId)))
    throw refuse(`the certificate is that of ${leaf.spiffeId || 'nobody'}, not of ${deviceId}`)
  if (!signs) throw refuse('the signature does not match')
  const receipt = readReceipt(body)
  if (receipt.deviceId !== deviceId) throw refuse(`it is about ${receipt.deviceId}, not ${deviceId}`)
  // The clock is the device's own: what this shows is that it did not use a certificate outside its time by that clock.
  if (receipt.endedAtMs < leaf.notBeforeMs || receipt.endedAtMs > leaf.notAfterMs) throw refuse('the certificate was not in force when it was made')
  return receipt
}

function refuse(why: string): OffboxError {
  return new OffboxError('CERTIFICATE_INVALID', `this receipt proves nothing: ${why}`)
}
