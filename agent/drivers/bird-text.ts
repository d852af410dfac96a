/**
 * The text of BIRD's configuration. Pure. Services write its body; they are not trusted, so the driver refuses what would reach
 * beyond routing (files above all: BIRD runs as root), and puts its own head before it.
 */
import { OffboxError } from '../../core/errors.ts'

/** About 100,000 static routes. */
export const configTextBytesMax = 8 * 1024 * 1024
/** BIRD's own log, kept in memory and rotated once. */
export const birdLogBytesMax = 256 * 1024

/** Lines before the service's first; BIRD's line numbers are shifted by it. */
const HEAD_LINES = 2

/** Statements that read or write files, or name programs. */
const FORBIDDEN = /\b(include|log|mrtdump|mrt|debug|rpki|ssh|private|eval|print|printn)\b/i

/**
 * What BIRD is given. `DRAINED` is a constant that the body's filters test.
 * @param logPath without quotes and control characters (checked by `isQuotable`)
 */
export function composeConfig(input: { text: string; drained: boolean; logPath: string }): string {
  const log = `log "${input.logPath}" ${birdLogBytesMax} "${input.logPath}.1" { info, remote, warning, error, auth, fatal, bug };`
  return `${log}\ndefine DRAINED = ${input.drained};\n${input.text}\n`
}

/** Runs before any configuration was applied: nothing but the list of interfaces. */
export function defaultText(routerId: string): string {
  return `router id ${routerId};\nprotocol device { scan time 10; }\n`
}

/** @throws CONFIG_INVALID the text is too long or holds what a service may not say, with the line */
export function screenText(text: string): void {
  if (new TextEncoder().encode(text).length > configTextBytesMax) throw invalid(0, `it has more than ${configTextBytesMax} bytes`)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what it looks for
  const control = /[\u0000-\u0008\u000b-\u001f\u007f]/.exec(text)
  if (control) throw invalid(lineOf(text, control.index), 'it holds a control character')
  for (const { kind, value, index } of lexemes(text)) {
    if (kind === 'open') throw invalid(lineOf(text, index), 'a comment or string is not closed')
    if (kind === 'string' && value.includes('/')) throw invalid(lineOf(text, index), 'a string names a file')
    const word = kind === 'code' ? FORBIDDEN.exec(value) : null
    if (word) throw invalid(lineOf(text, index + word.index), `a service may not use "${word[1]}"`)
  }
}

/** BIRD's complaint with file names taken out and lines counted from the service's first. */
export function explain(complaint: string): string {
  return complaint.replace(/(?:\/[^\s:]*)?\.conf:(\d+)(?::(\d+))?:?\s*/g, (_, line: string, column?: string) => {
    const at = Number(line) - HEAD_LINES
    return at > 0 ? `line ${at}${column === undefined ? '' : `, column ${column}`}: ` : 'head: '
  })
}

/** Whether a path can stand between double quotes in BIRD's configuration and commands. */
export function isQuotable(path: string): boolean {
  return /^\/[\w./+@-]*$/.test(path)
}

interface Lexeme {
  readonly kind: 'code' | 'string' | 'open'
  readonly value: string
  readonly index: number
}

/** Code between comments and strings, and the strings. BIRD knows #, block comments, "text" and 'symbols'. */
function* lexemes(text: string): Generator<Lexeme> {
  const next = /#[^\n]*|\/\*[\s\S]*?\*\/|"[^"\n]*"|\/\*|"/g
  let from = 0
  for (let match = next.exec(text); match; match = next.exec(text)) {
    yield { kind: 'code', value: text.slice(from, match.index), index: from }
    const value = match[0]
    if (value === '/*' || value === '"') yield { kind: 'open', value, index: match.index }
    else if (value.startsWith('"')) yield { kind: 'string', value, index: match.index }
    from = match.index + value.length
  }
  yield { kind: 'code', value: text.slice(from), index: from }
}

function lineOf(text: string, index: number): number {
  return text.slice(0, index).split('\n').length
}

function invalid(line: number, why: string): OffboxError {
  return new OffboxError('CONFIG_INVALID', `the BIRD text is refused${line > 0 ? `, line ${line}` : ''}: ${why}`)
}
