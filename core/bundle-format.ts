/**
 * The bundle file: 8-byte magic, then three or four sections, each a uint32 big-endian length and that many bytes:
 * manifest (JSON), signatures, payload (the service's code) and, where the manifest names them, documents (JSON: what is in the payload
 * and where it comes from). This module only cuts bytes; it parses no section but the fixed-size signatures, so it is safe on untrusted
 * input. docs/bundle-format.md has the picture.
 */
import { OffboxError } from './errors.ts'

export const BUNDLE_MAGIC: Uint8Array = new Uint8Array([0x4f, 0x46, 0x46, 0x42, 0x4f, 0x58, 0x00, 0x01])
/** What Ed25519 signs is this prefix and then the manifest's exact bytes. */
export const BUNDLE_SIGNED_PREFIX = 'offbox.bundle.v1\0'

export const BUNDLE_LIMITS = {
  /** A manifest lists methods and digests; the largest seen is 2 kB. */
  manifestBytesMax: 64 * 1024,
  /** More signers than this is no bundle of ours. */
  signaturesMax: 8,
  /** A service is one esbuild file; the largest of ours is under 1 MB. */
  payloadBytesMax: 16 * 1024 * 1024,
  /** A line of some 400 bytes for each package and source file. */
  documentsBytesMax: 512 * 1024,
} as const

const KEY_ID_BYTES = 32
const SIGNATURE_BYTES = 64
const ENTRY_BYTES = KEY_ID_BYTES + SIGNATURE_BYTES

export interface BundleSignature {
  /** SHA-256 of the raw 32-byte public key, lower-case hex. */
  readonly keyId: string
  /** 64 bytes, Ed25519. */
  readonly signature: Uint8Array
}

export interface BundleSections {
  /** Exact bytes, unverified. */
  readonly manifest: Uint8Array
  readonly signatures: readonly BundleSignature[]
  /** Exact bytes, unverified. */
  readonly payload: Uint8Array
  /** Exact bytes, unverified; empty or left out for a bundle without them. */
  readonly documents?: Uint8Array
}

/** The largest file that `splitBundle` accepts, bytes. */
export const bundleBytesMax =
  BUNDLE_MAGIC.length +
  16 +
  BUNDLE_LIMITS.manifestBytesMax +
  BUNDLE_LIMITS.signaturesMax * ENTRY_BYTES +
  BUNDLE_LIMITS.payloadBytesMax +
  BUNDLE_LIMITS.documentsBytesMax

/**
 * Cuts a bundle file into its sections. The results are views into `file`.
 * @throws BUNDLE_MALFORMED magic, a length, a limit or trailing bytes
 */
export function splitBundle(file: Uint8Array): BundleSections {
  if (file.length < BUNDLE_MAGIC.length || !BUNDLE_MAGIC.every((byte, index) => file[index] === byte)) {
    throw new OffboxError('BUNDLE_MALFORMED', 'not a bundle: the first 8 bytes are not OFFBOX\\0\\1')
  }
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  let offset = BUNDLE_MAGIC.length
  const section = (name: string, bytesMax: number): Uint8Array => {
    if (offset + 4 > file.length) throw new OffboxError('BUNDLE_MALFORMED', `the file ends before the length of its ${name}`)
    const length = view.getUint32(offset)
    offset += 4
    if (length > bytesMax) throw new OffboxError('BUNDLE_MALFORMED', `the ${name} has ${length} bytes, more than ${bytesMax}`)
    if (offset + length > file.length) throw new OffboxError('BUNDLE_MALFORMED', `the file ends inside its ${name}`)
    const bytes = file.subarray(offset, offset + length)
    offset += length
    return bytes
  }
  const manifest = section('manifest', BUNDLE_LIMITS.manifestBytesMax)
  const signatures = splitSignatures(section('signatures', BUNDLE_LIMITS.signaturesMax * ENTRY_BYTES))
  const payload = section('payload', BUNDLE_LIMITS.payloadBytesMax)
  if (offset === file.length) return { manifest, signatures, payload, documents: new Uint8Array() }
  const documents = section('documents', BUNDLE_LIMITS.documentsBytesMax)
  // One way to write a bundle without them: no section at all.
  if (documents.length === 0) throw new OffboxError('BUNDLE_MALFORMED', 'an empty section of documents')
  if (offset !== file.length) throw new OffboxError('BUNDLE_MALFORMED', `${file.length - offset} bytes after the documents`)
  return { manifest, signatures, payload, documents }
}

/**
 * The inverse of `splitBundle`.
 * @throws BUNDLE_MALFORMED a section over its limit, a keyId or signature of a wrong length
 */
export function joinBundle(sections: BundleSections): Uint8Array {
  const { manifest, signatures, payload, documents = new Uint8Array() } = sections
  if (documents.length > BUNDLE_LIMITS.documentsBytesMax)
    throw new OffboxError('BUNDLE_MALFORMED', `the documents (${documents.length} bytes) are over their limit`)
  if (manifest.length > BUNDLE_LIMITS.manifestBytesMax || payload.length > BUNDLE_LIMITS.payloadBytesMax) {
    throw new OffboxError('BUNDLE_MALFORMED', `the manifest (${manifest.length} bytes) or the payload (${payload.length} bytes) is over its limit`)
  }
  if (signatures.length > BUNDLE_LIMITS.signaturesMax) {
    throw new OffboxError('BUNDLE_MALFORMED', `${signatures.length} signatures, more than ${BUNDLE_LIMITS.signaturesMax}`)
  }
  const entries = Buffer.concat(signatures.flatMap(({ keyId, signature }) => [Buffer.from(keyId, 'hex'), signature]))
  if (entries.length !== signatures.length * ENTRY_BYTES) throw new OffboxError('BUNDLE_MALFORMED', 'a keyId or signature has a wrong length')
  const length = (bytes: Uint8Array) => {
    const four = Buffer.alloc(4)
    four.writeUInt32BE(bytes.length)
    return four
  }
  const all = [manifest, entries, payload, ...(documents.length > 0 ? [documents] : [])]
  const parts = [BUNDLE_MAGIC, ...all.flatMap((bytes) => [length(bytes), bytes])]
  return new Uint8Array(Buffer.concat(parts))
}

/** The bytes that a bundle's signatures are over. */
export function bundleSignedBytes(manifest: Uint8Array): Uint8Array {
  return new Uint8Array(Buffer.concat([Buffer.from(BUNDLE_SIGNED_PREFIX, 'latin1'), manifest]))
}

function splitSignatures(bytes: Uint8Array): BundleSignature[] {
  if (bytes.length % ENTRY_BYTES !== 0) throw new OffboxError('BUNDLE_MALFORMED', `the signatures have ${bytes.length} bytes, not a multiple of ${ENTRY_BYTES}`)
  const found: BundleSignature[] = []
  for (let at = 0; at < bytes.length; at += ENTRY_BYTES) {
    const keyId = Buffer.from(bytes.subarray(at, at + KEY_ID_BYTES)).toString('hex')
    found.push({ keyId, signature: bytes.subarray(at + KEY_ID_BYTES, at + ENTRY_BYTES) })
  }
  return found
}
