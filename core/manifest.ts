/** What a bundle says of itself. The JSON of the manifest section, parsed only after its signature was checked. */
import semver from 'semver'
import { OffboxError } from './errors.ts'
import type { VerifiedBytes } from './signing.ts'

/** Parts of the machine that a service can be lent. core/capabilities.ts has their operations. */
export const CAPABILITIES = ['bird', 'link', 'proc', 'keystore', 'state'] as const
export type Capability = (typeof CAPABILITIES)[number]

/** Where a service runs: a worker thread isolates faults, a process of its own also trust (docs/threat-model.md). */
export const TIERS = ['worker', 'process'] as const
export type Tier = (typeof TIERS)[number]

/** Version of the contract between a service and the agent (services/sdk/service.ts and core/capabilities.ts); `requires.kernel` is about it. */
export const KERNEL_VERSION = '1.0.0'

/** What one version of a service may use. Each bound has an error of its own in core/errors.ts. */
export interface ServiceLimits {
  /** JavaScript heap and what lies outside it (buffers, code), MiB; in the process tier all of the process. MEMORY_EXCEEDED */
  readonly memoryMbMax: number
  /** Of one core, sustained. CPU_EXCEEDED */
  readonly cpuPercentMax: number
  /** Messages from clients, all calls together; a burst of one second's worth is free. RATE_EXCEEDED */
  readonly messagesPerSecondMax: number
  /** Streaming calls open at once. STREAMS_EXCEEDED */
  readonly streamsMax: number
  /** LOGS_EXCEEDED */
  readonly logLinesPerSecondMax: number
}

export const METHOD_KINDS = ['unary', 'clientStream', 'serverStream', 'bidi'] as const

export interface ManifestMethod {
  /** E.g. "/offbox.v1.Telemetry/Get". */
  readonly path: string
  readonly kind: (typeof METHOD_KINDS)[number]
  /** Server streams only: after a swap the agent asks the successor with the same request, unseen by the client. */
  readonly resumable?: boolean
  /** It changes the device by itself, not through the change engine: the agent records the intent before the call is delivered. */
  readonly mutates?: boolean
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
  /** Asked for; the device may run it in a stricter one. Default worker. */
  readonly tier?: Tier
  /** APIs it serves, by gRPC service name, with their SemVer versions. Default: each gRPC service of `methods`, in this manifest's version. */
  readonly provides?: Readonly<Record<string, string>>
  /** SemVer ranges: of the kernel (KERNEL_VERSION), and of other services' APIs by gRPC service name. It may call these APIs and no others. */
  readonly requires?: { readonly kernel?: string; readonly apis?: Readonly<Record<string, string>> }
  /** Only what differs from the defaults. */
  readonly limits?: Partial<ServiceLimits>
  readonly payload: Digest
  /** What is in the payload and where it comes from (core/documents.ts); a digest only, since signatures cost by the kilobyte. */
  readonly documents?: Digest
}

/** SHA-256 in hex, and length. */
export interface Digest {
  readonly sha256: string
  readonly sizeBytes: number
}

export const MANIFEST_LIMITS = { methodsMax: 256, nameCharsMax: 40, heapMbMin: 16, heapMbMax: 512, snapshotVersionsMax: 16, requiredApisMax: 32 } as const

/** Bounds on what a manifest may ask, and what it has without asking; memoryMbMax follows heapMbMax (limitsOf). */
// biome-ignore format: a table
export const SERVICE_LIMITS: Readonly<Record<keyof ServiceLimits, { readonly min: number; readonly max: number; readonly usual: number }>> = {
  memoryMbMax:          { min: 32, max: 2_048,     usual: 192 },
  cpuPercentMax:        { min: 5,  max: 100,       usual: 100 },
  messagesPerSecondMax: { min: 1,  max: 1_000_000, usual: 50_000 },
  streamsMax:           { min: 1,  max: 1_024,     usual: 256 },
  logLinesPerSecondMax: { min: 1,  max: 1_000,     usual: 50 },
}

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
  const known = [
    'schema',
    'name',
    'version',
    'methods',
    'capabilities',
    'snapshot',
    'heapMbMax',
    'tier',
    'provides',
    'requires',
    'limits',
    'payload',
    'documents',
  ]
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
  rule(manifest['tier'] === undefined || TIERS.includes(manifest['tier'] as never), `tier must be of ${TIERS.join(', ')}`)
  checkProvides(manifest['provides'], paths)
  checkRequires(manifest['requires'])
  checkLimits(manifest['limits'])
  checkDigest(manifest['payload'], 'payload')
  if (manifest['documents'] !== undefined) checkDigest(manifest['documents'], 'documents')
  return raw as Manifest
}

