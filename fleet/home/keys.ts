/** The keys that sign bundles and floors: Ed25519 (RFC 8032), one JSON file each, mode 0600. Their seeds are never printed. */
import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import nacl from 'tweetnacl'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { keyIdOf } from '../../core/signing.ts'
import { readIfThere, writeAtomic } from './atomic.ts'
import type { Home } from './home.ts'

/** A private key that can sign; `sign` takes the exact bytes, prefix included. */
export interface SigningKey {
  /** SHA-256 of the raw public key, hex. */
  readonly keyId: string
  /** 32 bytes. */
  readonly publicKey: Uint8Array
  /** 64 bytes over exactly `message`. */
  sign(message: Uint8Array): Uint8Array
}

const FILE = /^bundle-[0-9a-f]{16}\.json$/

/** Makes a key and stores it in the home. */
export async function makeSigningKey(home: Home): Promise<SigningKey> {
  const seed = crypto.getRandomValues(new Uint8Array(32))
  const key = fromSeed(seed)
  const file = { schema: 1, algorithm: 'ed25519', publicKey: hex(key.publicKey), seed: hex(seed) }
  await writeAtomic(join(home.keys, `bundle-${key.keyId.slice(0, 16)}.json`), `${JSON.stringify(file, null, 2)}\n`)
  return key
}

/** The home's bundle keys, in order of their file names. @throws HOME_INVALID a key file that cannot be used (its path, never its content) */
export async function readSigningKeys(home: Home): Promise<SigningKey[]> {
  const names = (await readdir(home.keys).catch(() => [])).filter((name) => FILE.test(name)).sort()
  return await Promise.all(names.map(async (name) => await readKey(join(home.keys, name))))
}

/** The first of them. @throws HOME_INVALID there is none */
export async function readSigningKey(home: Home): Promise<SigningKey> {
  const [key] = await readSigningKeys(home)
  if (!key) throw new OffboxError('HOME_INVALID', `${home.keys} holds no bundle key`)
  return key
}

async function readKey(path: string): Promise<SigningKey> {
  try {
    const file = JSON.parse(String(await readIfThere(path))) as { seed?: unknown; publicKey?: unknown }
    if (typeof file.seed !== 'string' || !/^[0-9a-f]{64}$/.test(file.seed)) throw new Error('no seed of 64 hex digits')
    const key = fromSeed(new Uint8Array(Buffer.from(file.seed, 'hex')))
    if (hex(key.publicKey) !== file.publicKey) throw new Error('its public key does not belong to its seed')
    return key
  } catch (error) {
    // JSON.parse quotes the text it failed on, which here is a secret: only errors of our own are repeated.
    const why = error instanceof SyntaxError ? 'it is not JSON' : messageOf(error)
    throw new OffboxError('HOME_INVALID', `${path} cannot be used: ${why}`)
  }
}

function fromSeed(seed: Uint8Array): SigningKey {
  const { publicKey, secretKey } = nacl.sign.keyPair.fromSeed(seed)
  return { keyId: keyIdOf(publicKey), publicKey, sign: (message) => nacl.sign.detached(message, secretKey) }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

/** SHA-256, lower-case hex. */
export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}
