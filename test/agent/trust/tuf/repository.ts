/** A repository in memory, with real keys, that can be made to publish anything: also what no honest one would. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import { canonicalJson } from '../../../../core/tuf/canonical-json.ts'
import { tufKeyId, tufKeyOf } from '../../../../core/tuf/keys.ts'
import { fileName, servicePaths, serviceRole, targetPath } from '../../../../core/tuf/metadata.ts'
import type { MetadataFile, MetadataPush } from '../../../../core/tuf/push.ts'

// biome-ignore lint/suspicious/noExplicitAny: metadata of any shape is what this is for
export type Loose = any

export interface Key {
  readonly keyid: string
  readonly publicKey: Uint8Array
  readonly key: object
  sign(message: Uint8Array): Uint8Array
}

export function makeKey(): Key {
  // Not tweetnacl, as in the product: tests sign a lot, and this is a hundred times faster.
  const pair = generateKeyPairSync('ed25519')
  const publicKey = new Uint8Array(Buffer.from(pair.publicKey.export({ format: 'jwk' }).x ?? '', 'base64url'))
  const key = tufKeyOf(publicKey)
  return { keyid: tufKeyId(key), publicKey, key, sign: (message) => new Uint8Array(sign(null, message, pair.privateKey)) }
}

/** When the repositories of tests are made; the image a little earlier. */
export const BORN_MS = Date.parse('2026-01-01T00:00:00Z')
export const DAY_MS = 24 * 3600_000
export const timeText = (atMs: number) => new Date(atMs).toISOString().replace('.000Z', 'Z')

/** 300 bytes that stand for a bundle. */
export function bundleOf(service: string, version: string): Uint8Array {
  return new TextEncoder().encode(`bundle of ${service} ${version} `.padEnd(300, '.'))
}

export class Repository {
  nowMs = BORN_MS
  readonly signers: Record<string, Key[]> = {}
  /** `signed` parts, by role: change them before `publish`. */
  readonly roles: Record<string, Loose> = {}
  /** Files by name, all that were ever published. */
  readonly files = new Map<string, Uint8Array>()
  /** Bytes of every timestamp, in order. */
  readonly timestamps: Uint8Array[] = []

