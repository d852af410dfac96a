/** Finds the file that declares a name, among encoded google.protobuf.FileDescriptorProtos. Reads no more of them than names. Pure. */
import protobuf from 'protobufjs/minimal.js'

interface DescriptorFile {
  readonly name: string
  readonly dependencies: readonly string[]
  /** Full names of its services, methods, messages and enums. */
  readonly symbols: readonly string[]
  readonly bytes: Uint8Array
}

export class DescriptorIndex {
  readonly #files = new Map<string, DescriptorFile>()
  readonly #symbols = new Map<string, DescriptorFile>()

  /** What is there already wins: a bundle cannot speak for the agent's own files. One that cannot be read is left out. */
  add(bytes: Uint8Array): void {
    let file: DescriptorFile
    try {
      file = readFile(bytes)
    } catch {
      return
    }
    if (this.#files.has(file.name)) return
    this.#files.set(file.name, file)
    for (const symbol of file.symbols) if (!this.#symbols.has(symbol)) this.#symbols.set(symbol, file)
  }

  /** The file, then all that it imports; undefined: not here. */
  byName(name: string): readonly Uint8Array[] | undefined {
    const file = this.#files.get(name)
    return file && this.#withImports(file)
  }

  bySymbol(symbol: string): readonly Uint8Array[] | undefined {
    const file = this.#symbols.get(symbol.replace(/^\./, ''))
    return file && this.#withImports(file)
  }

  /** Whether any file declares it. */
  has(symbol: string): boolean {
    return this.#symbols.has(symbol)
  }

  #withImports(file: DescriptorFile): Uint8Array[] {
    const found = new Set([file])
    for (const one of found) {
      for (const name of one.dependencies) {
        const next = this.#files.get(name)
        if (next) found.add(next)
      }
    }
    return [...found].map(({ bytes }) => bytes)
  }
}

/** Field numbers of google/protobuf/descriptor.proto. */
const FILE = { name: 1, pack: 2, dependency: 3, message: 4, enumeration: 5, service: 6 } as const
const MESSAGE = { name: 1, nested: 3, enumeration: 4 } as const
const SERVICE = { name: 1, method: 2 } as const
const NESTING_MAX = 32

/** @throws Error it is no FileDescriptorProto */
function readFile(bytes: Uint8Array): DescriptorFile {
  const fields = fieldsOf(bytes)
  const text = (number: number) => (fields.get(number) ?? []).map((one) => Buffer.from(one).toString())
  const [name = ''] = text(FILE.name)
  const [pack = ''] = text(FILE.pack)
  const symbols: string[] = []
  const messages = (all: readonly Uint8Array[], scope: string, depth: number): void => {
    if (depth > NESTING_MAX) throw new Error('messages are nested too deep')
    for (const one of all) {
      const inner = fieldsOf(one)
      const full = join(scope, nameIn(inner))
      symbols.push(full)
      for (const each of inner.get(MESSAGE.enumeration) ?? []) symbols.push(join(full, nameIn(fieldsOf(each))))
      messages(inner.get(MESSAGE.nested) ?? [], full, depth + 1)
    }
  }
  messages(fields.get(FILE.message) ?? [], pack, 0)
  for (const one of fields.get(FILE.enumeration) ?? []) symbols.push(join(pack, nameIn(fieldsOf(one))))
  for (const one of fields.get(FILE.service) ?? []) {
    const inner = fieldsOf(one)
    const full = join(pack, nameIn(inner))
    symbols.push(full)
    for (const method of inner.get(SERVICE.method) ?? []) symbols.push(join(full, nameIn(fieldsOf(method))))
  }
  return { name, dependencies: text(FILE.dependency), symbols, bytes }
}

const join = (scope: string, name: string) => (scope === '' ? name : `${scope}.${name}`)
const nameIn = (fields: ReadonlyMap<number, readonly Uint8Array[]>) => Buffer.from(fields.get(MESSAGE.name)?.[0] ?? []).toString()

/** The length-delimited fields of a message, by number. */
function fieldsOf(bytes: Uint8Array): Map<number, Uint8Array[]> {
  const LENGTH_DELIMITED = 2
  const fields = new Map<number, Uint8Array[]>()
  const reader = protobuf.Reader.create(bytes)
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    if ((tag & 7) !== LENGTH_DELIMITED) reader.skipType(tag & 7)
    else {
      const all = fields.get(tag >>> 3)
      if (all) all.push(reader.bytes())
      else fields.set(tag >>> 3, [reader.bytes()])
    }
  }
  return fields
}
