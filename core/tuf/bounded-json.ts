/** JSON from an untrusted source, bounded before the parser sees it: a deep nest of brackets costs a parser its stack. */
import { OffboxError } from '../errors.ts'
import { depthOf } from '../json-depth.ts'
import { TUF_LIMITS } from './limits.ts'

/**
 * @param what for the message, e.g. a file name
 * @throws TRUST_MALFORMED more than `bytesMax`, deeper than `depthMax`, not UTF-8, not JSON
 */
export function parseBounded(bytes: Uint8Array, bytesMax: number, what: string): unknown {
  const refuse = (why: string, cause?: unknown) => new OffboxError('TRUST_MALFORMED', `${what} ${why}`, { cause })
  if (bytes.length > bytesMax) throw refuse(`has ${bytes.length} bytes, more than ${bytesMax}`)
  if (depthOf(bytes) > TUF_LIMITS.depthMax) throw refuse(`is nested deeper than ${TUF_LIMITS.depthMax}`)
  try {
    // fatal: other bytes would silently become another text than the one that was signed.
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw refuse('is not JSON in UTF-8', error)
  }
}
