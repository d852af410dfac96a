/** The device's API key and certificate, kept as one file so that the two can never disagree. */
import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import type { Anchors } from '../../core/anchors.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { chainPemBytesMax, deviceDnsName, readLeaf, spiffeId } from '../../core/x509.ts'
import type { AtomicFiles } from '../store/atomic.ts'

export interface Identity {
  readonly deviceId: string
  /** PKCS#8 PEM. Never logged, never sent. */
  readonly keyPem: string
  /** Device certificate, then intermediates if any. */
  readonly chainPem: string
}

/** One file in the state directory, mode 0600. */
export class IdentityStore {
  readonly #files: AtomicFiles
  readonly #path: string

  constructor(files: AtomicFiles, stateDir: string) {
    this.#files = files
    this.#path = join(stateDir, 'identity', 'identity.json')
  }

  /** Null when there is none. @throws STORE_CORRUPT */
  async load(): Promise<Identity | null> {
    const raw = (await this.#files.readJson(this.#path)) as Partial<Identity> | null
    if (raw === null) return null
    const { deviceId, keyPem, chainPem } = raw
    if (typeof deviceId === 'string' && typeof keyPem === 'string' && typeof chainPem === 'string') return { deviceId, keyPem, chainPem }
    await this.#files.setAside(this.#path)
    throw new OffboxError('STORE_CORRUPT', 'the stored identity lacks a field; it is set aside')
  }

  /** Durable when it resolves. @throws STORE_FULL */
  async save(identity: Identity): Promise<void> {
    const { deviceId, keyPem, chainPem } = identity
    await this.#files.writeJson(this.#path, { deviceId, keyPem, chainPem }, { mode: 0o600 })
  }
}

/**
 * Checks that a certificate may serve as this device's: made for this key, issued by the fleet CA, in force, with exactly the
 * device's names.
 * @throws CERTIFICATE_INVALID which of these it is not
 */
export function checkIdentity(identity: Identity, anchors: Anchors, nowMs: number): void {
  const refuse = (why: string, cause?: unknown) => new OffboxError('CERTIFICATE_INVALID', `the device certificate cannot be used: ${why}`, { cause })
  if (identity.chainPem.length > chainPemBytesMax) throw refuse(`it has ${identity.chainPem.length} bytes, more than ${chainPemBytesMax}`)
  let matchesKey: boolean
  let issued: boolean
  let leaf: ReturnType<typeof readLeaf>
  try {
    const certificate = new X509Certificate(identity.chainPem)
    const publicKey = createPublicKey(createPrivateKey(identity.keyPem))
    matchesKey = certificate.publicKey.equals(publicKey)
    issued = certificate.verify(new X509Certificate(anchors.caPem).publicKey)
    leaf = readLeaf(identity.chainPem)
  } catch (error) {
    throw refuse(messageOf(error), error)
  }
  if (!matchesKey) throw refuse('it was made for another key')
  if (!issued) throw refuse('the fleet CA did not issue it')
  const wanted = spiffeId(anchors.fleet, 'device', identity.deviceId)
  if (leaf.spiffeId !== wanted) throw refuse(`it names ${leaf.spiffeId || 'nobody'}, not ${wanted}`)
  if (!leaf.dnsNames.includes(deviceDnsName(anchors.fleet, identity.deviceId))) throw refuse('it lacks the DNS name of the device')
  if (nowMs > leaf.notAfterMs) throw refuse(`it expired at ${new Date(leaf.notAfterMs).toISOString()}`)
}
