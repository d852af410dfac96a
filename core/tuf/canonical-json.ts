/**
 * Canonical JSON as TUF signs it (OLPC's dialect, which securesystemslib and tuf-js use): keys sorted, no white space, integers only, and
 * in strings only `"` and `\` escaped, so that a control character stands for itself. The result is therefore not always JSON.
 *
 * Stricter than its peers where these differ among themselves: key names are printable ASCII (peers sort others by code unit or by code
 * point), numbers are safe integers, strings hold no lone surrogate (UTF-8 would turn it into another character).
 */
import { OffboxError } from '../errors.ts'
import { TUF_LIMITS } from './limits.ts'

/** @throws TRUST_MALFORMED a value that has no canonical form, or one nested deeper than `depthMax` */
export function canonicalJson(value: unknown): string {
  return write(value, 0)
}

/** The bytes that a signature over `signed` is over. @throws TRUST_MALFORMED */
export function signedBytes(signed: unknown): Uint8Array {
  return new TextEncoder().encode(canonicalJson(signed))
}

function write(value: unknown, depth: number): string {
  if (depth > TUF_LIMITS.depthMax) throw refuse(`nested deeper than ${TUF_LIMITS.depthMax}`)
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'string') return quote(value)
  // -0 would be written as 0 and come back as another value.
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) return String(value)
  if (Array.isArray(value)) return `[${value.map((item) => write(item, depth + 1)).join(',')}]`
  if (typeof value === 'object') return writeObject(value as Record<string, unknown>, depth)
  throw refuse(`${typeof value === 'number' ? `the number ${value}` : typeof value} has no canonical form`)
}

function writeObject(object: Record<string, unknown>, depth: number): string {
  const names = Object.keys(object).sort()
  const odd = names.find((name) => !/^[\x20-\x7e]*$/.test(name))
  if (odd !== undefined) throw refuse(`the name ${JSON.stringify(odd)} is not printable ASCII`)
  return `{${names.map((name) => `${quote(name)}:${write(object[name], depth + 1)}`).join(',')}}`
}

function quote(text: string): string {
  if (!text.isWellFormed()) throw refuse('a string holds half a character')
  return `"${text.replace(/["\\]/g, '\\$&')}"`
}

function refuse(why: string): OffboxError {
  return new OffboxError('TRUST_MALFORMED', `no canonical JSON: ${why}`)
}
