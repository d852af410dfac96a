/** Everything a bundle file says, and what a device with given anchors would make of it. Nothing is parsed that no trusted key signed. */
import semver from 'semver'
import { type BundleSections, splitBundle } from '../../core/bundle-format.ts'
import { readDocuments } from '../../core/documents.ts'
import { codeOf, type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import { type Floors, NO_FLOORS } from '../../core/floors.ts'
import type { Manifest } from '../../core/manifest.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { type Policy, policyVerdict } from '../../core/policy.ts'
import { serviceRole, targetPath, type Targets } from '../../core/tuf/metadata.ts'
import { sha256Hex } from '../home/keys.ts'
import { type DeviceGrounds, type Offered, refusedForState, refusedForTrust } from './device-verdict.ts'
import { summaryOf } from './documents.ts'
import { anchoredKeys, type BundleKeys, readServiceBundle, signersOf } from './verify.ts'

/** What the verdict is against. */
export interface Grounds {
  /** Keys of the anchors. */
  readonly trusted: TrustedKeys
  /** In force; default none. */
  readonly floors?: Floors
  /** Delegated roles of the trust repository by name; undefined for a fleet without one. */
  readonly roles?: ReadonlyMap<string, { readonly signed: Targets }>
  /** There where devices demand that the repository lists a bundle and that the policy lets it run. */
  readonly demanded?: {
    /** Who may sign, anchors included. */
    readonly keys: BundleKeys
    /** In force; null: there is none. */
    readonly policy: Policy | null
    /** What of the metadata that an order of the service would bring is expired, in words; null: nothing. */
    expired?(service: string): string | null
  }
  /** The device that is asked about, and what an order would bring it. */
  readonly device?: DeviceGrounds
  readonly offered?: Offered
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
  /** The device that the verdict is about; undefined: any of the fleet. */
  readonly device?: string
  /** The policy that the verdict is by; undefined: none was asked for. */
  readonly policyVersion?: number
  /** Text, as it stands in the file. */
  readonly manifest: string
  /** Where it comes from and what is in it, in brief; null without documents, or when nobody trusted signed them. */
  readonly build: Record<string, unknown> | null
  readonly sbom: unknown
  readonly provenance: unknown
}

/** @throws BUNDLE_MALFORMED not even the shape of a bundle */
export function inspectBundle(file: Uint8Array, grounds: Grounds): Inspection {
  const sections = splitBundle(file)
  const signers = signersOf(sections, keysIn(grounds).all)
  const { verdict, manifest } = judge(file, grounds)
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
    ...(grounds.roles ? { publishedBy: manifest ? publishedBy(manifest, sha256Hex(file), grounds.roles) : null } : {}),
    ...(grounds.device ? { device: grounds.device.deviceId } : {}),
    ...(grounds.demanded ? { policyVersion: grounds.demanded.policy?.version ?? 0 } : {}),
    manifest: Buffer.from(sections.manifest).toString('utf8'),
    build: documents ? summaryOf(documents) : null,
    sbom: documents?.sbom ?? null,
    provenance: documents?.provenance ?? null,
  }
}

function keysIn({ trusted, demanded }: Grounds): BundleKeys {
  return demanded?.keys ?? anchoredKeys(trusted)
}

/** The checks of a device, in its order. What is refused after its signature was checked still lets the rest be shown: the bundle is authentic. */
function judge(file: Uint8Array, grounds: Grounds): { verdict: Verdict; manifest: Manifest | null } {
  try {
    const { manifest, keyIds, sha256 } = readServiceBundle(file, keysIn(grounds))
    const refusal = refusalOf(manifest, keyIds, sha256, grounds) ?? (grounds.device && refusedForState(manifest, manifestDigestOf(file), grounds.device))
    return { verdict: refusal ? { accepted: false, ...refusal } : { accepted: true }, manifest }
  } catch (error) {
    if (!(error instanceof OffboxError)) throw error
    return { verdict: { accepted: false, code: codeOf(error), reason: messageOf(error) }, manifest: null }
  }
}

function refusalOf(manifest: Manifest, keyIds: readonly string[], sha256: string, grounds: Grounds): { code: ErrorCode; reason: string } | null {
  const { floors = NO_FLOORS, roles, demanded, device, offered } = grounds
  const { name: service, version, capabilities, tier = 'worker' } = manifest
  const late = device && refusedForTrust(device, offered ?? { policyVersion: 0, versions: {} })
  if (late) return late
  if (demanded) {
    const expired = demanded.expired?.(service) ?? null
    if (expired !== null) return { code: 'TRUST_EXPIRED', reason: expired }
    if (publishedBy(manifest, sha256, roles ?? new Map()) !== serviceRole(service)) {
      return { code: 'TRUST_UNLISTED', reason: `the trust repository does not list these bytes as ${targetPath(service, version)}` }
    }
    const broken = policyVerdict(demanded.policy, { service, keyIds, capabilities, tier })
    if (broken !== null) return { code: 'POLICY_DENIED', reason: broken }
  }
  const floor = floors.floors[service]
  return floor !== undefined && semver.lt(version, floor) ? { code: 'BUNDLE_ROLLBACK', reason: `the floor of ${service} is ${floor}` } : null
}

function manifestDigestOf(file: Uint8Array): string {
  return sha256Hex(splitBundle(file).manifest)
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

function publishedBy({ name, version }: Manifest, sha256: string, roles: NonNullable<Grounds['roles']>): string | null {
  const path = targetPath(name, version)
  for (const [role, { signed }] of roles) if (signed.targets[path]?.hashes.sha256 === sha256) return role
  return null
}
