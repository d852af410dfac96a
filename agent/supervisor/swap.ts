/**
 * A hot swap over two slots, as a table: a row per state, a column per event. Pure; slots.ts carries the effects out. `current` serves,
 * `candidate` is prepared beside it; after the flip the one that served before is kept warm as `previous` until commit or revert.
 */
import type { Manifest } from '../../core/manifest.ts'

/**
 * idle: one version, nothing open. preparing: the candidate loads its code, calls flow. draining: new calls are held, those under way
 * finish. quiescing: the current hands its state over. taking: the candidate starts with it. restoring: the current takes its own state
 * back. provisional: the candidate serves, the other is warm. reverting: the new one hands its state back. returning: the old one takes it.
 */
export const SWAP_STATES = ['idle', 'preparing', 'draining', 'quiescing', 'taking', 'restoring', 'provisional', 'reverting', 'returning'] as const
export type SwapState = (typeof SWAP_STATES)[number]

/** `failed`: the slot that has to act now cannot. `overBudget`: held too many, too much or too long. */
export const SWAP_EVENTS = ['swap', 'prepared', 'drained', 'handedOver', 'ready', 'failed', 'overBudget', 'restored', 'commit', 'revert'] as const
export type SwapEvent = (typeof SWAP_EVENTS)[number]

export type SwapEffect =
  | 'prepareCandidate'
  | 'hold'
  | 'drain'
  | 'handOver'
  | 'startCandidate'
  | 'discardCandidate'
  | 'resumeCurrent'
  | 'flip'
  | 'suspendPrevious'
  | 'endPrevious'
  | 'takeBack'
  | 'resumePrevious'
  | 'flipBack'
  | 'release'
  | 'succeed'
  | 'fail'

/**
 * The effects that go on record, by the name they have there. `release` of held calls comes after the flip, `hold` is on disk before a call
 * is held. Those without a name are not steps of their own.
 */
export const SWAP_STEPS: Readonly<Record<SwapEffect, string | undefined>> = {
  prepareCandidate: 'prepare',
  hold: 'hold',
  drain: 'drain',
  handOver: 'hand over',
  startCandidate: 'start',
  discardCandidate: 'discard',
  resumeCurrent: 'restore',
  flip: 'flip',
  suspendPrevious: 'suspend',
  endPrevious: 'end previous',
  takeBack: 'take back',
  resumePrevious: 'resume previous',
  flipBack: 'flip back',
  release: 'release',
  succeed: undefined,
  fail: undefined,
}

export interface SwapMove {
  readonly to: SwapState
  readonly effects: readonly SwapEffect[]
}
export type SwapCell = SwapMove | 'IGNORE' | 'REFUSE' | 'NEVER'
type PerEvent<E extends readonly unknown[]> = { readonly [K in keyof E]: SwapCell }
type Row = PerEvent<typeof SWAP_EVENTS>

const go = (to: SwapState, ...effects: SwapEffect[]): SwapMove => ({ to, effects })
const begin = go('preparing', 'prepareCandidate')
const drain = go('draining', 'hold', 'drain')
const handOver = go('quiescing', 'handOver')
const take = go('taking', 'startCandidate')
const flip = go('provisional', 'flip', 'release', 'suspendPrevious', 'succeed')
// The current still has its state: there is nothing to give back but its calls.
const letGo = go('idle', 'discardCandidate', 'release', 'fail')
const restore = go('restoring', 'discardCandidate', 'resumeCurrent')
const asBefore = go('idle', 'release', 'fail')
const keep = go('idle', 'endPrevious', 'succeed')
const goBack = go('reverting', 'hold', 'takeBack')
const takeAgain = go('returning', 'resumePrevious')
const back = go('idle', 'flipBack', 'release', 'succeed')
const done = go('idle', 'succeed')

// biome-ignore format: a table
export const SWAP: Readonly<Record<SwapState, Row>> = {
  //             swap      prepared  drained   handedOver ready     failed    overBudget restored  commit    revert
  idle:        [ begin,    'IGNORE', 'IGNORE', 'IGNORE',  'IGNORE', 'IGNORE', 'IGNORE',  'IGNORE', done,     done     ],
  preparing:   [ 'REFUSE', drain,    'NEVER',  'NEVER',   'NEVER',  letGo,    'IGNORE',  'NEVER',  'REFUSE', 'REFUSE' ],
  draining:    [ 'REFUSE', 'NEVER',  handOver, 'NEVER',   'NEVER',  letGo,    letGo,     'NEVER',  'REFUSE', 'REFUSE' ],
  quiescing:   [ 'REFUSE', 'NEVER',  'NEVER',  take,      'NEVER',  restore,  restore,   'NEVER',  'REFUSE', 'REFUSE' ],
  taking:      [ 'REFUSE', 'NEVER',  'NEVER',  'NEVER',   flip,     restore,  restore,   'NEVER',  'REFUSE', 'REFUSE' ],
  restoring:   [ 'REFUSE', 'NEVER',  'NEVER',  'IGNORE',  'IGNORE', 'IGNORE', 'IGNORE',  asBefore, 'REFUSE', 'REFUSE' ],
  provisional: [ 'REFUSE', 'NEVER',  'NEVER',  'NEVER',   'NEVER',  'IGNORE', 'IGNORE',  'NEVER',  keep,     goBack   ],
  reverting:   [ 'REFUSE', 'NEVER',  'NEVER',  takeAgain, 'NEVER',  'IGNORE', 'IGNORE',  'NEVER',  'REFUSE', 'REFUSE' ],
  returning:   [ 'REFUSE', 'NEVER',  'NEVER',  'NEVER',   'NEVER',  'IGNORE', 'IGNORE',  back,     'REFUSE', 'REFUSE' ],
}

export function swapCell(state: SwapState, event: SwapEvent): SwapCell {
  return SWAP[state][SWAP_EVENTS.indexOf(event)] as SwapCell
}

type Formats = Pick<Manifest, 'snapshot'>

/** In which formats the giver is asked for its state: one for the successor, one to come back with should that fail. */
export interface HandOverPlan {
  /** Undefined: the giver has no state. */
  readonly schema: number | undefined
  readonly ownSchema: number | undefined
}

/** Undefined: the giver has state that the taker, or the giver itself on the way back, cannot read. */
export function planHandOver(giver: Formats, taker: Formats): HandOverPlan | undefined {
  if (giver.snapshot.writes.length === 0) return { schema: undefined, ownSchema: undefined }
  const schema = highestCommon(giver, taker)
  const ownSchema = schema !== undefined && giver.snapshot.reads.includes(schema) ? schema : highestCommon(giver, giver)
  return schema === undefined || ownSchema === undefined ? undefined : { schema, ownSchema }
}

/** The newest format that one writes and the other reads. */
export function highestCommon(giver: Formats, taker: Formats): number | undefined {
  const common = giver.snapshot.writes.filter((schema) => taker.snapshot.reads.includes(schema))
  return common.length === 0 ? undefined : Math.max(...common)
}
