/** Verifies a bundle file the way a device does, so that the registry never holds what a device would refuse as untrusted. */
import { type BundleSections, bundleBytesMax, bundleSignedBytes, splitBundle } from '../../core/bundle-format.ts'
import { checkDocuments } from '../../core/documents.ts'
import { OffboxError } from '../../core/errors.ts'
import { type Manifest, parseManifest } from '../../core/manifest.ts'
import { brandVerified, type TrustedKeys, verifyEd25519 } from '../../core/signing.ts'
import { sha256Hex } from '../home/keys.ts'
import type { BundleFacts } from './registry.ts'

/** In the order a bundle passes them: shape, signature, manifest, payload. @throws BUNDLE_MALFORMED, BUNDLE_UNTRUSTED, BUNDLE_CORRUPT */
export function readBundle(file: Uint8Array, trusted: TrustedKeys): BundleFacts & { manifest: Manifest } {
  if (file.length > bundleBytesMax) throw new OffboxError('BUNDLE_MALFORMED', `${file.length} bytes, more than ${bundleBytesMax}`)
  const sections = splitBundle(file)
  const verified = brandVerified(sections.manifest, bundleSignedBytes(sections.manifest), sections.signatures, trusted)
  if (!verified) throw new OffboxError('BUNDLE_UNTRUSTED', whyUntrusted(sections, trusted))
  const manifest = parseManifest(verified)
  const { sha256, sizeBytes } = manifest.payload
  if (sections.payload.length !== sizeBytes || sha256Hex(sections.payload) !== sha256) {
    throw new OffboxError('BUNDLE_CORRUPT', `the payload of ${manifest.name} ${manifest.version} does not match the digest in its manifest`)
  }
  checkDocuments(manifest, sections.documents)
  const { name: service, version } = manifest
  return { service, version, sha256: sha256Hex(file), sizeBytes: file.length, keyIds: signersOf(sections, trusted), manifest }
}

/** Who may sign bundles: keys of the anchors for every service, and those that the trust repository names for one. */
export interface BundleKeys {
  readonly all: TrustedKeys
  of(service: string): TrustedKeys
}

/** Of a fleet without a repository. */
export function anchoredKeys(anchors: TrustedKeys): BundleKeys {
  return { all: anchors, of: () => anchors }
}

/**
 * `readBundle`, where services have keys of their own: which service it is of is known only once it is verified, so all keys are tried, then
 * the right ones count. @throws BUNDLE_MALFORMED, BUNDLE_UNTRUSTED, BUNDLE_CORRUPT
 */
export function readServiceBundle(file: Uint8Array, { all, of }: BundleKeys): ReturnType<typeof readBundle> {
  const bundle = readBundle(file, all)
  const { service, version } = bundle
  const keyIds = bundle.keyIds.filter((keyId) => of(service).has(keyId))
  if (keyIds.length === 0) throw new OffboxError('BUNDLE_UNTRUSTED', `${service} ${version} is signed by another service's key only`)
  return { ...bundle, keyIds }
}

/** Trusted keys whose signature holds, hex. */
export function signersOf(sections: BundleSections, trusted: TrustedKeys): string[] {
  const signed = bundleSignedBytes(sections.manifest)
  return sections.signatures
    .filter(({ keyId, signature }) => {
      const key = trusted.get(keyId)
      return key !== undefined && verifyEd25519(signed, signature, key)
    })
    .map(({ keyId }) => keyId)
}

function whyUntrusted(sections: BundleSections, trusted: TrustedKeys): string {
  if (sections.signatures.length === 0) return 'the bundle is not signed; sign it with offbox bundle sign'
  const known = sections.signatures.filter(({ keyId }) => trusted.has(keyId))
  if (known.length > 0) return `the signature by the trusted key ${known[0]?.keyId.slice(0, 16)} does not match the manifest`
  return `no trusted key signed it; it names ${sections.signatures.map(({ keyId }) => keyId.slice(0, 16)).join(', ')}`
}