function checkDigest(raw: unknown, what: string): void {
  const digest = record(raw, what)
  rule(typeof digest['sha256'] === 'string' && /^[0-9a-f]{64}$/.test(digest['sha256']), `${what}.sha256 must be 64 hex digits`)
  rule(Number.isSafeInteger(digest['sizeBytes']) && (digest['sizeBytes'] as number) >= 0, `${what}.sizeBytes must be a length`)
}

/** Whether `name` can name a service: it becomes a directory name and a log field. */
export function isServiceName(name: unknown): name is string {
  return typeof name === 'string' && /^[a-z][a-z0-9-]*$/.test(name) && name.length <= MANIFEST_LIMITS.nameCharsMax && name !== 'agent'
}

function checkMethod(method: Record<string, unknown>, paths: Set<unknown>): void {
  const { path, kind, resumable, mutates } = method
  rule(typeof path === 'string' && /^\/[A-Za-z0-9_.]+\/[A-Za-z0-9_]+$/.test(path), 'methods[].path must be /package.Service/Method')
  rule(!paths.has(path), `method ${String(path)} is declared twice`)
  paths.add(path)
  rule(METHOD_KINDS.includes(kind as never), `methods[].kind must be of ${METHOD_KINDS.join(', ')}`)
  rule(resumable === undefined || (resumable === true && kind === 'serverStream'), 'methods[].resumable is for server streams')
  rule(mutates === undefined || typeof mutates === 'boolean', 'methods[].mutates must be true or false')
}

function checkProvides(raw: unknown, paths: Set<unknown>): void {
  if (raw === undefined) return
  const own = new Set([...paths].map((path) => apiOf(String(path))))
  for (const [api, version] of Object.entries(record(raw, 'provides'))) {
    rule(own.has(api), `provides names ${api}, of which it declares no method`)
    rule(typeof version === 'string' && semver.valid(version) === version, `provides.${api} must be SemVer`)
  }
}

function checkRequires(raw: unknown): void {
  if (raw === undefined) return
  const requires = record(raw, 'requires')
  const unknown = Object.keys(requires).find((key) => key !== 'kernel' && key !== 'apis')
  rule(unknown === undefined, `unknown field requires.${unknown}`)
  rule(requires['kernel'] === undefined || isRange(requires['kernel']), 'requires.kernel must be a SemVer range')
  const apis = Object.entries(record(requires['apis'] ?? {}, 'requires.apis'))
  rule(apis.length <= MANIFEST_LIMITS.requiredApisMax, `requires.apis must have at most ${MANIFEST_LIMITS.requiredApisMax} entries`)
  for (const [api, range] of apis) rule(/^[A-Za-z0-9_.]+$/.test(api) && isRange(range), `requires.apis.${api} must be a SemVer range`)
}

function checkLimits(raw: unknown): void {
  if (raw === undefined) return
  for (const [name, value] of Object.entries(record(raw, 'limits'))) {
    const bounds = Object.hasOwn(SERVICE_LIMITS, name) ? SERVICE_LIMITS[name as keyof ServiceLimits] : undefined
    rule(bounds !== undefined, `unknown field limits.${name}`)
    const { min, max } = bounds as { min: number; max: number }
    rule(Number.isInteger(value) && (value as number) >= min && (value as number) <= max, `limits.${name} must be ${min} to ${max}`)
  }
}

const isRange = (value: unknown) => typeof value === 'string' && value.length <= 100 && semver.validRange(value) !== null

/** The gRPC service of a method's path: "/offbox.v1.Telemetry/Get" is of "offbox.v1.Telemetry". */
export function apiOf(path: string): string {
  return path.split('/')[1] ?? ''
}

/** The APIs a version serves, by gRPC service name, with their versions. */
export function providedBy(manifest: Pick<Manifest, 'methods' | 'version' | 'provides'>): ReadonlyMap<string, string> {
  return new Map(manifest.methods.map(({ path }) => [apiOf(path), manifest.provides?.[apiOf(path)] ?? manifest.version]))
}

/** The bounds of a version, its manifest's or the defaults. */
export function limitsOf(manifest: Pick<Manifest, 'limits' | 'heapMbMax'>): ServiceLimits {
  const defaults = Object.fromEntries(Object.entries(SERVICE_LIMITS).map(([name, { usual }]) => [name, usual])) as unknown as ServiceLimits
  // Room outside the heap for the worker itself and for messages under way.
  return { ...defaults, memoryMbMax: manifest.heapMbMax * 2 + 64, ...manifest.limits }
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
