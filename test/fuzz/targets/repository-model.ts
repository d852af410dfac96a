/**
 * A repository as one JSON value that can be changed at will, and is then published: with right lengths and hashes, and signed by the right
 * keys. So a change reaches as deep as a thief of all keys could reach. Keys are fixed: the same value is the same files in every run.
 */
import { createHash, createPrivateKey, type KeyObject, sign } from 'node:crypto'
import { canonicalJson } from '../../../core/tuf/canonical-json.ts'
import { tufKeyId, tufKeyOf } from '../../../core/tuf/keys.ts'
import type { MetadataFile, MetadataPush } from '../../../core/tuf/push.ts'

/** In place of what is said of a file: {"$": "telemetry's role"} becomes its version, length and hash. */
const REFERENCE = '$'

interface FixedKey {
  readonly keyid: string
  readonly key: object
  readonly privateKey: KeyObject
  readonly publicKey: Uint8Array
}

function fixedKey(name: string): FixedKey {
  const seed = createHash('sha256').update(name).digest('hex')
  const privateKey = createPrivateKey({ key: Buffer.from(`302e020100300506032b657004220420${seed}`, 'hex'), format: 'der', type: 'pkcs8' })
  const publicKey = new Uint8Array(Buffer.from(privateKey.export({ format: 'jwk' }).x ?? '', 'base64url'))
  const key = tufKeyOf(publicKey)
  return { keyid: tufKeyId(key), key, privateKey, publicKey }
}

const NAMES = ['root-1', 'root-2', 'root-3', 'timestamp', 'snapshot', 'targets', 'telemetry', 'routing'] as const
const KEYS = new Map(NAMES.map((name) => [name as string, fixedKey(name)]))
const keyOf = (name: string) => KEYS.get(name) as FixedKey
const idOf = (name: string) => keyOf(name).keyid
const keysOf = (...names: string[]) => Object.fromEntries(names.map((name) => [idOf(name), keyOf(name).key]))
const only = (name: string) => ({ keyids: [idOf(name)], threshold: 1 })
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** When it was published; a device's trusted time is this. */
export const PUBLISHED_MS = Date.parse('2026-06-01T00:00:00Z')
const expires = '2027-01-01T00:00:00Z'
const common = { spec_version: '1.0.31', version: 1, expires }
export const POLICY = { version: 1, services: { telemetry: { keys: ['ab'.repeat(32)], capabilities: ['proc'], tiers: ['worker'] } } }
const policyBytes = (policy: unknown) => new TextEncoder().encode(JSON.stringify(policy))

const target = (service: string, version: string) => ({
  [`services/${service}/${version}.offbox`]: {
    length: 300,
    hashes: { sha256: sha256(Buffer.from(service + version)) },
    custom: { service, version, manifestSha256: 'cd'.repeat(32) },
  },
})
const delegation = (service: string) => ({ name: `service-${service}`, ...only(service), paths: [`services/${service}/*.offbox`], terminating: true })
const root = (version: number) => ({
  ...{ _type: 'root', ...common, version, consistent_snapshot: true, keys: keysOf('root-1', 'root-2', 'root-3', 'timestamp', 'snapshot', 'targets') },
  roles: {
    root: { keyids: [idOf('root-1'), idOf('root-2'), idOf('root-3')], threshold: 2 },
    timestamp: only('timestamp'),
    snapshot: only('snapshot'),
    targets: only('targets'),
  },
})

