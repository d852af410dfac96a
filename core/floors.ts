/**
 * Signed floors: the lowest version of each service that a device may accept. A thin stand-in for TUF's targets metadata,
 * with its two properties that matter here: only a signature raises a floor, and an older statement is refused.
 *
 * File: 8-byte magic `OFFBOXF\1`, uint32 big-endian length, signatures (as in a bundle), then JSON to the end:
 * {"version": n, "floors": {"telemetry": "1.0.0"}}. Signed: "offbox.floors.v1\0" and the JSON bytes.
 */
import { brandVerified, type TrustedKeys, type VerifiedBytes } from './signing.ts'
import { OffboxError } from './errors.ts'
import semver from 'semver'

export const FLOORS_MAGIC: Uint8Array = new Uint8Array([0x4f, 0x46, 0x46, 0x42, 0x4f, 0x58, 0x46, 0x01])
const SIGNED_PREFIX = 'offbox.floors.v1\0'
const ENTRY_BYTES = 96
/** A statement lists one short line a service. */
export const floorsBytesMax = 64 * 1024

export interface Floors {
  /** Rises with every statement; a device refuses a lower one. */
  readonly version: number
  /** Service name to lowest version accepted. */
  readonly floors: Readonly<Record<string, string>>
}

export const NO_FLOORS: Floors = { version: 0, floors: {} }

/** The bytes that the signatures of a statement are over. */
export function floorsSignedBytes(json: Uint8Array): Uint8Array {
  return new Uint8Array(Buffer.concat([Buffer.from(SIGNED_PREFIX, 'latin1'), json]))
}

/** The file of a statement. */
export function joinFloors(json: Uint8Array, signatures: readonly { keyId: string; signature: Uint8Array }[]): Uint8Array {
  const entries = Buffer.concat(signatures.flatMap(({ keyId, signature }) => [Buffer.from(keyId, 'hex'), signature]))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(entries.length)
  return new Uint8Array(Buffer.concat([FLOORS_MAGIC, length, entries, json]))
}

/**
 * Verifies, then parses.
 * @throws FLOORS_UNTRUSTED not our format, over the limit, or no trusted key signed it
 */
export function readFloors(file: Uint8Array, trusted: TrustedKeys): Floors {
  const refuse = (why: string) => new OffboxError('FLOORS_UNTRUSTED', `signed floors refused: ${why}`)
  if (file.length > floorsBytesMax) throw refuse(`${file.length} bytes, more than ${floorsBytesMax}`)
  if (file.length < 12 || !FLOORS_MAGIC.every((byte, index) => file[index] === byte)) throw refuse('wrong magic')
  const length = new DataView(file.buffer, file.byteOffset).getUint32(8)
  if (length % ENTRY_BYTES !== 0 || length > 8 * ENTRY_BYTES || 12 + length > file.length) throw refuse('wrong length of the signatures')
  const signatures: { keyId: string; signature: Uint8Array }[] = []
  for (let at = 12; at < 12 + length; at += ENTRY_BYTES) {
    signatures.push({ keyId: Buffer.from(file.subarray(at, at + 32)).toString('hex'), signature: file.subarray(at + 32, at + ENTRY_BYTES) })
  }
  const json = file.subarray(12 + length)
  const bytes = brandVerified(json, floorsSignedBytes(json), signatures, trusted)
  if (!bytes) throw refuse('no trusted key signed it')
  return parseFloors(bytes)
}

/** @throws FLOORS_UNTRUSTED not the JSON described above */
export function parseFloors(bytes: VerifiedBytes): Floors {
  let raw: { version?: unknown; floors?: unknown } | null
  try {
    raw = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    throw new OffboxError('FLOORS_UNTRUSTED', 'signed floors are not JSON', { cause: error })
  }
  const { version, floors } = raw ?? {}
  const entries = typeof floors === 'object' && floors !== null ? Object.entries(floors) : null
  // null would pass for its own reading.
  const isVersion = (floor: unknown) => typeof floor === 'string' && semver.valid(floor) === floor
  if (!Number.isSafeInteger(version) || (version as number) < 1 || !entries?.every(([, floor]) => isVersion(floor))) {
    throw new OffboxError('FLOORS_UNTRUSTED', 'signed floors break their schema: {"version": 1.., "floors": {name: semver}}')
  }
  return { version: version as number, floors: Object.fromEntries(entries) as Record<string, string> }
}
