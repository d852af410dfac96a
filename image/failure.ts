/** A failure with a code of core/errors.ts; the programs of this folder import no other root, so they print it for the CLI to read. */
export class ImageFailure extends Error {
  readonly code: 'SETUP_MISSING' | 'HOME_INVALID' | 'IMAGE_INVALID' | 'ARGUMENT_INVALID'
  constructor(code: ImageFailure['code'], message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'ImageFailure'
    this.code = code
  }
}

/** Ends a program of this folder: `CODE: message` on stderr, with `json` also `{"error": {code, message}}` on stdout. Exit code 1. */
export function reportFailure(error: unknown, json: boolean): void {
  const { code, message } = error instanceof ImageFailure ? error : { code: errnoCode(error), message: error instanceof Error ? error.message : String(error) }
  process.stderr.write(`${code}: ${message}\n`)
  if (json) process.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`)
  process.exitCode = 1
}

function errnoCode(error: unknown): string {
  const errno = (error as { code?: unknown } | null)?.code
  if (errno === 'ENOSPC' || errno === 'EDQUOT') return 'STORE_FULL'
  if (typeof errno === 'string' && errno.startsWith('ERR_PARSE_ARGS')) return 'ARGUMENT_INVALID'
  return 'INTERNAL'
}
