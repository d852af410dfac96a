/**
 * TUF metadata as this project writes it (specification 1.0, https://theupdateframework.github.io/specification/): types, names of files
 * and paths. Only what we write; what a device reads is checked by tuf-js and by profile.ts.
 */

/** Top-level roles, in the order in which a client works through them. */
export const TOP_ROLES = ['root', 'timestamp', 'snapshot', 'targets'] as const
export type TopRole = (typeof TOP_ROLES)[number]
export const SPEC_VERSION = '1.0.31'

/** `keyval.public`: 32 bytes as 64 lower-case hex digits. */
export interface TufKey {
  readonly keytype: 'ed25519'
  readonly scheme: 'ed25519'
  readonly keyval: { readonly public: string }
}

export interface RoleKeys {
  readonly keyids: readonly string[]
  readonly threshold: number
}

interface Common {
  readonly spec_version: string
  /** Rises by one with every change of this role. */
  readonly version: number
  /** UTC, whole seconds: 2026-01-31T12:00:00Z. */
  readonly expires: string
}

export interface Root extends Common {
  readonly _type: 'root'
  readonly consistent_snapshot: true
  readonly keys: Readonly<Record<string, TufKey>>
  readonly roles: Readonly<Record<TopRole, RoleKeys>>
}

/** What one file says of another: which version, and its exact bytes. */
export interface FileMeta {
  readonly version: number
  readonly length: number
  readonly hashes: { readonly sha256: string }
}

export interface Timestamp extends Common {
  readonly _type: 'timestamp'
  /** When it was signed, in the form of `expires`: a device's trusted time. Not of TUF, which says only when metadata ends. */
  readonly issued?: string
  readonly meta: { readonly 'snapshot.json': FileMeta }
}

export interface Snapshot extends Common {
  readonly _type: 'snapshot'
  /** By file name without version: "targets.json", "service-telemetry.json". An entry never goes away, a client would refuse that. */
  readonly meta: Readonly<Record<string, FileMeta>>
}

/** What a target says beyond its bytes. */
export interface TargetCustom {
  readonly service: string
  readonly version: string
  /** Of the bundle's manifest bytes, hex: what the bundle's own signature is over. */
  readonly manifestSha256: string
}

export interface Target {
  readonly length: number
  readonly hashes: { readonly sha256: string }
  /** Of a bundle. */
  readonly custom?: TargetCustom
}

export interface DelegatedRole extends RoleKeys {
  readonly name: string
  readonly paths: readonly string[]
  readonly terminating: boolean
}

export interface Targets extends Common {
  readonly _type: 'targets'
  /** By path: "services/telemetry/1.1.0.offbox". */
  readonly targets: Readonly<Record<string, Target>>
  readonly delegations?: { readonly keys: Readonly<Record<string, TufKey>>; readonly roles: readonly DelegatedRole[] }
}

export type Signed = Root | Timestamp | Snapshot | Targets

export interface TufSignature {
  readonly keyid: string
  /** 64 bytes, hex. */
  readonly sig: string
}

/** A whole file. */
export interface Metadata<T extends Signed = Signed> {
  readonly signed: T
  readonly signatures: readonly TufSignature[]
}

/** The role whose keys sign for one service. The prefix keeps a service called "root" apart from the role of that name. */
export function serviceRole(service: string): string {
  return `service-${service}`
}

/** Every path that a service's role may sign; "*" of TUF stops at a slash. */
export function servicePaths(service: string): string {
  return `services/${service}/*.offbox`
}

export function targetPath(service: string, version: string): string {
  return `services/${service}/${version}.offbox`
}

/** Name of a file in the repository: all but the timestamp carry their version (consistent snapshots). */
export function fileName(role: string, version: number): string {
  return role === 'timestamp' ? 'timestamp.json' : `${version}.${role}.json`
}

/** The parts of such a name; null for any other text. Version 0 for the timestamp, whose name carries none. */
export function parseFileName(name: string): { role: string; version: number } | null {
  if (name === 'timestamp.json') return { role: 'timestamp', version: 0 }
  const found = /^([1-9]\d{0,8})\.(root|snapshot|targets|service-[a-z][a-z0-9-]{0,39})\.json$/.exec(name)
  return found ? { role: found[2] as string, version: Number(found[1]) } : null
}
