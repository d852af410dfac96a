/** gRPC metadata as it crosses between service and agent, and as handlers see it. */

// Taken when the module is loaded: a sandbox may remove the global later.
const NodeBuffer = Buffer

/** Keys in lower case; those in "-bin" have values of bytes, all others of printable ASCII. A list: the key several times. */
export type Metadata = Readonly<Record<string, string | Uint8Array | readonly (string | Uint8Array)[]>>

/** As it crosses: what HTTP/2 carries, bytes in base64. */
export type Fields = Readonly<Record<string, string | string[]>>

export const METADATA_LIMITS = {
  keysMax: 64,
  keyCharsMax: 64,
  /** All keys and values; clients refuse header blocks of more than 8 to 16 KiB. */
  charsMax: 8 * 1024,
} as const

/** What the protocol, or the agent, says itself. */
const RESERVED: ReadonlySet<string> = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade', 'http2-settings', 'te', 'host', 'date'],
  ...['content-type', 'content-length', 'content-encoding', 'offbox-error'],
])

/** @throws TypeError naming what may not be sent: a bug of the service */
export function toFields(metadata: Metadata): Fields {
  const fields: Record<string, string | string[]> = {}
  for (const [key, value] of Object.entries(metadata)) {
    const values = (Array.isArray(value) ? value : [value]) as readonly (string | Uint8Array)[]
    fields[key] = values.map((one) => {
      const binary = key.endsWith('-bin')
      if (binary ? !(one instanceof Uint8Array) : typeof one !== 'string') throw new TypeError(`metadata ${key} must be ${binary ? 'bytes' : 'text'}`)
      return typeof one === 'string' ? one : base64Of(one)
    })
  }
  if (!isFields(fields)) throw new TypeError('metadata that may not be sent: a key or value breaks the rules of gRPC, is reserved, or there is too much')
  return fields
}

/** Whether the agent may send it as it is. */
export function isFields(raw: unknown): raw is Fields {
  if (typeof raw !== 'object' || raw === null) return false
  const entries = Object.entries(raw)
  if (entries.length > METADATA_LIMITS.keysMax) return false
  let chars = 0
  for (const [key, value] of entries) {
    if (!/^[0-9a-z_.-]+$/.test(key) || key.length > METADATA_LIMITS.keyCharsMax || key.startsWith('grpc-') || RESERVED.has(key)) return false
    for (const one of Array.isArray(value) ? value : [value]) {
      if (typeof one !== 'string' || !(key.endsWith('-bin') ? /^[A-Za-z0-9+/=]*$/ : /^[\x20-\x7e]*$/).test(one)) return false
      chars += key.length + one.length
    }
  }
  return chars <= METADATA_LIMITS.charsMax
}

/** Whether one field may go with a call that a service makes of another. Keys that begin with "offbox-" are the agent's. */
export function isCallField(key: string, value: unknown, valueCharsMax: number): value is string {
  return /^[0-9a-z_.-]{1,64}$/.test(key) && !key.startsWith('offbox-') && typeof value === 'string' && value.length <= valueCharsMax
}

/** The textual part of what a client sent. */
export function textOf(metadata: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  let text = metadata
  for (const key in metadata) {
    if (!key.endsWith('-bin')) continue
    if (text === metadata) text = { ...metadata }
    delete (text as Record<string, string>)[key]
  }
  return text
}

/** The binary part of what a client sent; keys with their "-bin". */
export function binaryOf(metadata: Readonly<Record<string, string>>): Readonly<Record<string, readonly Uint8Array[]>> {
  const binary: Record<string, Uint8Array[]> = {}
  for (const [key, value] of Object.entries(metadata)) {
    // A copy: small buffers share a pool, which is not for services to see.
    if (key.endsWith('-bin')) binary[key] = value.split(',').map((one) => new Uint8Array(NodeBuffer.from(one.trim(), 'base64')))
  }
  return binary
}

export function base64Of(bytes: Uint8Array): string {
  return NodeBuffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
}
