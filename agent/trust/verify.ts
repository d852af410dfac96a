/** The checks of a bundle, in the order it passes them. Nothing of it is parsed before its signature is checked. */
import { createHash } from 'node:crypto'
import { bundleSignedBytes, splitBundle } from '../../core/bundle-format.ts'
import { checkDocuments } from '../../core/documents.ts'
import { OffboxError } from '../../core/errors.ts'
import { parseManifest } from '../../core/manifest.ts'
import { brandSigned, type TrustedKeys } from '../../core/signing.ts'
import type { VerifiedBundle } from '../supervisor/types.ts'

/**
 * The payload of the result is a copy: `file` may be reused.
 * @throws BUNDLE_MALFORMED lengths, limits, or a signed manifest that breaks its schema
 * @throws BUNDLE_UNTRUSTED no trusted key signed these manifest bytes
 * @throws BUNDLE_CORRUPT the payload, or the documents, do not match their digests in the signed manifest
 */
export function verifyBundle(file: Uint8Array, trusted: TrustedKeys): VerifiedBundle {
  const { manifest: bytes, signatures, payload, documents } = splitBundle(file)
  const verified = brandSigned(bytes, bundleSignedBytes(bytes), signatures, trusted)
  if (!verified) throw new OffboxError('BUNDLE_UNTRUSTED', 'no trusted key signed this manifest')
  const manifest = parseManifest(verified.bytes)
  if (payload.length !== manifest.payload.sizeBytes || sha256(payload) !== manifest.payload.sha256) {
    throw new OffboxError('BUNDLE_CORRUPT', `the payload of ${manifest.name} ${manifest.version} does not match its signed digest`)
  }
  checkDocuments(manifest, documents)
  return { manifest, manifestSha256: sha256(verified.bytes), keyIds: verified.keyIds, payload: new Uint8Array(payload) }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
