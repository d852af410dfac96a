/** Text codecs and URLs over Node's, whose objects stay private. */
import { guarded } from './guard.ts'

// Taken when the module is loaded: the globals go away.
const { TextEncoder: NodeTextEncoder, TextDecoder: NodeTextDecoder, URL: NodeUrl, URLSearchParams: NodeUrlSearchParams } = globalThis
const encoder = new NodeTextEncoder()

export class TextEncoder {
  get encoding(): string {
    return 'utf-8'
  }

  encode(text = ''): Uint8Array {
    return encoder.encode(`${text}`)
  }

  encodeInto(text: string, bytes: Uint8Array): { read: number; written: number } {
    return guarded(() => encoder.encodeInto(`${text}`, bytes))
  }
}

export class TextDecoder {
  readonly #decoder: InstanceType<typeof NodeTextDecoder>

  constructor(encoding?: string, options?: { fatal?: boolean; ignoreBOM?: boolean }) {
    this.#decoder = guarded(() => new NodeTextDecoder(encoding, options))
  }

  get encoding(): string {
    return this.#decoder.encoding
  }

  get fatal(): boolean {
    return this.#decoder.fatal
  }

  get ignoreBOM(): boolean {
    return this.#decoder.ignoreBOM
  }

  decode(bytes?: Uint8Array, options?: { stream?: boolean }): string {
    return guarded(() => this.#decoder.decode(bytes, options))
  }
}

let paramsOver: (params: InstanceType<typeof NodeUrlSearchParams>) => URLSearchParams

const PARTS = ['href', 'protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'hash'] as const

/** As WHATWG has it, but for object URLs. */
export class URL {
  readonly #url: InstanceType<typeof NodeUrl>
  readonly #params: URLSearchParams
  declare href: string

  constructor(url: unknown, base?: unknown) {
    this.#url = guarded(() => (base === undefined ? new NodeUrl(`${url}`) : new NodeUrl(`${url}`, `${base}`)))
    this.#params = paramsOver(this.#url.searchParams)
  }

  static canParse(url: unknown, base?: unknown): boolean {
    return base === undefined ? NodeUrl.canParse(`${url}`) : NodeUrl.canParse(`${url}`, `${base}`)
  }

  static parse(url: unknown, base?: unknown): URL | null {
    return URL.canParse(url, base) ? new URL(url, base) : null
  }

  get origin(): string {
    return this.#url.origin
  }

  get searchParams(): URLSearchParams {
    return this.#params
  }

  toString(): string {
    return this.#url.href
  }

  toJSON(): string {
    return this.#url.href
  }

  static {
    for (const part of PARTS) {
      Object.defineProperty(URL.prototype, part, {
        get(this: URL) {
          return this.#url[part]
        },
        set(this: URL, value: unknown) {
          guarded(() => {
            this.#url[part] = `${value}`
          })
        },
        enumerable: true,
        configurable: true,
      })
    }
  }
}

export class URLSearchParams {
  #params: InstanceType<typeof NodeUrlSearchParams>

  /** Text, pairs or a record. */
  constructor(init: unknown = '') {
    const plain = typeof init === 'object' && init !== null ? pairsOf(init) : `${init as string}`
    this.#params = new NodeUrlSearchParams(plain)
  }

  static {
    paramsOver = (params) => {
      const made = new URLSearchParams()
      made.#params = params
      return made
    }
  }

  get size(): number {
    return this.#params.size
  }

  append(name: unknown, value: unknown): void {
    this.#params.append(`${name}`, `${value}`)
  }

  delete(name: unknown, value?: unknown): void {
    if (value === undefined) this.#params.delete(`${name}`)
    else this.#params.delete(`${name}`, `${value}`)
  }

  get(name: unknown): string | null {
    return this.#params.get(`${name}`)
  }

  getAll(name: unknown): string[] {
    return this.#params.getAll(`${name}`)
  }

  has(name: unknown, value?: unknown): boolean {
    return value === undefined ? this.#params.has(`${name}`) : this.#params.has(`${name}`, `${value}`)
  }

  set(name: unknown, value: unknown): void {
    this.#params.set(`${name}`, `${value}`)
  }

  sort(): void {
    this.#params.sort()
  }

  forEach(visit: (value: string, name: string, params: URLSearchParams) => void): void {
    for (const [name, value] of this) visit(value, name, this)
  }

  *entries(): Generator<[string, string]> {
    yield* [...this.#params].map(([name, value]) => [name, value] as [string, string])
  }

  *keys(): Generator<string> {
    for (const [name] of this) yield name
  }

  *values(): Generator<string> {
    for (const [, value] of this) yield value
  }

  [Symbol.iterator](): Generator<[string, string]> {
    return this.entries()
  }

  toString(): string {
    return this.#params.toString()
  }
}

function pairsOf(init: object): [string, string][] {
  const pairs: Iterable<unknown> = Symbol.iterator in init ? (init as Iterable<unknown>) : Object.entries(init)
  return Array.from(pairs, (pair) => {
    const [name, value] = pair as [unknown, unknown]
    return [`${name}`, `${value}`]
  })
}