/** What is changed. Roles are published in this order; `signers` says by which keys. */
export const MODEL = {
  roots: [root(2)],
  delegated: {
    'service-telemetry': { _type: 'targets', ...common, targets: { ...target('telemetry', '1.0.0'), ...target('telemetry', '1.1.0') } },
    'service-routing': { _type: 'targets', ...common, targets: target('routing', '2.0.0') },
  },
  targets: {
    ...{ _type: 'targets', ...common, targets: { 'policy/device.json': { [REFERENCE]: 'policy' } } },
    delegations: { keys: keysOf('telemetry', 'routing'), roles: [delegation('telemetry'), delegation('routing')] },
  },
  snapshot: {
    ...{ _type: 'snapshot', ...common },
    meta: {
      'targets.json': { [REFERENCE]: 'targets' },
      'service-telemetry.json': { [REFERENCE]: 'service-telemetry' },
      'service-routing.json': { [REFERENCE]: 'service-routing' },
    },
  },
  timestamp: { _type: 'timestamp', ...common, issued: '2026-05-31T00:00:00Z', meta: { 'snapshot.json': { [REFERENCE]: 'snapshot' } } },
  signers: {
    ...{ roots: ['root-1', 'root-2'], targets: ['targets'], snapshot: ['snapshot'], timestamp: ['timestamp'] },
    ...{ 'service-telemetry': ['telemetry'], 'service-routing': ['routing'] },
  },
  policy: POLICY as unknown,
  paths: ['services/telemetry/1.1.0.offbox', 'services/routing/2.0.0.offbox'],
}

/** Version 1 of the root: in the image, not to be changed. */
export const ANCHOR = sealed(root(1), ['root-1', 'root-2'])

export interface PublishedModel {
  readonly push: MetadataPush
  readonly paths: readonly string[]
  readonly policy: Uint8Array
}

/** Never throws for what the value holds: what is no document is published as it is. */
export function publish(raw: unknown): PublishedModel {
  const model = fields(raw)
  const signers = fields(model['signers'])
  const files: MetadataFile[] = []
  const described = new Map<string, object>()
  const add = (role: string, content: unknown, by: unknown, name: (version: number) => string): void => {
    const bytes = sealed(resolved(content, described), Array.isArray(by) ? by : [])
    const { version } = fields(content)
    described.set(role, { version, length: bytes.length, hashes: { sha256: sha256(bytes) } })
    files.push({ name: name(typeof version === 'number' ? version : 1), bytes })
  }
  const policy = policyBytes(model['policy'] ?? null)
  described.set('policy', { length: policy.length, hashes: { sha256: sha256(policy) } })
  for (const one of list(model['roots'])) add('root', one, signers['roots'], (version) => `${version}.root.json`)
  for (const [role, one] of Object.entries(fields(model['delegated']))) add(role, one, signers[role], (version) => `${version}.${role}.json`)
  add('targets', model['targets'], signers['targets'], (version) => `${version}.targets.json`)
  add('snapshot', model['snapshot'], signers['snapshot'], (version) => `${version}.snapshot.json`)
  add('timestamp', model['timestamp'], signers['timestamp'], () => 'timestamp.json')
  return { push: { files }, policy, paths: list(model['paths']).filter((path) => typeof path === 'string') }
}

function resolved(value: unknown, described: ReadonlyMap<string, object>): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((one) => resolved(one, described))
  const named = Object.keys(value).length === 1 && (value as Record<string, unknown>)[REFERENCE]
  if (typeof named === 'string') return described.get(named) ?? null
  const copy: Record<string, unknown> = {}
  for (const [key, one] of Object.entries(value)) {
    Object.defineProperty(copy, key, { value: resolved(one, described), enumerable: true, writable: true, configurable: true })
  }
  return copy
}

function sealed(signed: unknown, names: readonly unknown[]): Uint8Array {
  const message = messageOf(signed)
  const keys = names.flatMap((name) => (typeof name === 'string' && KEYS.has(name) ? [keyOf(name)] : []))
  const signatures = keys.map(({ keyid, privateKey }) => ({ keyid, sig: sign(null, message, privateKey).toString('hex') }))
  return new TextEncoder().encode(JSON.stringify({ signed, signatures }))
}

/** What has no canonical form cannot be signed for; some other bytes are. */
function messageOf(signed: unknown): Uint8Array {
  try {
    return new TextEncoder().encode(canonicalJson(signed))
  } catch {
    return new Uint8Array()
  }
}

const list = (value: unknown): unknown[] => (Array.isArray(value) ? value.slice(0, 60) : [])
const fields = (value: unknown): Record<string, unknown> => (typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {})