  constructor() {
    this.roles['root'] = { _type: 'root', spec_version: '1.0.31', version: 0, expires: this.#expires(3650), consistent_snapshot: true, keys: {}, roles: {} }
    this.roles['timestamp'] = { _type: 'timestamp', spec_version: '1.0.31', version: 0, expires: this.#expires(7), issued: timeText(this.nowMs), meta: {} }
    this.roles['snapshot'] = { _type: 'snapshot', spec_version: '1.0.31', version: 0, expires: this.#expires(365), meta: {} }
    this.roles['targets'] = { ...this.#emptyTargets(), delegations: { keys: {}, roles: [] } }
    this.setKeys('root', [makeKey(), makeKey(), makeKey()], 2)
    // Two sign; the third is in a safe.
    this.signers['root']?.pop()
    for (const role of ['timestamp', 'snapshot', 'targets']) this.setKeys(role, [makeKey()], 1)
    this.publish('root', 'targets', 'snapshot', 'timestamp')
  }

  /** Version 1 of the root. */
  get anchor(): Uint8Array {
    return this.file('1.root.json')
  }

  file(name: string): Uint8Array {
    const bytes = this.files.get(name)
    if (!bytes) throw new Error(`no ${name}`)
    return bytes
  }

  /** Gives a role other keys; the root or the delegating role has to be published for it. */
  setKeys(role: string, keys: readonly Key[], threshold: number, delegator = 'targets'): void {
    this.signers[role] = [...keys]
    const entry = { keyids: keys.map(({ keyid }) => keyid), threshold }
    const top = Object.hasOwn({ root: 1, timestamp: 1, snapshot: 1, targets: 1 }, role)
    const holder = top ? this.roles['root'] : this.roles[delegator].delegations
    for (const { keyid, key } of keys) holder.keys[keyid] = key
    if (top) holder.roles[role] = entry
    else Object.assign(this.delegation(role, delegator), entry)
  }

  delegation(role: string, delegator = 'targets'): Loose {
    return this.roles[delegator].delegations.roles.find(({ name }: Loose) => name === role)
  }

  /** Delegates `paths` to a role that is made when it is not there. */
  delegate(role: string, paths: readonly string[], { delegator = 'targets', terminating = true, keys = [makeKey()] } = {}): void {
    this.roles[role] ??= this.#emptyTargets()
    const from = this.roles[delegator]
    from.delegations ??= { keys: {}, roles: [] }
    from.delegations.roles.push({ name: role, paths: [...paths], terminating, keyids: [], threshold: 1 })
    this.setKeys(role, keys, 1, delegator)
  }

  /** A service with its own role. */
  addService(service: string): string {
    const role = serviceRole(service)
    this.delegate(role, [servicePaths(service)])
    return role
  }

  /** Lists a bundle in its service's role (or another) and publishes what is needed. */
  release(service: string, version: string, { role = serviceRole(service), bytes = bundleOf(service, version) } = {}): string {
    if (!this.roles[role]) this.addService(service)
    const path = targetPath(service, version)
    this.list(role, path, bytes, { service, version, manifestSha256: sha256(bytes) })
    this.publish(role, 'targets', 'snapshot', 'timestamp')
    return path
  }

  list(role: string, path: string, bytes: Uint8Array, custom: object = {}): void {
    this.roles[role].targets[path] = { length: bytes.length, hashes: { sha256: sha256(bytes) }, custom }
  }

  /** Raises each role's version, signs it with all its keys, and notes it in snapshot or timestamp: in the order given. */
  publish(...roles: readonly string[]): void {
    for (const role of roles) {
      this.roles[role].version += 1
      this.write(role)
    }
  }

  /** Signs a role as it stands, keeping its version. */
  write(role: string, signers: readonly Key[] = this.signers[role] ?? []): Uint8Array {
    const signed = this.roles[role]
    if (role === 'timestamp') Object.assign(signed, { expires: this.#expires(7), issued: timeText(this.nowMs) })
    const bytes = seal(signed, signers)
    this.put(role, bytes)
    return bytes
  }

  /** Puts a file under its role's present version, whatever it holds; snapshot and timestamp will name it. */
  put(role: string, bytes: Uint8Array): void {
    const { version } = this.roles[role]
    this.files.set(fileName(role, version), bytes)
    if (role === 'timestamp') this.timestamps.push(bytes)
    const meta = { version, length: bytes.length, hashes: { sha256: sha256(bytes) } }
    if (role === 'snapshot') this.roles['timestamp'].meta['snapshot.json'] = meta
    else if (role !== 'root' && role !== 'timestamp') this.roles['snapshot'].meta[`${role}.json`] = meta
  }

  /** New keys for a role, published. The old ones are returned. */
  rotate(role: string, threshold = this.roles['root'].roles[role].threshold): Key[] {
    const old = this.signers[role] ?? []
    const keys = old.map(() => makeKey())
    this.setKeys(role, keys, threshold)
    this.roles['root'].version += 1
    if (role === 'root') this.write('root', [...old, ...keys])
    else this.write('root')
    return old
  }

  /** What a controller sends: every root after the first, and the newest of all else. */
  push(replace: Readonly<Record<string, Uint8Array | null>> = {}): MetadataPush {
    const names = Array.from({ length: this.roles['root'].version - 1 }, (_, index) => `${index + 2}.root.json`)
    names.push('timestamp.json', fileName('snapshot', this.roles['snapshot'].version))
    for (const role of Object.keys(this.roles)) {
      if (!['root', 'timestamp', 'snapshot'].includes(role)) names.push(fileName(role, this.roles[role].version))
    }
    const files = new Map(names.flatMap((name) => (this.files.has(name) ? [[name, this.file(name)] as const] : [])))
    for (const [name, bytes] of Object.entries(replace)) {
      if (bytes) files.set(name, bytes)
      else files.delete(name)
    }
    return { files: [...files].map(([name, bytes]): MetadataFile => ({ name, bytes })) }
  }

  #emptyTargets() {
    return { _type: 'targets', spec_version: '1.0.31', version: 0, expires: this.#expires(365), targets: {} }
  }

  #expires(days: number): string {
    return timeText(this.nowMs + days * DAY_MS)
  }
}

/** A file: `signed` with signatures over its canonical form. */
export function seal(signed: object, signers: readonly Key[], over = new TextEncoder().encode(canonicalJson(signed))): Uint8Array {
  const signatures = signers.map(({ keyid, sign }) => ({ keyid, sig: Buffer.from(sign(over)).toString('hex') }))
  return new TextEncoder().encode(JSON.stringify({ signed, signatures }))
}

/** Changes a file without signing it again. */
export function tampered(bytes: Uint8Array, change: (file: Loose) => void): Uint8Array {
  const file = JSON.parse(Buffer.from(bytes).toString('utf8'))
  change(file)
  return new TextEncoder().encode(JSON.stringify(file))
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
