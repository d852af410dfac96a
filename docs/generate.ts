/** Prints the pages that are tables of the code: docs/errors.md and docs/lifecycle.md. `npm run docs` writes them; a test compares. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { CHANGE, CHANGE_EVENTS } from '../agent/change/change.ts'
import { CIRCUIT, CIRCUIT_EVENTS } from '../agent/supervisor/breaker.ts'
import { EVENTS, LIFECYCLE } from '../agent/supervisor/lifecycle.ts'
import { SWAP, SWAP_EVENTS } from '../agent/supervisor/swap.ts'
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

type Cell = string | { readonly to: string; readonly effects: readonly string[] }

function stateTable(states: Readonly<Record<string, readonly Cell[]>>, events: readonly string[]): string[] {
  const show = (cell: Cell, state: string) => {
    if (typeof cell === 'string') return cell === 'NEVER' ? '·' : cell.toLowerCase()
    const effects = cell.effects.length > 0 ? ` (${cell.effects.join(', ')})` : ''
    return `${cell.to === state ? 'stay' : `**${cell.to}**`}${effects}`
  }
  const rows = Object.entries(states).map(([state, cells]) => `| ${state} | ${cells.map((cell) => show(cell, state)).join(' | ')} |`)
  return [`| | ${events.join(' | ')} |`, `|${'---|'.repeat(events.length + 1)}`, ...rows, '']
}

/** docs/lifecycle.md, whole. */
export function lifecyclePage(): string {
  return [
    '# State machines',
    '',
    'Generated from the code by `npm run docs`. A row is a state, a column an event; a cell is the state that follows, and in brackets',
    'what is done. *ignore*: late or repeated, harmless. *refuse*: a command answered with STATE_REFUSED. `·`: cannot happen.',
    '',
    '## A service (agent/supervisor/lifecycle.ts)',
    '',
    ...stateTable(LIFECYCLE, EVENTS),
    '## A swap (agent/supervisor/swap.ts)',
    '',
    ...stateTable(SWAP, SWAP_EVENTS),
    '## A change (agent/change/change.ts)',
    '',
    ...stateTable(CHANGE, CHANGE_EVENTS),
    '## A circuit between two services (agent/supervisor/breaker.ts)',
    '',
    ...stateTable(CIRCUIT, CIRCUIT_EVENTS),
  ].join('\n')
}

if (process.argv[1] === import.meta.filename) {
  writeFileSync(join(import.meta.dirname, 'errors.md'), errorsPage())
  writeFileSync(join(import.meta.dirname, 'lifecycle.md'), lifecyclePage())
}
