/**
 * What a witness says: how far the repository of a fleet had come, and what time it is, in answer to one nonce. Signed, so that it may
 * travel through a controller that nobody has to believe. Ed25519 over "offbox.witness.v1\0" and the JSON bytes.
 */
import { OffboxError } from '../errors.ts'
import { brandVerified, type TrustedKeys, type VerifiedBytes } from '../signing.ts'
import { type Heights, readHeights } from './heights.ts'

const SIGNED_PREFIX = 'offbox.witness.v1\0'
/** Bytes of a nonce: nobody asks the same question twice. */
export const NONCE_BYTES = 32
/** 256 roles with long names fit. */
export const statementBytesMax = 32 * 1024

export interface Statement {
  readonly fleet: string
  /** 32 bytes as 64 hex digits: the question that this answers. */
  readonly nonce: string
  /** The highest versions it ever saw, verified by itself; null before the first. */
  readonly heights: Heights | null
  /** The witness's clock, Unix milliseconds. */
  readonly timeMs: number
}

/** As it travels and as it is stored. */
export interface SignedStatement {
  readonly statement: Uint8Array
  /** SHA-256 of the witness's raw public key, hex. */
  readonly keyId: string
  /** 64 bytes. */
  readonly signature: Uint8Array
}

/** @param sign 64 bytes over exactly its argument */
export function signStatement(content: Statement, keyId: string, sign: (message: Uint8Array) => Uint8Array): SignedStatement {
  const { fleet, nonce, heights, timeMs } = content
  const statement = new TextEncoder().encode(JSON.stringify({ fleet, nonce, heights, timeMs }))
  return { statement, keyId, signature: sign(signedBytes(statement)) }
}

/**
 * Verifies, then parses. Whether it answers one's own question is the caller's to check.
 * @throws WITNESS_UNTRUSTED over the limit, not signed by one of `trusted`, or signed nonsense
 */
export function readStatement({ statement, keyId, signature }: SignedStatement, trusted: TrustedKeys): Statement {
  if (statement.length > statementBytesMax) throw refuse(`has ${statement.length} bytes, more than ${statementBytesMax}`)
  const bytes = brandVerified(statement, signedBytes(statement), [{ keyId, signature }], trusted)
  if (!bytes) throw refuse('is not signed by a trusted witness')
  return parseStatement(bytes)
}

/** @throws WITNESS_UNTRUSTED not of this shape */
export function parseStatement(bytes: VerifiedBytes): Statement {
  let raw: { [key: string]: unknown } | null
  try {
    raw = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    throw refuse('is not JSON', error)
  }
  const { fleet, nonce, heights, timeMs } = raw ?? {}
  const read = heights === null ? null : readHeights(heights)
  if (heights !== null && read === null) throw refuse('names no versions')
  if (typeof fleet !== 'string' || typeof nonce !== 'string' || !/^[0-9a-f]{64}$/.test(nonce)) throw refuse('names no fleet or no nonce')
  if (!Number.isSafeInteger(timeMs) || (timeMs as number) < 0) throw refuse('names no time')
  return { fleet, nonce, heights: read, timeMs: timeMs as number }
}

function signedBytes(statement: Uint8Array): Uint8Array {
  return new Uint8Array(Buffer.concat([Buffer.from(SIGNED_PREFIX, 'latin1'), statement]))
}

function refuse(why: string, cause?: unknown): OffboxError {
  return new OffboxError('WITNESS_UNTRUSTED', `the statement of a witness ${why}`, { cause })
}
