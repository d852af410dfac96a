/** What an image, or a local agent, trusts from the start: public values only. `offbox init` writes it, the image carries it. */
import { OffboxError } from './errors.ts'
import { isSmallOrder, keyIdOf, type TrustedKeys } from './signing.ts'

export interface Anchors {
  /** Fleet name, a slug. */
  readonly fleet: string
  /** Certificate of the fleet CA, PEM: who may call this device, and which controller it enrols at. */
  readonly caPem: string
  /** Keys that may sign bundles and floors: keyId to raw 32 bytes. */
  readonly bundleKeys: TrustedKeys
}

/** The JSON file: {"fleet": "lab", "caPem": "...", "bundleKeys": ["<64 hex digits>", ...]}. */
export function formatAnchors(anchors: Anchors): string {
  const bundleKeys = [...anchors.bundleKeys.values()].map((key) => Buffer.from(key).toString('hex'))
  return `${JSON.stringify({ fleet: anchors.fleet, caPem: anchors.caPem, bundleKeys }, null, 2)}\n`
}

/** @throws HOME_INVALID not the JSON described above, or a key that would verify anything */
export function parseAnchors(json: string): Anchors {
  const refuse = (why: string, cause?: unknown) => new OffboxError('HOME_INVALID', `anchors.json cannot be used: ${why}`, { cause })
  let raw: { fleet?: unknown; caPem?: unknown; bundleKeys?: unknown }
  try {
    raw = JSON.parse(json)
  } catch (error) {
    throw refuse('it is not JSON', error)
  }
  if (typeof raw?.fleet !== 'string' || !/^[a-z][a-z0-9-]{0,39}$/.test(raw.fleet)) throw refuse('"fleet" must be a slug')
  if (typeof raw.caPem !== 'string' || !raw.caPem.includes('BEGIN CERTIFICATE')) throw refuse('"caPem" must be a PEM certificate')
  if (!Array.isArray(raw.bundleKeys) || raw.bundleKeys.length === 0) throw refuse('"bundleKeys" must hold at least one key')
  const bundleKeys = new Map<string, Uint8Array>()
  for (const hex of raw.bundleKeys) {
    const key = typeof hex === 'string' && /^[0-9a-f]{64}$/.test(hex) ? new Uint8Array(Buffer.from(hex, 'hex')) : null
    if (!key || isSmallOrder(key)) throw refuse(`"bundleKeys" holds ${JSON.stringify(hex)}, not a usable Ed25519 key of 64 hex digits`)
    bundleKeys.set(keyIdOf(key), key)
  }
  return { fleet: raw.fleet, caPem: raw.caPem, bundleKeys }
}
