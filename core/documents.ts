/**
 * What a bundle carries for people and auditors, beside what a device runs: its SBOM (CycloneDX 1.6) and its provenance (an in-toto
 * statement with SLSA's predicate, version 1), one JSON object {"sbom": …, "provenance": …}. A device checks the digest and reads no further.
 */
import { createHash } from 'node:crypto'
import { OffboxError } from './errors.ts'
import type { Manifest } from './manifest.ts'

export interface BundleDocuments {
  readonly sbom: Readonly<Record<string, unknown>>
  readonly provenance: Readonly<Record<string, unknown>>
}

/**
 * Whether the documents are those that the manifest was signed with; a bundle without any has none to check.
 * @throws BUNDLE_CORRUPT
 */
export function checkDocuments(manifest: Manifest, bytes: Uint8Array = new Uint8Array()): void {
  const { sha256, sizeBytes } = manifest.documents ?? { sha256: '', sizeBytes: 0 }
  if (bytes.length === sizeBytes && (sizeBytes === 0 || createHash('sha256').update(bytes).digest('hex') === sha256)) return
  throw new OffboxError('BUNDLE_CORRUPT', `the documents of ${manifest.name} ${manifest.version} do not match the digest in its manifest`)
}

/** Reads them; null for a bundle without any. @throws BUNDLE_CORRUPT as `checkDocuments`; BUNDLE_MALFORMED not the object described above */
export function readDocuments(manifest: Manifest, bytes: Uint8Array = new Uint8Array()): BundleDocuments | null {
  checkDocuments(manifest, bytes)
  if (bytes.length === 0) return null
  let raw: { sbom?: unknown; provenance?: unknown }
  try {
    raw = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw new OffboxError('BUNDLE_MALFORMED', 'the documents are not JSON', { cause: error })
  }
  if (typeof raw?.sbom !== 'object' || raw.sbom === null || typeof raw.provenance !== 'object' || raw.provenance === null) {
    throw new OffboxError('BUNDLE_MALFORMED', 'the documents lack an SBOM or a provenance')
  }
  return raw as BundleDocuments
}
