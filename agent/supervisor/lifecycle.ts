/**
 * The life of one worker of a service, as a table: a row per state, a column per event. Pure; instance.ts carries the effects out.
 * IGNORE: a late or repeated event. REFUSE: a command that this state answers with STATE_REFUSED. NEVER: our own bug.
 */
export type State = 'loaded' | 'starting' | 'ready' | 'quiescing' | 'backoff' | 'stopped' | 'failed'

/** `exit`: the worker is gone and may start again; `exitFinal`: gone, its restarts spent or forbidden (restart-policy.ts). */
export const EVENTS = ['start', 'ready', 'exit', 'exitFinal', 'stop', 'timeout'] as const
export type Event = (typeof EVENTS)[number]

export type Effect = 'spawnWorker' | 'stopService' | 'terminateWorker' | 'armStartTimer' | 'armStopTimer' | 'armBackoffTimer' | 'disarmTimer'

export interface Move {
  readonly to: State
  readonly effects: readonly Effect[]
}
export type Cell = Move | 'IGNORE' | 'REFUSE' | 'NEVER'
type PerEvent<E extends readonly unknown[]> = { readonly [K in keyof E]: Cell }
type Row = PerEvent<typeof EVENTS>

const go = (to: State, ...effects: Effect[]): Move => ({ to, effects })
const begin = go('starting', 'armStartTimer', 'spawnWorker')
const up = go('ready', 'disarmTimer')
const again = go('backoff', 'armBackoffTimer')
const giveUp = go('failed', 'disarmTimer')
const quiesce = go('quiescing', 'armStopTimer', 'stopService')
const end = go('stopped', 'disarmTimer')
// These two stay where they are: only the exit event proves that the thread is gone.
const abort = go('starting', 'terminateWorker')
const kill = go('quiescing', 'terminateWorker')

// biome-ignore format: a table
export const LIFECYCLE: Readonly<Record<State, Row>> = {
  //           start     ready     exit     exitFinal  stop      timeout
  loaded:    [ begin,    'NEVER',  'NEVER', 'NEVER',   end,      'NEVER' ],
  starting:  [ 'IGNORE', up,       again,   giveUp,    quiesce,  abort   ],
  ready:     [ 'IGNORE', 'IGNORE', again,   giveUp,    quiesce,  'NEVER' ],
  quiescing: [ 'REFUSE', 'IGNORE', end,     end,       'IGNORE', kill    ],
  backoff:   [ begin,    'IGNORE', 'NEVER', 'NEVER',   end,      begin   ],
  stopped:   [ begin,    'IGNORE', 'NEVER', 'NEVER',   'IGNORE', 'NEVER' ],
  failed:    [ begin,    'IGNORE', 'NEVER', 'NEVER',   end,      'NEVER' ],
}

export function cell(state: State, event: Event): Cell {
  return LIFECYCLE[state][EVENTS.indexOf(event)] as Cell
}
