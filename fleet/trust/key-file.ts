/**
 * Private keys at rest: one JSON file a key, mode 0600, the seed sealed with XSalsa20-Poly1305 (nacl.secretbox) under a key that scrypt
 * (RFC 7914) makes of a passphrase. What is not secret (key id, public key, cost, salt) stands beside it in clear.
 */
import { randomBytes, scrypt } from 'node:crypto'
import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import nacl from 'tweetnacl'
import { OffboxError } from '../../core/errors.ts'
import { keyIdOf } from '../../core/signing.ts'
import { tufKeyId, tufKeyOf } from '../../core/tuf/keys.ts'
import { readIfThere, writeAtomic } from '../home/atomic.ts'
import type { SigningKey } from '../home/keys.ts'

/** What scrypt is given: 2^costLog2 blocks of 1 KiB, so 17 takes 128 MiB and half a second. */
export interface KdfParameters {
  readonly costLog2: number
  /** 16 bytes. */
  readonly salt: Uint8Array
}

export interface KeyFile {
  readonly path: string
  /** The role it was made for. A label: the metadata alone says who may sign what. */
  readonly role: string
  readonly keyid: string
  /** 32 bytes. */
  readonly publicKey: Uint8Array
  readonly kdf: KdfParameters
  readonly nonce: Uint8Array
  readonly sealed: Uint8Array
}

export const KEY_FILE_LIMITS = { costLog2Min: 14, costLog2Usual: 17, costLog2Max: 20, bytesMax: 4096, filesMax: 1024 } as const
const SEED_BYTES = 32
const SALT_BYTES = 16

export function newKdf(costLog2: number = KEY_FILE_LIMITS.costLog2Usual): KdfParameters {
  return { costLog2, salt: new Uint8Array(randomBytes(SALT_BYTES)) }
}

/** 32 bytes. Half a second and 128 MiB at the usual cost, so one result serves every key with the same salt. */
export async function deriveKey(passphrase: string, kdf: KdfParameters): Promise<Uint8Array> {
  const N = 2 ** kdf.costLog2
  return await new Promise((resolve, reject) => {
    scrypt(passphrase.normalize('NFKC'), kdf.salt, nacl.secretbox.keyLength, { N, r: 8, p: 1, maxmem: 2 * 1024 * N }, (error, key) => {
      if (error) reject(error)
      else resolve(new Uint8Array(key))
    })
  })
}

/** Makes a key and writes its file; the seed leaves this function only sealed. Answers where it is, and the key ready to sign. */
export async function makeKeyFile(directory: string, role: string, wrapping: { key: Uint8Array; kdf: KdfParameters }): Promise<KeyFile & { seed: Uint8Array }> {
  const seed = new Uint8Array(randomBytes(SEED_BYTES))
  const { publicKey } = nacl.sign.keyPair.fromSeed(seed)
  const keyid = tufKeyId(tufKeyOf(publicKey))
  const nonce = new Uint8Array(randomBytes(nacl.secretbox.nonceLength))
  const sealed = nacl.secretbox(seed, nonce, wrapping.key)
  const path = join(directory, `${role}-${keyid.slice(0, 16)}.json`)
  const { costLog2, salt } = wrapping.kdf
  const file = {
    format: 'offbox-key-1',
    role,
    keyid,
    publicKey: hex(publicKey),
    kdf: { name: 'scrypt', costLog2, salt: hex(salt) },
    box: { name: 'xsalsa20-poly1305', nonce: hex(nonce), sealed: hex(sealed) },
  }
  await writeAtomic(path, `${JSON.stringify(file, null, 2)}\n`)
  return { path, role, keyid, publicKey, kdf: wrapping.kdf, nonce, sealed, seed }
}

/** The seed, 32 bytes; null when `key` does not open the file. @throws STORE_CORRUPT it opens, and belongs to another public key */
export function openKeyFile(file: KeyFile, key: Uint8Array): Uint8Array | null {
  const seed = nacl.secretbox.open(file.sealed, file.nonce, key)
  if (!seed) return null
  const { publicKey } = nacl.sign.keyPair.fromSeed(seed)
  if (!nacl.verify(publicKey, file.publicKey)) throw new OffboxError('STORE_CORRUPT', `${file.path}: its public key is not the one that belongs to it`)
  return seed
}

