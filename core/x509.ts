/**
 * The fleet's certificates: ECDSA P-256 only, names as SPIFFE ids. Used by the controller (which signs) and by devices (which
 * ask). Key generation and signing run in WebCrypto; nothing here touches disk or network.
 */
import 'reflect-metadata'
import { createPublicKey, X509Certificate, type webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'
import { OffboxError } from './errors.ts'

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
/** A request of ours is under 600 bytes. */
export const csrPemBytesMax = 8 * 1024
/** A chain of ours is under 2 kB. */
export const chainPemBytesMax = 16 * 1024
/** Certificates begin to be valid this long before they are made: device clocks are wrong by this much at most. */
const BACKDATE_MS = 60 * 60 * 1000

export type Role = 'device' | 'controller' | 'operator' | 'service'

/** E.g. spiffe://lab/device/sw1 (SPIFFE-ID, section 2). */
export function spiffeId(fleet: string, role: Role, id: string): string {
  return `spiffe://${fleet}/${role}/${id}`
}

/** The DNS name of a device's certificate, which clients verify. */
export function deviceDnsName(fleet: string, deviceId: string): string {
  return `${deviceId}.${fleet}.offbox`
}

/**
 * A private key, PKCS#8 PEM, and a PKCS#10 request for it, PEM. The names in the request carry no authority.
 * @param keyPem a key to ask again for; left out: a new one is made
 */
export async function makeCsr(commonName: string, keyPem?: string): Promise<{ keyPem: string; csrPem: string }> {
  const keys = keyPem === undefined ? await makeKeys() : await readKeys(keyPem)
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({ name: subject(commonName), keys, signingAlgorithm: ALGORITHM })
  return { keyPem: keyPem ?? (await keyPemOf(keys)), csrPem: csr.toString('pem') }
}

/**
 * Issues a certificate for the key in a request.
 * @throws CSR_INVALID too long, unreadable, not ECDSA P-256, or its own signature is wrong
 */
export async function signCsr(ca: CertificateAuthority, csrPem: string, names: CertificateNames): Promise<string> {
  if (csrPem.length > csrPemBytesMax) throw new OffboxError('CSR_INVALID', `the request has ${csrPem.length} bytes, more than ${csrPemBytesMax}`)
  let publicKey: CryptoKey
  try {
    const csr = new x509.Pkcs10CertificateRequest(csrPem)
    publicKey = await csr.publicKey.export({ name: 'ECDSA', namedCurve: 'P-256' }, ['verify'])
    if (!(await csr.verify())) throw new Error('its signature does not match its key')
  } catch (error) {
    throw new OffboxError('CSR_INVALID', `the certificate request cannot be used: ${(error as Error).message}`, { cause: error })
  }
  return await issue(ca, publicKey, names)
}

export interface CertificateAuthority {
  readonly certificatePem: string
  readonly keyPem: string
}

export interface CertificateNames {
  readonly fleet: string
  readonly role: Role
  readonly id: string
  readonly validMs: number
  readonly nowMs: number
}

/** A level below the devices, so that no device's id can stand for a service of the fleet. */
export function serviceDnsName(fleet: string, id: string): string {
  return `${id}.service.${fleet}.offbox`
}

/** A self-signed fleet CA, path length 0. */
export async function makeCa(fleet: string, input: { nowMs: number; validMs: number }): Promise<CertificateAuthority> {
  const keys = await makeKeys()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: subject(`${fleet} fleet CA`),
    notBefore: new Date(input.nowMs - BACKDATE_MS),
    notAfter: new Date(input.nowMs + input.validMs),
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  return { certificatePem: certificate.toString('pem'), keyPem: await keyPemOf(keys) }
}

/** A new key with a certificate for it, for the controller and operators. */
export async function makeIdentity(ca: CertificateAuthority, names: CertificateNames): Promise<{ keyPem: string; certificatePem: string }> {
  const keys = await makeKeys()
  return { keyPem: await keyPemOf(keys), certificatePem: await issue(ca, keys.publicKey, names) }
}

/** What a leaf certificate says. `spiffeId` is empty when it has none or more than one. */
export function readLeaf(pem: string): { serial: string; spiffeId: string; dnsNames: string[]; notBeforeMs: number; notAfterMs: number } {
  const certificate = new X509Certificate(pem)
  const names = (certificate.subjectAltName ?? '').split(', ')
  const uris = names.filter((name) => name.startsWith('URI:')).map((name) => name.slice(4))
  return {
    serial: certificate.serialNumber.toLowerCase(),
    spiffeId: uris.length === 1 && uris[0]?.startsWith('spiffe://') ? uris[0] : '',
    dnsNames: names.filter((name) => name.startsWith('DNS:')).map((name) => name.slice(4)),
    notBeforeMs: certificate.validFromDate.getTime(),
    notAfterMs: certificate.validToDate.getTime(),
  }
}

async function issue(ca: CertificateAuthority, publicKey: CryptoKey, names: CertificateNames): Promise<string> {
  const caCertificate = new x509.X509Certificate(ca.certificatePem)
  const signingKey = await crypto.subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(ca.keyPem), ALGORITHM, false, ['sign'])
  const alternatives: x509.JsonGeneralName[] = [{ type: 'url', value: spiffeId(names.fleet, names.role, names.id) }]
  if (names.role === 'device') alternatives.push({ type: 'dns', value: deviceDnsName(names.fleet, names.id) })
  if (names.role === 'service') alternatives.push({ type: 'dns', value: serviceDnsName(names.fleet, names.id) })
  if (names.role === 'controller') alternatives.push({ type: 'dns', value: `controller.${names.fleet}.offbox` })
  // A device must not be able to command another one: it gets no clientAuth. The controller serves enrolment as well.
  const usages: x509.ExtendedKeyUsage[] = []
  if (names.role !== 'operator') usages.push(x509.ExtendedKeyUsage.serverAuth)
  if (names.role === 'controller' || names.role === 'operator') usages.push(x509.ExtendedKeyUsage.clientAuth)
  const notAfterMs = Math.min(names.nowMs + names.validMs, caCertificate.notAfter.getTime())
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: subject(names.id),
    issuer: caCertificate.subject,
    notBefore: new Date(names.nowMs - BACKDATE_MS),
    notAfter: new Date(notAfterMs),
    signingKey,
    publicKey,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(usages, true),
      new x509.SubjectAlternativeNameExtension(alternatives),
      await x509.AuthorityKeyIdentifierExtension.create(caCertificate.publicKey),
    ],
  })
  return certificate.toString('pem')
}

/** 16 random bytes, the first bit clear so that the DER integer is positive, hex (RFC 5280, section 4.1.2.2). */
function serialNumber(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40
  return Buffer.from(bytes).toString('hex')
}

function subject(commonName: string): x509.JsonName {
  return [{ CN: [commonName] }]
}

async function makeKeys(): Promise<webcrypto.CryptoKeyPair> {
  return await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])
}

async function readKeys(keyPem: string): Promise<webcrypto.CryptoKeyPair> {
  const privateKey = await crypto.subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(keyPem), ALGORITHM, true, ['sign'])
  const spki = createPublicKey(keyPem).export({ type: 'spki', format: 'der' })
  const publicKey = await crypto.subtle.importKey('spki', new Uint8Array(spki), ALGORITHM, true, ['verify'])
  return { privateKey, publicKey }
}

async function keyPemOf(keys: webcrypto.CryptoKeyPair): Promise<string> {
  return x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY')
}
