/** Fields of a capability call, checked: services are not trusted, and what they send crossed a worker boundary. */
import { OffboxError } from '../../core/errors.ts'

export class Input {
  readonly #fields: Readonly<Record<string, unknown>>

  /** @throws ARGUMENT_INVALID not an object */
  constructor(raw: unknown) {
    if (typeof raw !== 'object' || raw === null) throw invalid('the input must be an object')
    this.#fields = raw as Record<string, unknown>
  }

  text(field: string, charsMax: number): string {
    const value = this.#fields[field]
    if (typeof value !== 'string' || value.length > charsMax) throw invalid(`${field} must be a string of at most ${charsMax} characters`)
    return value
  }

  bytes(field: string, bytesMax: number): Uint8Array {
    const value = this.#fields[field]
    if (!(value instanceof Uint8Array) || value.length > bytesMax) throw invalid(`${field} must be bytes, at most ${bytesMax}`)
    return value
  }

  integer(field: string, min: number, max: number): number {
    const value = this.#fields[field]
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) throw invalid(`${field} must be an integer, ${min} to ${max}`)
    return value as number
  }

  boolean(field: string): boolean {
    const value = this.#fields[field]
    if (typeof value !== 'boolean') throw invalid(`${field} must be a boolean`)
    return value
  }
}

function invalid(text: string): OffboxError {
  return new OffboxError('ARGUMENT_INVALID', text)
}
