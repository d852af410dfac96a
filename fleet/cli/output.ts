/** What the command line prints: tables and words for people, one JSON object on the last line (streams: one a line) with --json. */
import Table from 'cli-table3'
import { codeOf, ERRORS, type ErrorCode, messageOf } from '../../core/errors.ts'

export interface Printer {
  readonly json: boolean
  /** The command's result: `facts` with --json, else `text`. Once. */
  result(facts: object, text: string | (() => string)): void
  /** One item of a stream. */
  item(facts: object, text: string | (() => string)): void
  /** For people only; on stderr, so that it never mixes with results. */
  note(text: string): void
}

export function printer(json: boolean): Printer {
  const put = (facts: object, text: string | (() => string)) => {
    process.stdout.write(`${json ? toJson(facts) : typeof text === 'string' ? text : text()}\n`)
  }
  return { json, result: put, item: put, note: (text) => void (json || process.stderr.write(`${text}\n`)) }
}

/** Bytes become base64. */
export function toJson(facts: object): string {
  // A Buffer's own toJSON has run before the replacer sees it; what it was is still in the holder.
  return JSON.stringify(facts, function (this: Record<string, unknown>, key, value) {
    const raw = this[key]
    return raw instanceof Uint8Array ? Buffer.from(raw).toString('base64') : value
  })
}

/** A plain table: no lines, so that it can be cut and searched. "nothing" for no rows. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[], empty = 'nothing'): string {
  if (rows.length === 0) return empty
  const none = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '' }
  const inner = { left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '', 'right-mid': '', middle: '  ' }
  const style = { head: [], border: [], 'padding-left': 0, 'padding-right': 0 }
  const made = new Table({ head: head.map((title) => title.toUpperCase()), chars: { ...none, ...inner }, style })
  made.push(...rows.map((row) => row.map((cell) => printable(String(cell)))))
  return made
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')
}

/** Device and service text is not ours: control characters could rewrite the terminal. */
export function printable(text: string): string {
  return text.replace(/[^\P{Cc}\t\n]/gu, '?')
}

/** UTC, to the second; "-" for 0. */
export function time(atMs: number): string {
  return atMs === 0 ? '-' : `${new Date(atMs).toISOString().slice(0, 19)}Z`
}

/** Exit codes, documented in docs/cli.md. */
export const EXIT = { ok: 0, failed: 1, usage: 2, rolloutNotSucceeded: 3, unreachable: 4, incomplete: 5, refuted: 6, interrupted: 130 } as const

/** Prints what went wrong and what to do; answers the exit code. */
export function reportError(error: unknown, json: boolean): number {
  const code: ErrorCode = codeOf(error)
  const text = messageOf(error)
  const { caller } = ERRORS[code]
  if (json) process.stdout.write(`${toJson({ error: code, message: text, next: caller })}\n`)
  process.stderr.write(`${code}: ${printable(text)}\n  next: ${caller}\n`)
  // Our own bug: the stack is what a report needs.
  if (code === 'INTERNAL' && error instanceof Error && error.stack) process.stderr.write(`${error.stack}\n`)
  return code === 'CONTROLLER_UNREACHABLE' || code === 'DEVICE_UNREACHABLE' ? EXIT.unreachable : EXIT.failed
}
