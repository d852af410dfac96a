// Descriptors of .proto files, as gRPC reflection gives them out: each file by itself, with what it imports. Runs under any Node >= 20.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(import.meta.url)

/**
 * @param {string} folder where imports are found; names of files are relative to it
 * @param {string} file name of the file
 * @returns {{ name: string, bytes: Uint8Array }[]} encoded google.protobuf.FileDescriptorProto: the file, then all that it imports
 */
export function describe(folder, file) {
  const protobuf = require('protobufjs')
  const { FileDescriptorProto } = require('protobufjs/ext/descriptor')
  const root = new protobuf.Root()
  root.resolvePath = (_origin, target) => target
  root.fetch = () => {
    throw new Error('only read at once')
  }
  const sources = new Map()
  const load = (name) => {
    if (sources.has(name)) return
    const source = readFileSync(join(folder, name), 'utf8')
    sources.set(name, [])
    protobuf.parse.filename = name
    const { imports = [] } = protobuf.parse(source, root)
    sources.set(name, imports)
    imports.forEach(load)
  }
  load(file)
  root.resolveAll()
  const all = root.toDescriptor('proto3').file
  return [...sources].map(([name, imports]) => {
    const named = new Map()
    const collect = (item) => {
      if (item.filename === name && !(item instanceof protobuf.Namespace && item.constructor === protobuf.Namespace)) named.set(item.fullName.slice(1), item)
      for (const nested of item.nestedArray ?? []) collect(nested)
    }
    collect(root)
    const packages = all.filter((one) =>
      [...(one.messageType ?? []), ...(one.enumType ?? []), ...(one.service ?? [])].some((item) => named.has(`${one.package}.${item.name}`)),
    )
    const [own] = packages
    if (!own) return { name, bytes: FileDescriptorProto.encode(FileDescriptorProto.create({ name, dependency: imports, syntax: 'proto3' })).finish() }
    for (const message of own.messageType ?? []) complete(message, named.get(`${own.package}.${message.name}`))
    const mine = (items = []) => items.filter((item) => named.has(`${own.package}.${item.name}`))
    const described = {
      ...own,
      name,
      dependency: imports,
      messageType: mine(own.messageType),
      enumType: mine(own.enumType),
      service: mine(own.service),
      syntax: 'proto3',
    }
    return { name, bytes: FileDescriptorProto.encode(FileDescriptorProto.create(described)).finish() }
  })
}

/** Names of types in full, and entries of maps under the names that protoc gives them: stricter readers than protobufjs ask for both. */
function complete(message, type) {
  if (!type) return
  for (const field of message.field ?? []) {
    const known = type.fieldsById[field.number]
    if (!known) continue
    if (known.map) {
      const entry = message.nestedType?.find(({ name, options }) => options?.mapEntry && name === field.typeName?.split('.').at(-1))
      if (!entry) continue
      entry.name = `${field.name.replace(/(^|_)([a-z])/g, (_all, _start, letter) => letter.toUpperCase())}Entry`
      field.typeName = `${type.fullName}.${entry.name}`
      const value = entry.field.find(({ number }) => number === 2)
      if (known.resolvedType && value) value.typeName = known.resolvedType.fullName
    } else if (known.resolvedType) field.typeName = known.resolvedType.fullName
  }
  for (const nested of message.nestedType ?? []) if (!nested.options?.mapEntry) complete(nested, type.nested?.[nested.name])
}
