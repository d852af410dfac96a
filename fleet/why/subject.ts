/** What `offbox why` was asked about. Pure. */
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'

/** The name under which the agent itself is asked about. */
export const AGENT = 'agent'

export type Subject =
  | { readonly kind: 'service'; readonly service: string }
  /** A gRPC method or one of its services: whichever service of the device serves it is found there. */
  | { readonly kind: 'method'; readonly path: string }
  /** A place in the configuration of a service. */
  | { readonly kind: 'config'; readonly service: string; readonly path: readonly string[] }

const pathCharsMax = 512

/**
 * "telemetry", "/offbox.v1.Telemetry/Get", "routing:neighbors.sw2.peerAs" or, as a JSON pointer (RFC 6901), "routing:/neighbors/0/peerAs".
 * @throws ARGUMENT_INVALID none of these
 */
export function parseSubject(text: string): Subject {
  const refuse = (why: string) =>
    new OffboxError(
      'ARGUMENT_INVALID',
      `${JSON.stringify(text.slice(0, 80))} ${why}: name a service, /package.Service/Method, or service:path of its configuration`,
    )
  if (text.length > pathCharsMax) throw refuse('is too long')
  if (/^\/[\w.]+\/\w+$/.test(text)) return { kind: 'method', path: text }
  if (text === AGENT || isServiceName(text)) return { kind: 'service', service: text }
  const [, service = '', path = ''] = /^([^:/]+):(.*)$/s.exec(text) ?? []
  if (!isServiceName(service)) throw refuse('is nothing that runs on a device')
  return { kind: 'config', service, path: stepsOf(path) }
}

function stepsOf(path: string): string[] {
  if (path === '' || path === '/') return []
  if (path.startsWith('/')) {
    return path
      .slice(1)
      .split('/')
      .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))
  }
  return path.split('.')
}

/** A value in a document, or where the path leaves it and what there is instead. */
export type Lookup = { readonly value: unknown } | { readonly at: string; readonly choices: readonly string[] }

/** Entries of a list go by their number, their `name` or their `prefix`. */
export function lookUp(document: unknown, path: readonly string[]): Lookup {
  let value = document
  for (const [index, step] of path.entries()) {
    const next = stepInto(value, step)
    if (!next) return { at: path.slice(0, index).join('.'), choices: choicesOf(value) }
    value = next.value
  }
  return { value }
}

function stepInto(value: unknown, step: string): { value: unknown } | null {
  if (Array.isArray(value)) {
    const found = /^\d{1,6}$/.test(step) ? value[Number(step)] : value.find((one) => namesOf(one).includes(step))
    return found === undefined ? null : { value: found }
  }
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, step)) return null
  const found: unknown = Reflect.get(value, step)
  // Fields that were left out are undefined in a decoded message.
  return found === undefined || typeof found === 'function' ? null : { value: found }
}

const choicesMax = 20

function choicesOf(value: unknown): string[] {
  if (Array.isArray(value)) return value.slice(0, choicesMax).map((one, index) => namesOf(one)[0] ?? String(index))
  if (typeof value !== 'object' || value === null) return []
  return Object.keys(value).filter((key) => stepInto(value, key))
}

function namesOf(entry: unknown): string[] {
  if (typeof entry !== 'object' || entry === null) return []
  return ['name', 'prefix'].map((key) => Reflect.get(entry, key)).filter((name) => typeof name === 'string')
}
