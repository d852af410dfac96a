/** `offbox init`: makes what a fleet needs once, and only what is not there yet. */
import { rename } from 'node:fs/promises'
import { formatAnchors } from '../../core/anchors.ts'
import { OffboxError } from '../../core/errors.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { type CertificateAuthority, makeCa, makeIdentity, type Role } from '../../core/x509.ts'
import { defaultConfigText } from '../config/default-text.ts'
import { readIfThere, writeAtomic } from './atomic.ts'
import { Home, type IdentityName, makeHome, readAnchors, readCa } from './home.ts'
import { makeSigningKey, readSigningKeys } from './keys.ts'

const DAY_MS = 24 * 60 * 60 * 1000
/** Ten years: replacing the CA means a new image for every device. */
const CA_VALID_MS = 3650 * DAY_MS
/** `offbox init` renews neither; a later issue does. */
const IDENTITY_VALID_MS = 365 * DAY_MS

export interface InitReport {
  readonly home: string
  readonly fleet: string
  /** Files written now; empty when everything was there. */
  readonly made: readonly string[]
  /** keyIds that may sign bundles. */
  readonly bundleKeyIds: readonly string[]
}

/**
 * Safe to repeat, also after an interrupted run: existing keys and certificates are never replaced.
 * @throws HOME_INVALID the home belongs to another fleet, is open to others, or a key in it cannot be used
 */
export async function initHome(path: string, options: { fleet?: string; nowMs: number }): Promise<InitReport> {
  const home = new Home(path)
  const fleet = options.fleet ?? (await fleetOf(home)) ?? 'lab'
  if (!/^[a-z][a-z0-9-]{0,39}$/.test(fleet)) {
    throw new OffboxError('ARGUMENT_INVALID', `fleet ${JSON.stringify(fleet)} must match [a-z][a-z0-9-]{0,39}`)
  }
  const before = await fleetOf(home)
  if (before !== null && before !== fleet) {
    throw new OffboxError('HOME_INVALID', `${home.path} belongs to the fleet ${before}, not ${fleet}; choose another --home`)
  }
  await makeHome(home)
  const made: string[] = []
  const ca = await caOf(home, fleet, options.nowMs, made)
  await identityOf(home, ca, { name: 'controller', role: 'controller', id: 'main', fleet, nowMs: options.nowMs }, made)
  await identityOf(home, ca, { name: 'operator', role: 'operator', id: 'admin', fleet, nowMs: options.nowMs }, made)
  let keys = await readSigningKeys(home)
  if (keys.length === 0) {
    keys = [await makeSigningKey(home)]
    made.push(home.keys)
  }
  if (!(await readIfThere(home.anchors))) {
    const bundleKeys: TrustedKeys = new Map(keys.map((key) => [key.keyId, key.publicKey]))
    await writeAtomic(home.anchors, formatAnchors({ fleet, caPem: ca.certificatePem, bundleKeys }), { mode: 0o644 })
    made.push(home.anchors)
  }
  if (!(await readIfThere(home.config))) {
    await writeAtomic(home.config, defaultConfigText(fleet), { mode: 0o644 })
    made.push(home.config)
  }
  const anchors = await readAnchors(home)
  if (anchors.caPem.trim() !== ca.certificatePem.trim()) throw new OffboxError('HOME_INVALID', `${home.anchors} names another CA than ${home.caCertificate}`)
  return { home: home.path, fleet: anchors.fleet, made, bundleKeyIds: [...anchors.bundleKeys.keys()] }
}

async function fleetOf(home: Home): Promise<string | null> {
  return (await readIfThere(home.anchors)) ? (await readAnchors(home)).fleet : null
}

async function caOf(home: Home, fleet: string, nowMs: number, made: string[]): Promise<CertificateAuthority> {
  const hasKey = (await readIfThere(home.caKey)) !== null
  const hasCertificate = (await readIfThere(home.caCertificate)) !== null
  if (hasKey && hasCertificate) return await readCa(home)
  if (hasCertificate) throw new OffboxError('HOME_INVALID', `${home.caCertificate} is there without its key ${home.caKey}; restore the key`)
  if (hasKey) await setAside(home.caKey, nowMs)
  const ca = await makeCa(fleet, { nowMs, validMs: CA_VALID_MS })
  await writeAtomic(home.caKey, ca.keyPem)
  await writeAtomic(home.caCertificate, ca.certificatePem, { mode: 0o644 })
  made.push(home.caKey, home.caCertificate)
  return ca
}

interface IdentityOrder {
  readonly name: IdentityName
  readonly role: Role
  readonly id: string
  readonly fleet: string
  readonly nowMs: number
}

async function identityOf(home: Home, ca: CertificateAuthority, order: IdentityOrder, made: string[]): Promise<void> {
  const { name, role, id, fleet, nowMs } = order
  const hasKey = (await readIfThere(home.key(name))) !== null
  const hasCertificate = (await readIfThere(home.certificate(name))) !== null
  if (hasKey && hasCertificate) return
  if (hasCertificate) throw new OffboxError('HOME_INVALID', `${home.certificate(name)} is there without its key ${home.key(name)}; restore the key`)
  if (hasKey) await setAside(home.key(name), nowMs)
  const identity = await makeIdentity(ca, { fleet, role, id, validMs: IDENTITY_VALID_MS, nowMs })
  await writeAtomic(home.key(name), identity.keyPem)
  await writeAtomic(home.certificate(name), identity.certificatePem, { mode: 0o644 })
  made.push(home.key(name), home.certificate(name))
}

/** The certificate is written last, so a key without one is most likely the trace of an interrupted init; no key is ever overwritten, though. */
async function setAside(key: string, nowMs: number): Promise<void> {
  await rename(key, `${key}.unused-${nowMs}`)
}
