/** What a bundle says of itself. The JSON of the manifest section, parsed only after its signature was checked. */
import semver from 'semver'
import { OffboxError } from './errors.ts'
import type { VerifiedBytes } from './signing.ts'

/** Parts of the machine that a service can be lent. core/capabilities.ts has their operations. */
export const CAPABILITIES = ['bird', 'link', 'proc', 'keystore', 'state'] as const
export type Capability = (typeof CAPABILITIES)[number]

export const METHOD_KINDS = ['unary', 'clientStream', 'serverStream', 'bidi'] as const

export interface ManifestMethod {
  /** E.g. "/offbox.v1.Telemetry/Get". */
  readonly path: string
  readonly kind: (typeof METHOD_KINDS)[number]
  /** Server streams only: after a swap the agent asks the successor with the same request, unseen by the client. */
  readonly resumable?: boolean
}

export interface Manifest {
  /** Format of this file. */
  readonly schema: 1
  /** Slug: lower-case letters, digits and hyphens. */
  readonly name: string
  /** SemVer 2.0.0, without build metadata. */
  readonly version: string
  readonly methods: readonly ManifestMethod[]
  readonly capabilities: readonly Capability[]
  /** Versions of the hand-over format it can write and read; empty lists for a service without state. */
  readonly snapshot: { readonly writes: readonly number[]; readonly reads: readonly number[] }
  /** JavaScript heap, MiB. */
  readonly heapMbMax: number
  readonly payload: { readonly sha256: string; readonly sizeBytes: number }
}

export const MANIFEST_LIMITS = { methodsMax: 256, nameCharsMax: 40, heapMbMin: 16, heapMbMax: 512, snapshotVersionsMax: 16 } as const

/**
 * @throws BUNDLE_MALFORMED not JSON, an unknown field, or a field that breaks its rule (named)
 */
export function parseManifest(bytes: VerifiedBytes): Manifest {
  let raw: unknown
  try {
    raw = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    throw new OffboxError('BUNDLE_MALFORMED', 'the manifest is not JSON', { cause: error })
  }
  return checkManifest(raw)
}

/**
 * The rules of a manifest, for its maker as well as its reader. Returns what it was given.
 * @throws BUNDLE_MALFORMED with field and rule
 */
export function checkManifest(raw: unknown): Manifest {
  const manifest = record(raw, 'manifest')
  const known = ['schema', 'name', 'version', 'methods', 'capabilities', 'snapshot', 'heapMbMax', 'payload']
  const unknown = Object.keys(manifest).find((key) => !known.includes(key))
  rule(unknown === undefined, `unknown field ${unknown}`)
  rule(manifest['schema'] === 1, 'schema must be 1')
  const { name, version, methods, capabilities, heapMbMax } = manifest
  rule(isServiceName(name), `name must match [a-z][a-z0-9-]{0,${MANIFEST_LIMITS.nameCharsMax - 1}}`)
  rule(typeof version === 'string' && version.length <= 64 && semver.valid(version) === version, 'version must be SemVer without build metadata')
  rule(Array.isArray(methods) && methods.length <= MANIFEST_LIMITS.methodsMax, `methods must be a list of at most ${MANIFEST_LIMITS.methodsMax}`)
  const paths = new Set<unknown>()
  for (const entry of methods as unknown[]) checkMethod(record(entry, 'methods[]'), paths)
  rule(Array.isArray(capabilities) && capabilities.every((one) => CAPABILITIES.includes(one)), `capabilities must be of ${CAPABILITIES.join(', ')}`)
  const snapshot = record(manifest['snapshot'], 'snapshot')
  rule(isVersionList(snapshot['writes']) && isVersionList(snapshot['reads']), 'snapshot.writes and snapshot.reads must be lists of positive integers')
  const { heapMbMin, heapMbMax: most } = MANIFEST_LIMITS
  rule(Number.isInteger(heapMbMax) && (heapMbMax as number) >= heapMbMin && (heapMbMax as number) <= most, `heapMbMax must be ${heapMbMin} to ${most}`)
  const payload = record(manifest['payload'], 'payload')
  rule(typeof payload['sha256'] === 'string' && /^[0-9a-f]{64}$/.test(payload['sha256']), 'payload.sha256 must be 64 hex digits')
  rule(Number.isSafeInteger(payload['sizeBytes']) && (payload['sizeBytes'] as number) >= 0, 'payload.sizeBytes must be a length')
  return raw as Manifest
}

/** Whether `name` can name a service: it becomes a directory name and a log field. */
export function isServiceName(name: unknown): name is string {
  return typeof name === 'string' && /^[a-z][a-z0-9-]*$/.test(name) && name.length <= MANIFEST_LIMITS.nameCharsMax && name !== 'agent'
}

function checkMethod(method: Record<string, unknown>, paths: Set<unknown>): void {
  const { path, kind, resumable } = method
  rule(typeof path === 'string' && /^\/[A-Za-z0-9_.]+\/[A-Za-z0-9_]+$/.test(path), 'methods[].path must be /package.Service/Method')
  rule(!paths.has(path), `method ${String(path)} is declared twice`)
  paths.add(path)
  rule(METHOD_KINDS.includes(kind as never), `methods[].kind must be of ${METHOD_KINDS.join(', ')}`)
  rule(resumable === undefined || (resumable === true && kind === 'serverStream'), 'methods[].resumable is for server streams')
}

function isVersionList(value: unknown): boolean {
  return Array.isArray(value) && value.length <= MANIFEST_LIMITS.snapshotVersionsMax && value.every((one) => Number.isSafeInteger(one) && one > 0)
}

function record(value: unknown, what: string): Record<string, unknown> {
  rule(typeof value === 'object' && value !== null && !Array.isArray(value), `${what} must be an object`)
  return value as Record<string, unknown>
}

function rule(holds: boolean, text: string): asserts holds {
  if (!holds) throw new OffboxError('BUNDLE_MALFORMED', `the manifest breaks a rule: ${text}`)
}
