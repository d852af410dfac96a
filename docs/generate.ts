/** Prints the pages that are tables of the code: docs/errors.md and docs/lifecycle.md. `npm run docs` writes them; a test compares. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ERRORS } from '../core/errors.ts'

/** docs/errors.md, whole. */
export function errorsPage(): string {
  const rows = Object.entries(ERRORS).map(([code, row]) => `| \`${code}\` | ${row.status} | ${row.caller} | ${row.when} |`)
  return [
    '# Errors',
    '',
    'Generated from `core/errors.ts` by `npm run docs`. Every failed call carries the code in the trailer `offbox-error`, and its',
    'message begins with it. Codes are never reused. UNAVAILABLE and UNKNOWN come only from the transport, never from us.',
    '',
    '| code | gRPC status | caller should | when |',
    '|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}

if (process.argv[1] === import.meta.filename) {
  writeFileSync(join(import.meta.dirname, 'errors.md'), errorsPage())
}
