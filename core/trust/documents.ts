/** The metadata that a client has accepted, as exact bytes: what it keeps between two updates, and verifies anew at each. */
import { OffboxError } from '../errors.ts'
import { parseBounded } from '../tuf/bounded-json.ts'

export interface Documents {
  /** Roots after the anchored one, without a gap. Kept, so that the newest is believed for its chain and not for lying in the store. */
  readonly roots: readonly Uint8Array[]
  readonly timestamp: Uint8Array | null
  readonly snapshot: Uint8Array | null
  /** "targets" and delegated roles, by name. */
  readonly targets: ReadonlyMap<string, Uint8Array>
}

export const NO_DOCUMENTS: Documents = { roots: [], timestamp: null, snapshot: null, targets: new Map() }

/** Where documents come from; null: there is none, as a server's 404 says it. Whatever comes is unverified. */
export interface MetadataSource {
  /** @param bytesMax reading may stop beyond it */
  root(version: number, bytesMax: number): Promise<Uint8Array | null>
  timestamp(bytesMax: number): Promise<Uint8Array | null>
  /** @param version undefined where the repository has no consistent snapshots */
  snapshot(version: number | undefined, bytesMax: number): Promise<Uint8Array | null>
  targets(role: string, version: number | undefined, bytesMax: number): Promise<Uint8Array | null>
}

/** A source that has nothing: for verifying what is stored, with nobody to ask. */
export const NO_SOURCE: MetadataSource = {
  root: async () => null,
  timestamp: async () => null,
  snapshot: async () => null,
  targets: async () => null,
}

/** The files of a push (`filesOf`) as a source. Asking for what it lacks is not an error here: which file may lack is the workflow's to say. */
export function sourceOf(files: ReadonlyMap<string, Uint8Array>): MetadataSource {
  const find = async (name: string) => files.get(name) ?? null
  const versioned = (role: string, version: number | undefined) => (version === undefined ? `${role}.json` : `${version}.${role}.json`)
  return {
    root: async (version) => await find(versioned('root', version)),
    timestamp: async () => await find('timestamp.json'),
    snapshot: async (version) => await find(versioned('snapshot', version)),
    targets: async (role, version) => await find(versioned(role, version)),
  }
}

/** All documents in bytes. */
export function sizeOf({ roots, timestamp, snapshot, targets }: Documents): number {
  return [...roots, ...targets.values(), ...(timestamp ? [timestamp] : []), ...(snapshot ? [snapshot] : [])].reduce((sum, { length }) => sum + length, 0)
}

/** As JSON, documents in base64. */
export function packDocuments({ roots, timestamp, snapshot, targets }: Documents): object {
  const text = (bytes: Uint8Array | null) => (bytes ? Buffer.from(bytes).toString('base64') : null)
  const named = Object.fromEntries([...targets].map(([role, bytes]) => [role, text(bytes)]))
  return { roots: roots.map(text), timestamp: text(timestamp), snapshot: text(snapshot), targets: named }
}

export function sameDocuments(one: Documents, other: Documents): boolean {
  return JSON.stringify(packDocuments(one)) === JSON.stringify(packDocuments(other))
}

/** Checks the shape only: what it holds is as unverified as before. @throws STORE_CORRUPT */
export function unpackDocuments(raw: unknown): Documents {
  const { roots, timestamp, snapshot, targets } = (raw ?? {}) as { [key: string]: unknown }
  const named = typeof targets === 'object' && targets !== null ? Object.entries(targets) : null
  if (!Array.isArray(roots) || !named) throw corrupt()
  return {
    roots: roots.map(bytesOf),
    timestamp: timestamp === null ? null : bytesOf(timestamp),
    snapshot: snapshot === null ? null : bytesOf(snapshot),
    targets: new Map(named.map(([role, text]) => [role, bytesOf(text)])),
  }
}

/** Parses a stored JSON object within bounds. @throws STORE_CORRUPT */
export function parseStored(bytes: Uint8Array, bytesMax: number): Record<string, unknown> {
  try {
    const raw = parseBounded(bytes, bytesMax, 'the store')
    if (typeof raw === 'object' && raw !== null && !Array.isArray(raw)) return raw as Record<string, unknown>
  } catch (error) {
    throw corrupt(error)
  }
  throw corrupt()
}

function bytesOf(text: unknown): Uint8Array {
  if (typeof text !== 'string' || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) throw corrupt()
  return new Uint8Array(Buffer.from(text, 'base64'))
}

function corrupt(cause?: unknown): OffboxError {
  return new OffboxError('STORE_CORRUPT', 'stored metadata is not in the shape it is stored in', { cause })
}
