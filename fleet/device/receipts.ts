/** What a device's receipts prove: that it signed them, with a certificate of this fleet, and that none is missing in between. */
import { createHash } from 'node:crypto'
import { OffboxError } from '../../core/errors.ts'
import { readReceipt, type ReceiptBody, receiptSignedBytes } from '../../core/receipt.ts'
import { requireSigned } from '../../core/signed-by.ts'
import { deviceDnsName, spiffeId } from '../../core/x509.ts'

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

/** As many as a device keeps (agent/limits.ts, receiptsMax). */
export const receiptsKeptMax = 256

/**
 * All that a device keeps, page by page. Nothing is checked yet but that there is an end to it.
 * @param page the newest before a number, or of all for 0; oldest first
 * @throws CERTIFICATE_INVALID numbers that do not fall from page to page, or more receipts than a device keeps
 */
export async function collectReceipts(page: (before: number) => Promise<readonly SignedReceipt[]>): Promise<SignedReceipt[]> {
  const found: SignedReceipt[] = []
  for (let before = 0; ; ) {
    const receipts = await page(before)
    if (receipts.length === 0) return found
    for (const one of receipts.toReversed()) {
      const { sequence } = readReceipt(one.body)
      if (!Number.isSafeInteger(sequence) || sequence < 1 || (before > 0 && sequence >= before)) {
        throw new OffboxError('CERTIFICATE_INVALID', `these receipts prove nothing: number ${sequence} was sent where one below ${before} was asked for`)
      }
      if (found.length === receiptsKeptMax) throw new OffboxError('CERTIFICATE_INVALID', `these receipts prove nothing: more than ${receiptsKeptMax} were sent`)
      found.unshift(one)
      before = sequence
    }
    if (before === 1) return found
  }
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
  const isDevice = ({ spiffeId: id, dnsNames }: { spiffeId: string; dnsNames: string[] }) =>
    id === spiffeId(fleet, 'device', deviceId) && dnsNames.includes(deviceDnsName(fleet, deviceId))
  const leaf = requireSigned(receiptSignedBytes(body), { signature, chainPem }, caPem, isDevice, deviceId, refuse)
  const receipt = readReceipt(body)
  if (receipt.deviceId !== deviceId) throw refuse(`it is about ${receipt.deviceId}, not ${deviceId}`)
  // The clock is the device's own: what this shows is that it did not use a certificate outside its time by that clock.
  if (receipt.endedAtMs < leaf.notBeforeMs || receipt.endedAtMs > leaf.notAfterMs) throw refuse('the certificate was not in force when it was made')
  return receipt
}

function refuse(why: string): OffboxError {
  return new OffboxError('CERTIFICATE_INVALID', `this receipt proves nothing: ${why}`)
}
