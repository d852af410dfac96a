/** The collector's own key: it signs for what it holds, and for nothing else. Its certificate is the fleet CA's, so that devices can check it. */
import { createPrivateKey, sign } from 'node:crypto'
import { join } from 'node:path'
import { COLLECTOR_ID, type CollectedHead, headBody, type Signed, statementSignedBytes } from '../../core/audit/statements.ts'
import { type CertificateAuthority, makeIdentity, readLeaf } from '../../core/x509.ts'
import { readIfThere, writeAtomic } from '../home/atomic.ts'
import type { Home, Identity } from '../home/home.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const VALID_MS = 365 * DAY_MS
/** A new key in time; what the old one signed stays valid, since it says when it was signed. */
const RENEW_MS = 60 * DAY_MS

/** Signs what a collector holds. */
export type HeadSigner = (head: CollectedHead) => Signed

/** The home's collector key, made when it is missing or nears its end. For the holder of the home's lock. @throws STORE_FULL, HOME_INVALID */
export async function collectorIdentity(home: Home, ca: CertificateAuthority, fleet: string, nowMs: number): Promise<Identity> {
  const [keyPath, certificatePath] = [join(home.path, 'certs/collector.key'), join(home.path, 'certs/collector.pem')]
  const [key, certificate] = [await readIfThere(keyPath), await readIfThere(certificatePath)]
  if (key && certificate && readLeaf(String(certificate)).notAfterMs - nowMs > RENEW_MS) return { keyPem: String(key), certificatePem: String(certificate) }
  const made = await makeIdentity(ca, { fleet, role: 'service', id: COLLECTOR_ID, validMs: VALID_MS, nowMs })
  // Cut in between, the certificate is another key's: it is near its end or absent all the same, and both are made anew.
  await writeAtomic(certificatePath, made.certificatePem, { mode: 0o644 })
  await writeAtomic(keyPath, made.keyPem)
  return made
}

export function headSigner({ keyPem, certificatePem }: Identity): HeadSigner {
  const key = createPrivateKey(keyPem)
  return (head) => {
    const body = headBody(head)
    const signature = sign('sha256', statementSignedBytes('head', body), { key, dsaEncoding: 'ieee-p1363' })
    return { body, signature, chainPem: certificatePem }
  }
}
