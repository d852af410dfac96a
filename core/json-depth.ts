/**
 * How deep JSON is nested, and how many objects and arrays it makes, told without parsing it: a deep nest of brackets costs a parser its stack,
 * or seconds, and an empty object of two bytes takes sixty. Pure.
 */

export interface JsonShape {
  /** Deepest nest of brackets outside strings. */
  readonly depth: number
  /** Objects and arrays. */
  readonly containers: number
}

/** Deepest nest of brackets outside strings. Right for JSON; for anything else the parser has the last word. */
export function depthOf(bytes: Uint8Array): number {
  return shapeOf(bytes).depth
}

/** As `depthOf`. */
export function shapeOf(bytes: Uint8Array): JsonShape {
  let [depth, deepest, containers, inString] = [0, 0, 0, false]
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (inString) {
      if (byte === BACKSLASH) at += 1
      else if (byte === QUOTE) inString = false
    } else if (byte === QUOTE) inString = true
    else if (byte === OPEN_SQUARE || byte === OPEN_CURLY) {
      containers += 1
      deepest = Math.max(deepest, ++depth)
    } else if (byte === CLOSE_SQUARE || byte === CLOSE_CURLY) depth -= 1
  }
  return { depth: deepest, containers }
}

const [QUOTE, BACKSLASH, OPEN_SQUARE, CLOSE_SQUARE, OPEN_CURLY, CLOSE_CURLY] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d]