/** The key of a seed, which is cleared. */
export function signingKeyOf(seed: Uint8Array): SigningKey {
  const { publicKey, secretKey } = nacl.sign.keyPair.fromSeed(seed)
  seed.fill(0)
  return { keyId: keyIdOf(publicKey), publicKey, sign: (message) => nacl.sign.detached(message, secretKey) }
}

/**
 * The key files of a directory, sealed as they are; [] when there is no such directory. Other files are left alone.
 * @throws HOME_INVALID a key file is open to others, not a plain file, or not ours
 * @throws STORE_CORRUPT one cannot be read (its path, never its content)
 */
export async function readKeyFiles(directory: string): Promise<KeyFile[]> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw new OffboxError('HOME_INVALID', `${directory} cannot be read: ${error.message}`, { cause: error })
  })
  const keys = names.filter((name) => /^[a-z][a-z0-9-]*-[0-9a-f]{16}\.json$/.test(name)).sort()
  if (keys.length > KEY_FILE_LIMITS.filesMax) throw new OffboxError('LIMIT_REACHED', `${directory} holds more than ${KEY_FILE_LIMITS.filesMax} keys`)
  return await Promise.all(keys.map(async (name) => await readKeyFile(join(directory, name))))
}

async function readKeyFile(path: string): Promise<KeyFile> {
  await checkPrivate(path)
  const refuse = (why: string) => new OffboxError('STORE_CORRUPT', `${path} is no key file: ${why}`)
  const bytes = await readIfThere(path)
  if (!bytes || bytes.length > KEY_FILE_LIMITS.bytesMax) throw refuse('its size')
  let raw: { format?: unknown; role?: unknown; publicKey?: unknown; kdf?: Record<string, unknown>; box?: Record<string, unknown> }
  try {
    raw = JSON.parse(bytes.toString('utf8'))
  } catch {
    // The parser's message would quote what is in the file.
    throw refuse('it is not JSON')
  }
  const { costLog2Min, costLog2Max } = KEY_FILE_LIMITS
  const cost = raw?.kdf?.['costLog2']
  if (raw?.format !== 'offbox-key-1' || typeof raw.role !== 'string' || raw.kdf?.['name'] !== 'scrypt') throw refuse('another format')
  // A bound on what a planted file can make this process do.
  if (!Number.isInteger(cost) || (cost as number) < costLog2Min || (cost as number) > costLog2Max) throw refuse('its cost')
  const publicKey = unhex(raw.publicKey, 32)
  const salt = unhex(raw.kdf['salt'], SALT_BYTES)
  const nonce = unhex(raw.box?.['nonce'], nacl.secretbox.nonceLength)
  const sealed = unhex(raw.box?.['sealed'], SEED_BYTES + nacl.secretbox.overheadLength)
  if (!publicKey || !salt || !nonce || !sealed) throw refuse('a field has a wrong length')
  return { path, role: raw.role, keyid: tufKeyId(tufKeyOf(publicKey)), publicKey, kdf: { costLog2: cost as number, salt }, nonce, sealed }
}

/** @throws HOME_INVALID unless `path` is a plain file of ours with mode 0600 or stricter */
export async function checkPrivate(path: string): Promise<void> {
  const facts = await lstat(path).catch((error: Error) => {
    throw new OffboxError('HOME_INVALID', `${path} cannot be read: ${error.message}`, { cause: error })
  })
  if (!facts.isFile()) throw new OffboxError('HOME_INVALID', `${path} is not a plain file`)
  const own = process.getuid?.()
  if (own !== undefined && facts.uid !== own) throw new OffboxError('HOME_INVALID', `${path} belongs to user ${facts.uid}, not to ${own}`)
  if ((facts.mode & 0o077) !== 0) {
    throw new OffboxError('HOME_INVALID', `${path} is open to others (mode ${(facts.mode & 0o777).toString(8)}): chmod 600 ${path}`)
  }
}

function unhex(text: unknown, lengthBytes: number): Uint8Array | null {
  return typeof text === 'string' && new RegExp(`^[0-9a-f]{${lengthBytes * 2}}$`).test(text) ? new Uint8Array(Buffer.from(text, 'hex')) : null
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
