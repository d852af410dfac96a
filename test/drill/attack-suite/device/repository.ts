/** A repository whose bundles a real device can run, made now; with copies of it for the attacker, and a way on for its owners after him. */
import { splitBundle } from '../../../../core/bundle-format.ts'
import { formatPolicy, POLICY_PATH, type ServicePolicy } from '../../../../core/policy.ts'
import { fileName, parseFileName, serviceRole, targetPath } from '../../../../core/tuf/metadata.ts'
import type { MetadataPush } from '../../../../core/tuf/push.ts'
import { Repository, sha256, timeText } from '../../../agent/trust/tuf/repository.ts'
import { makeBundle, type ManifestParts, type SigningKey } from '../../../fixtures/bundles.ts'

const DAY_MS = 86_400_000
const SERVICE = `{ methods: [], check: (raw) => raw, start: async () => {}, stop: async () => {}, health: () => ({ status: 'healthy', evidence: {} }) }`
export const CODE = `var offboxService = { create: () => (${SERVICE}) }`
/** Older bundles are withdrawn: what a device verifies is not to grow with the drill. */
const LISTED_MAX = 4

export interface DevicePush extends MetadataPush {
  /** The file that goes along. */
  readonly policy: Uint8Array
}

export class DeviceRepository extends Repository {
  readonly key: SigningKey
  /** Of the case, so that the "1.0.0" of each is newer than whatever ran before. */
  major = 1
  /** The newest root that the device is known to hold: those up to it are not sent. */
  rootKnown = 1
  policyBytes: Uint8Array = new Uint8Array()
  policyVersion = 0
  /** By target path. */
  readonly bundles = new Map<string, Uint8Array>()
  /** Null: now. */
  madeAtMs: number | null = null

  constructor(key: SigningKey) {
    super()
    this.key = key
    for (const role of ['targets', 'snapshot']) this.roles[role].expires = timeText(this.nowMs + 365 * DAY_MS)
    this.publish('targets', 'snapshot', 'timestamp')
  }

  /** What the attacker begins with: all of it, keys too. Which of them a case uses is the case. */
  fork(): DeviceRepository {
    const copy = new DeviceRepository(this.key)
    for (const role of Object.keys(copy.signers)) delete copy.signers[role]
    for (const [role, keys] of Object.entries(this.signers)) copy.signers[role] = [...keys]
    for (const [role, signed] of Object.entries(this.roles)) copy.roles[role] = structuredClone(signed)
    copy.files.clear()
    for (const [name, bytes] of this.files) copy.files.set(name, bytes)
    for (const [path, bytes] of this.bundles) copy.bundles.set(path, bytes)
    const { major, rootKnown, policyBytes, policyVersion, nowMs } = this
    return Object.assign(copy, { major, rootKnown, policyBytes, policyVersion, nowMs })
  }

  /** The owners go on above all that the device has taken from `from` meanwhile. Nothing happens when it has taken nothing. */
  recover(from: DeviceRepository, believed: { rootVersion: number; heights: Readonly<Record<string, number>> }): void {
    const { roles, files } = this
    let behind = from.policyVersion > this.policyVersion
    if (believed.rootVersion > roles['root'].version) {
      for (let version = roles['root'].version + 1; version <= believed.rootVersion; version++) {
        files.set(fileName('root', version), from.file(fileName('root', version)))
      }
      roles['root'].version = believed.rootVersion
      this.publish('root')
      behind = true
    }
    for (const [role, version] of Object.entries(believed.heights)) {
      if (!roles[role]) {
        // A role that the device has seen must not vanish from the snapshot.
        const there = roles['snapshot'].meta[`${role}.json`]
        if (there && there.version >= version) continue
        roles['snapshot'].meta[`${role}.json`] = from.roles['snapshot'].meta[`${role}.json`]
        behind = true
      } else if (version > roles[role].version) {
        roles[role].version = version
        behind = true
      }
    }
    this.rootKnown = believed.rootVersion
    this.policyVersion = Math.max(this.policyVersion, from.policyVersion)
    if (!behind) return
    const delegated = Object.keys(roles).filter((role) => role.startsWith('service-'))
    this.publish(...delegated)
    this.setPolicy((before) => before)
  }

  override publish(...names: readonly string[]): void {
    this.nowMs = Math.floor((this.madeAtMs ?? Date.now()) / 1000) * 1000
    super.publish(...names)
  }

  /** The version that a case calls "1.0.0" is 7.100.0 in the seventh. */
  mapped(version: string): string {
    const [one = 0, two = 0, three = 0] = version.split('.').map(Number)
    return `${this.major}.${one * 100 + two}.${three}`
  }

  bundle(service: string, version: string, over: Partial<ManifestParts> = {}, key = this.key): Uint8Array {
    return makeBundle(key, { name: service, version, heapMbMax: 32, ...over }, CODE)
  }

  /** `bytes`: what is listed, when it is not the bundle that any honest release would be. */
  override release(service: string, version: string, { role = serviceRole(service), bytes }: { role?: string; bytes?: Uint8Array } = {}): string {
    const mapped = this.mapped(version)
    const file = bytes ?? this.bundle(service, mapped)
    const path = targetPath(service, mapped)
    if (!this.roles[role]) this.addService(service)
    const listed = this.roles[role].targets
    for (const old of Object.keys(listed).slice(0, -LISTED_MAX)) delete listed[old]
    this.bundles.set(path, file)
    this.list(role, path, file, { service, version: mapped, manifestSha256: manifestSha256(file) })
    this.publish(role, 'targets', 'snapshot', 'timestamp')
    return path
  }

  setPolicy(next: (before: Record<string, ServicePolicy>) => Record<string, ServicePolicy>): void {
    const before = this.policyBytes.length > 0 ? JSON.parse(Buffer.from(this.policyBytes).toString()).services : {}
    this.policyVersion += 1
    this.policyBytes = formatPolicy({ version: this.policyVersion, services: next(before) })
    this.list('targets', POLICY_PATH, this.policyBytes)
    this.publish('targets', 'snapshot', 'timestamp')
  }

  override push(replace: Readonly<Record<string, Uint8Array | null>> = {}): DevicePush {
    return this.pushSince(this.rootKnown, replace)
  }

  /** For whoever holds the root of that version. */
  pushSince(rootVersion: number, replace: Readonly<Record<string, Uint8Array | null>> = {}): DevicePush {
    const isNews = (name: string) => {
      const parsed = parseFileName(name)
      return parsed?.role !== 'root' || parsed.version > rootVersion
    }
    return { files: super.push(replace).files.filter(({ name }) => isNews(name)), policy: this.policyBytes }
  }
}

/** Of what is no bundle: nothing that could match. */
function manifestSha256(file: Uint8Array): string {
  try {
    return sha256(splitBundle(file).manifest)
  } catch {
    return sha256(file)
  }
}
