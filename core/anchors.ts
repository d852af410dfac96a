/** What an image, or a local agent, trusts from the start: public values only. `offbox init` writes it, the image carries it. */
import { OffboxError } from './errors.ts'
import { isSmallOrder, keyIdOf, type TrustedKeys } from './signing.ts'
import { TUF_LIMITS } from './tuf/limits.ts'

export interface Anchors {
  /** Fleet name, a slug. */
  readonly fleet: string
  /** Certificate of the fleet CA, PEM: who may call this device, and which controller it enrols at. */
  readonly caPem: string
  /** Keys that may sign bundles and floors: keyId to raw 32 bytes. */
  readonly bundleKeys: TrustedKeys
  /** Undefined: an agent for development, which runs whatever a bundle key signed. There is no other way to switch the rest off. */
  readonly trust?: TrustAnchors | undefined
}

export interface TrustAnchors {
  /** The first root metadata to trust, exact text; verified when it is used. */
  readonly root: string
  /** Keys of the fleet's witness; none: the fleet has no witness. */
  readonly witnessKeys: TrustedKeys
  /** When the image was built, Unix milliseconds: no device runs before that. */
  readonly builtAtMs: number
}

/**
 * The JSON file: {"fleet": "lab", "caPem": "...", "bundleKeys": ["<64 hex digits>", ...], "trust": {"root": "<text of a root.json>",
 * "witnessKeys": ["<64 hex digits>", ...], "builtAtMs": 1790000000000}}.
 */
export function formatAnchors({ fleet, caPem, bundleKeys, trust }: Anchors): string {
  const hex = (keys: TrustedKeys) => [...keys.values()].map((key) => Buffer.from(key).toString('hex'))
  const more = trust && { root: trust.root, witnessKeys: hex(trust.witnessKeys), builtAtMs: trust.builtAtMs }
  return `${JSON.stringify({ fleet, caPem, bundleKeys: hex(bundleKeys), trust: more }, null, 2)}\n`
}

/** @throws HOME_INVALID not the JSON described above, or a key that would verify anything */
export function parseAnchors(json: string): Anchors {
  const refuse = (why: string, cause?: unknown) => new OffboxError('HOME_INVALID', `anchors.json cannot be used: ${why}`, { cause })
  let raw: { fleet?: unknown; caPem?: unknown; bundleKeys?: unknown; trust?: unknown }
  try {
    raw = JSON.parse(json)
  } catch (error) {
    throw refuse('it is not JSON', error)
  }
  if (typeof raw?.fleet !== 'string' || !/^[a-z][a-z0-9-]{0,39}$/.test(raw.fleet)) throw refuse('"fleet" must be a slug')
  if (typeof raw.caPem !== 'string' || !raw.caPem.includes('BEGIN CERTIFICATE')) throw refuse('"caPem" must be a PEM certificate')
  if (!Array.isArray(raw.bundleKeys) || raw.bundleKeys.length === 0) throw refuse('"bundleKeys" must hold at least one key')
  const bundleKeys = parseKeys(raw.bundleKeys, 'bundleKeys', refuse)
  return { fleet: raw.fleet, caPem: raw.caPem, bundleKeys, trust: raw.trust === undefined ? undefined : parseTrust(raw.trust, refuse) }
}

type Refuse = (why: string) => OffboxError

function parseTrust(raw: unknown, refuse: Refuse): TrustAnchors {
  const { root, witnessKeys, builtAtMs } = (raw ?? {}) as { [key: string]: unknown }
  if (typeof root !== 'string' || root === '' || root.length > TUF_LIMITS.rootBytesMax) throw refuse('"trust.root" must be the text of a root.json')
  if (!Array.isArray(witnessKeys)) throw refuse('"trust.witnessKeys" must be a list of keys')
  if (!Number.isSafeInteger(builtAtMs) || (builtAtMs as number) < 0) throw refuse('"trust.builtAtMs" must be Unix milliseconds')
  return { root, witnessKeys: parseKeys(witnessKeys, 'trust.witnessKeys', refuse), builtAtMs: builtAtMs as number }
}

function parseKeys(list: readonly unknown[], what: string, refuse: Refuse): TrustedKeys {
  const keys = new Map<string, Uint8Array>()
  for (const hex of list) {
    const key = typeof hex === 'string' && /^[0-9a-f]{64}$/.test(hex) ? new Uint8Array(Buffer.from(hex, 'hex')) : null
    if (!key || isSmallOrder(key)) throw refuse(`"${what}" holds ${JSON.stringify(hex)}, not a usable Ed25519 key of 64 hex digits`)
    keys.set(keyIdOf(key), key)
  }
  return keys
}
