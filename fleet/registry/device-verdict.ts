/** What one device would say to a bundle beyond what its fleet demands: what it runs, and how far it has seen the repository. Pure. */
import semver from 'semver'
import type { ErrorCode } from '../../core/errors.ts'
import type { Manifest } from '../../core/manifest.ts'

/** A device as it says it is. */
export interface DeviceGrounds {
  readonly deviceId: string
  /** Its image carries trust anchors; without them it runs whatever a bundle key signed. */
  readonly enforced: boolean
  readonly needsWitness: boolean
  /** 0: none. */
  readonly policyVersion: number
  /** By role: versions below which it accepts nothing. */
  readonly heights: Readonly<Record<string, number>>
  /** Service to lowest version. */
  readonly floors: Readonly<Record<string, string>>
  readonly services: readonly { readonly service: string; readonly version: string; readonly manifestSha256: string; readonly methods: readonly string[] }[]
}

/** What an order would bring along. */
export interface Offered {
  /** 0: none. */
  readonly policyVersion: number
  /** By role, of the repository in force. */
  readonly versions: Readonly<Record<string, number>>
}

export interface Refusal {
  readonly code: ErrorCode
  readonly reason: string
}

/** An order comes with the repository's metadata and policy: an older repository is refused before anything else is looked at. */
export function refusedForTrust({ deviceId, enforced, needsWitness, heights, policyVersion }: DeviceGrounds, offered: Offered): Refusal | null {
  if (!enforced) return null
  if (needsWitness)
    return {
      code: 'TRUST_UNAVAILABLE',
      reason: `${deviceId} takes nothing new before the witness has answered it; the controller asks the witness before it orders`,
    }
  const [role, seen] = Object.entries(heights).find(([name, version]) => (offered.versions[name] ?? 0) < version) ?? []
  if (role !== undefined)
    return { code: 'TRUST_ROLLBACK', reason: `${deviceId} has seen version ${seen} of ${role}, and the repository has ${offered.versions[role] ?? 'none'}` }
  if (policyVersion <= offered.policyVersion) return null
  return { code: 'TRUST_ROLLBACK', reason: `${deviceId} has policy version ${policyVersion}, and the repository ${offered.policyVersion || 'none'}` }
}

/** Judged last, as the device does; ranges of other services and room are for the device alone to judge. */
export function refusedForState({ name, version, methods }: Manifest, manifestSha256: string, device: DeviceGrounds): Refusal | null {
  const { deviceId, floors, services } = device
  const floor = floors[name]
  if (floor !== undefined && semver.lt(version, floor)) return { code: 'BUNDLE_ROLLBACK', reason: `the floor of ${name} on ${deviceId} is ${floor}` }
  const running = services.find(({ service }) => service === name)
  if (running && semver.lt(version, running.version)) {
    return { code: 'BUNDLE_DOWNGRADE', reason: `${deviceId} runs ${running.version}, which is newer: order it with --allow-downgrade` }
  }
  for (const { path } of methods) {
    const owner = services.find(({ service, methods: served }) => service !== name && served.includes(path))
    if (owner) return { code: 'METHOD_CONFLICT', reason: `${path} is already served by ${owner.service} on ${deviceId}` }
  }
  if (running?.version !== version || running.manifestSha256 === manifestSha256) return null
  return { code: 'BUNDLE_EXISTS', reason: `another bundle of ${name} ${version} runs on ${deviceId}; raise the version` }
}
