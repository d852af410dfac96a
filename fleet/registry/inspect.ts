/** Everything a bundle file says, and what a device with given anchors would make of it. Nothing is parsed that no trusted key signed. */
import semver from 'semver'
import { type BundleSections, splitBundle } from '../../core/bundle-format.ts'
import { readDocuments } from '../../core/documents.ts'
import { codeOf, type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import { type Floors, NO_FLOORS } from '../../core/floors.ts'
import type { Manifest } from '../../core/manifest.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { targetPath, type Targets } from '../../core/tuf/metadata.ts'
import { sha256Hex } from '../home/keys.ts'
import { summaryOf } from './documents.ts'
import { readBundle, signersOf } from './verify.ts'

/** What the verdict is against. */
export interface Policy {
  readonly trusted: TrustedKeys
  /** In force; default none. */
  readonly floors?: Floors
  /** Delegated roles of the trust repository by name; undefined for a fleet without one. */
  readonly roles?: ReadonlyMap<string, { readonly signed: Targets }>
}

export interface Verdict {
  readonly accepted: boolean
  /** Why not. */
  readonly code?: ErrorCode
  readonly reason?: string
}

export interface Inspection {
  readonly sizeBytes: number
  readonly sha256: string
  readonly verdict: Verdict
  readonly trusted: boolean
  readonly signedBy: readonly string[]
  readonly manifestSha256: string
  readonly payloadBytes: number
  readonly payloadSha256: string
  readonly documentsBytes: number
  /** What the trust repository says of it: the role that lists these bytes; null for none; undefined without a repository. */
  readonly publishedBy?: string | null
  /** Text, as it stands in the file. */
  readonly manifest: string
  /** Where it comes from and what is in it, in brief; null without documents, or when nobody trusted signed them. */
  readonly build: Record<string, unknown> | null
  readonly sbom: unknown
  readonly provenance: unknown
}

/** @throws BUNDLE_MALFORMED not even the shape of a bundle */
export function inspectBundle(file: Uint8Array, policy: Policy): Inspection {
  const sections = splitBundle(file)
  const signers = signersOf(sections, policy.trusted)
  const { verdict, manifest } = judge(file, policy)
  const documents = manifest && documentsIn(manifest, sections)
  return {
    sizeBytes: file.length,
    sha256: sha256Hex(file),
    verdict,
    trusted: signers.length > 0,
    signedBy: sections.signatures.map(({ keyId }) => `${keyId.slice(0, 16)}${signers.includes(keyId) ? '' : ' (not trusted, or wrong)'}`),
    manifestSha256: sha256Hex(sections.manifest),
    payloadBytes: sections.payload.length,
    payloadSha256: sha256Hex(sections.payload),
    documentsBytes: sections.documents?.length ?? 0,
    ...(policy.roles ? { publishedBy: manifest ? publishedBy(manifest, sha256Hex(file), policy.roles) : null } : {}),
    manifest: Buffer.from(sections.manifest).toString('utf8'),
    build: documents ? summaryOf(documents) : null,
    sbom: documents?.sbom ?? null,
    provenance: documents?.provenance ?? null,
  }
}

/** The checks of a device, in its order. A floor that is broken still lets the rest be shown: the bundle is authentic. */
function judge(file: Uint8Array, { trusted, floors = NO_FLOORS }: Policy): { verdict: Verdict; manifest: Manifest | null } {
  try {
    const { manifest } = readBundle(file, trusted)
    const floor = floors.floors[manifest.name]
    if (floor !== undefined && semver.lt(manifest.version, floor)) {
      return { verdict: { accepted: false, code: 'BUNDLE_ROLLBACK', reason: `the floor of ${manifest.name} is ${floor}` }, manifest }
    }
    return { verdict: { accepted: true }, manifest }
  } catch (error) {
    if (!(error instanceof OffboxError)) throw error
    return { verdict: { accepted: false, code: codeOf(error), reason: messageOf(error) }, manifest: null }
  }
}

/** For showing: documents that are signed and still no documents are shown as none. */
function documentsIn(manifest: Manifest, { documents }: BundleSections) {
  try {
    return readDocuments(manifest, documents)
  } catch (error) {
    if (error instanceof OffboxError) return null
    throw error
  }
}

function publishedBy({ name, version }: Manifest, sha256: string, roles: NonNullable<Policy['roles']>): string | null {
  const path = targetPath(name, version)
  for (const [role, { signed }] of roles) if (signed.targets[path]?.hashes.sha256 === sha256) return role
  return null
}
