/** JSON from an untrusted source, bounded before the parser sees it: a deep nest of brackets costs a parser its stack. */
import { OffboxError } from '../errors.ts'
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

/** Deepest nest of brackets outside strings. Right for JSON; for anything else the parser has the last word. */
export function depthOf(bytes: Uint8Array): number {
  let [depth, deepest, inString] = [0, 0, false]
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (inString) {
      if (byte === BACKSLASH) at += 1
      else if (byte === QUOTE) inString = false
    } else if (byte === QUOTE) inString = true
    else if (byte === OPEN_SQUARE || byte === OPEN_CURLY) deepest = Math.max(deepest, ++depth)
    else if (byte === CLOSE_SQUARE || byte === CLOSE_CURLY) depth -= 1
  }
  return deepest
}

const [QUOTE, BACKSLASH, OPEN_SQUARE, CLOSE_SQUARE, OPEN_CURLY, CLOSE_CURLY] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d]
