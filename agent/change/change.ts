/**
 * The life of one change, as a table: what each event does in each state. Pure; engine.ts records the new state and then
 * carries out the effects, by name. docs/lifecycle.md is printed from it.
 *
 * IGNORE: late or repeated, harmless. REFUSE: a caller's command, answered with STATE_REFUSED. NEVER: our own code is wrong.
 */
import type { ChangeState } from './types.ts'

export const CHANGE_STATES = ['proposed', 'staged', 'provisional', 'confirmed', 'reverted'] as const satisfies readonly ChangeState[]

/**
 * `staged`, `applied`, `failed`: a handler's step ended. `confirm`, `revert`: a caller's command, guards already passed.
 * `deadline`: nobody confirmed in time. `restart`: found unsettled by a fresh process.
 */
export const CHANGE_EVENTS = ['staged', 'applied', 'failed', 'confirm', 'revert', 'deadline', 'restart'] as const
export type ChangeEvent = (typeof CHANGE_EVENTS)[number]

/** `doom`: remember that it is to be reverted as soon as the handler's step has ended. */
export type ChangeEffect = 'apply' | 'armDeadline' | 'doom' | 'commit' | 'revert'

export interface ChangeStep {
  readonly to: ChangeState
  readonly effects: readonly ChangeEffect[]
}
export type ChangeCell = ChangeStep | 'IGNORE' | 'REFUSE' | 'NEVER'

const go = (to: ChangeState, ...effects: ChangeEffect[]): ChangeStep => ({ to, effects })
const begin = go('staged', 'apply')
const live = go('provisional', 'armDeadline')
const keep = go('confirmed', 'commit')
const back = go('reverted', 'revert')
// A step under way is never cut in two: it ends by its own timeouts, and then the change goes back.
const doomProposed = go('proposed', 'doom')
const doomStaged = go('staged', 'doom')

type PerEvent<E extends readonly unknown[]> = { readonly [K in keyof E]: ChangeCell }

// biome-ignore format: a table
export const CHANGE: Readonly<Record<ChangeState, PerEvent<typeof CHANGE_EVENTS>>> = {
  //             staged    applied   failed    confirm   revert        deadline  restart
  proposed:    [ begin,    'NEVER',  back,     'REFUSE', doomProposed, 'NEVER',  back     ],
  staged:      [ 'NEVER',  live,     back,     'REFUSE', doomStaged,   'NEVER',  back     ],
  provisional: [ 'NEVER',  'NEVER',  back,     keep,     back,         back,     back     ],
  confirmed:   [ 'NEVER',  'NEVER',  'IGNORE', 'IGNORE', 'REFUSE',     'IGNORE', keep     ],
  reverted:    [ 'NEVER',  'NEVER',  'IGNORE', 'REFUSE', 'IGNORE',     'IGNORE', back     ],
}

/** The cell for an event; callers look at it before and after they wait. */
export function changeCell(state: ChangeState, event: ChangeEvent): ChangeCell {
  return CHANGE[state][CHANGE_EVENTS.indexOf(event)] as ChangeCell
}
