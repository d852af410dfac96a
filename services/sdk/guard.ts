/** Errors of Node turned into plain ones: their classes belong to Node and could be changed for everybody. */

/** Calls `run`. What it throws comes out as a new error with the same name, message and code. */
export function guarded<T>(run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw plain(error)
  }
}

const KINDS = [TypeError, RangeError, SyntaxError]

function plain(error: unknown): Error {
  const { name, message, code } = (error ?? {}) as { name?: unknown; message?: unknown; code?: unknown }
  const Kind = KINDS.find((kind) => kind.name === name) ?? Error
  const copy = new Kind(String(message))
  if (typeof name === 'string' && copy.name !== name) copy.name = name
  return typeof code === 'string' ? Object.assign(copy, { code }) : copy
}

/** One line of whatever was thrown; not even its own code can make this throw. */
export function textOfThrown(error: unknown): string {
  try {
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  } catch {
    return 'something that has no text'
  }
}
