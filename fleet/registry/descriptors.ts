/** What reflection gives out of a service: descriptors of the .proto files beside it, and of those of this project whose gRPC services it serves. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { appendDescriptors } from '../../core/descriptors.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { apiOf, type Manifest } from '../../core/manifest.ts'
import { describe } from '../../proto/describe.mjs'

const PROTO = join(import.meta.dirname, '../../proto')
const isProto = (name: string) => name.endsWith('.proto')

/** Names of the .proto files beside a service. */
export function protosOf(folder: string): string[] {
  return readdirSync(folder).filter(isProto).sort()
}

/** The payload with the descriptors in its last line. @throws BUNDLE_MALFORMED */
export function withDescriptors(payload: Uint8Array, folder: string, methods: Manifest['methods']): Uint8Array {
  const apis = new Set(methods.map(({ path }) => apiOf(path)))
  const serves = (name: string) =>
    [...readFileSync(join(PROTO, 'offbox/v1', name), 'utf8').matchAll(/^service\s+(\w+)/gm)].some(([, service]) => apis.has(`offbox.v1.${service}`))
  try {
    const standard = readdirSync(join(PROTO, 'offbox/v1')).filter((name) => isProto(name) && serves(name))
    const files = [...protosOf(folder).flatMap((name) => describe(folder, name)), ...standard.flatMap((name) => describe(PROTO, `offbox/v1/${name}`))]
    const unique = new Map(files.map(({ name, bytes }) => [name, bytes]))
    return new TextEncoder().encode(appendDescriptors(new TextDecoder().decode(payload), [...unique.values()]))
  } catch (error) {
    throw new OffboxError('BUNDLE_MALFORMED', `${folder}: its .proto files cannot be described: ${messageOf(error)}`, { cause: error })
  }
}
