/**
 * A circuit breaker between a service and an API it calls, as a table: a row per state, a column per event. Pure; channels.ts asks it
 * before each call and tells it how the call ended. An API that fails again and again is not asked for a while, so that its callers
 * fail fast and it gets the quiet to come back; then one call, the probe, finds out whether it has.
 */
import type { ErrorCode } from '../../core/errors.ts'

export const CIRCUIT_STATES = ['closed', 'open', 'halfOpen'] as const
export type CircuitState = (typeof CIRCUIT_STATES)[number]

/**
 * `ask`, `askDue`: a call wants to go, in time or when an open circuit may try again. `ok`, `failed`, `tripped`: an ordinary call ended;
 * `tripped` is the failure that is one too many. `probeOk`, `probeFailed`, `probeLost`: the probe ended; lost is one that says nothing, e.g.
 * cancelled by its caller. `back`: a provider of the API has just become ready.
 */
export const CIRCUIT_EVENTS = ['ask', 'askDue', 'ok', 'failed', 'tripped', 'probeOk', 'probeFailed', 'probeLost', 'back'] as const
export type CircuitEvent = (typeof CIRCUIT_EVENTS)[number]

/** `refuse`: the call does not go. `lengthen`: stay open for longer than the last time. `dueNow`: the next call is the probe. */
export type CircuitEffect = 'refuse' | 'count' | 'forgive' | 'lengthen' | 'dueNow'

export interface CircuitMove {
  readonly to: CircuitState
  readonly effects: readonly CircuitEffect[]
}
/** IGNORE: a result that comes too late to count. NEVER: our own bug. */
export type CircuitCell = CircuitMove | 'IGNORE' | 'NEVER'
type PerEvent<E extends readonly unknown[]> = { readonly [K in keyof E]: CircuitCell }

const go = (to: CircuitState, ...effects: CircuitEffect[]): CircuitMove => ({ to, effects })
const pass = go('closed')
const clear = go('closed', 'forgive')
const count = go('closed', 'count')
const trip = go('open', 'count', 'lengthen')
const wait = go('open', 'refuse')
const probe = go('halfOpen')
const onlyOne = go('halfOpen', 'refuse')
const again = go('open', 'count', 'lengthen')
const untold = go('open', 'dueNow')
const hurry = go('open', 'dueNow')

// biome-ignore format: a table
export const CIRCUIT: Readonly<Record<CircuitState, PerEvent<typeof CIRCUIT_EVENTS>>> = {
  //          ask      askDue   ok        failed    tripped   probeOk   probeFailed probeLost back
  closed:   [ pass,    pass,    clear,    count,    trip,     'NEVER',  'NEVER',    'NEVER',  'IGNORE' ],
  open:     [ wait,    probe,   'IGNORE', 'IGNORE', 'IGNORE', 'NEVER',  'NEVER',    'NEVER',  hurry    ],
  halfOpen: [ onlyOne, onlyOne, 'IGNORE', 'IGNORE', 'IGNORE', clear,    again,      untold,   'IGNORE' ],
}

export function circuitCell(state: CircuitState, event: CircuitEvent): CircuitCell {
  return CIRCUIT[state][CIRCUIT_EVENTS.indexOf(event)] as CircuitCell
}

export const CIRCUIT_LIMITS = {
  /** Failures in a row; one less than this passes for bad luck. */
  failuresMax: 5,
  /** How long it stays open: doubled each time the probe fails, and up to half less by chance. */
  openMsFirst: 1_000,
  openMsMax: 30_000,
  /** A call that had less time than this and missed its deadline says more of its caller than of the callee. */
  fairMsMin: 1_000,
} as const

export interface Circuit {
  readonly state: CircuitState
  /** In a row. */
  readonly failures: number
  /** How often it opened since it was last closed. */
  readonly openings: number
  /** Monotonic milliseconds from which an open circuit lets a probe through. */
  readonly retryAtMs: number
}

export const CLOSED: Circuit = { state: 'closed', failures: 0, openings: 0, retryAtMs: 0 }

/** The column for a call that wants to go. */
export function askEvent(circuit: Circuit, nowMs: number): CircuitEvent {
  return circuit.state === 'open' && nowMs >= circuit.retryAtMs ? 'askDue' : 'ask'
}

export interface EndedCall {
  readonly probe: boolean
  readonly outcome: ErrorCode | 'OK' | 'CANCELLED'
  /** Time it was given, milliseconds; undefined: any. */
  readonly allowedMs: number | undefined
}

/** The column for a call that ended; undefined: it says nothing about the callee. */
export function endEvent(circuit: Circuit, { probe, outcome, allowedMs = Number.POSITIVE_INFINITY }: EndedCall): CircuitEvent | undefined {
  const unfair = outcome === 'DEADLINE_PASSED' && allowedMs < CIRCUIT_LIMITS.fairMsMin
  if (unfair || SAYS_NOTHING.has(outcome)) return probe ? 'probeLost' : undefined
  if (!MEANS_DOWN.has(outcome)) return probe ? 'probeOk' : 'ok'
  if (probe) return 'probeFailed'
  return circuit.failures + 1 >= CIRCUIT_LIMITS.failuresMax ? 'tripped' : 'failed'
}

/**
 * What becomes of a circuit; and whether the call that asks may go.
 * @param nowMs  monotonic
 * @param chance 0 to 1
 */
export function nextCircuit(circuit: Circuit, event: CircuitEvent, nowMs: number, chance: number): { circuit: Circuit; refused: boolean } {
  const move = circuitCell(circuit.state, event)
  if (move === 'NEVER') throw new Error(`circuit: ${event} while ${circuit.state}`)
  if (move === 'IGNORE') return { circuit, refused: false }
  let { failures, openings, retryAtMs } = circuit
  for (const effect of move.effects) {
    if (effect === 'count') failures++
    else if (effect === 'forgive') failures = openings = retryAtMs = 0
    else if (effect === 'dueNow') retryAtMs = nowMs
    else if (effect === 'lengthen') {
      const fullMs = Math.min(CIRCUIT_LIMITS.openMsMax, CIRCUIT_LIMITS.openMsFirst * 2 ** openings)
      retryAtMs = nowMs + fullMs * (1 - chance / 2)
      openings++
    }
  }
  return { circuit: { state: move.to, failures, openings, retryAtMs }, refused: move.effects.includes('refuse') }
}

/** The callee is not there, or cannot take more: to ask again at once makes it worse. Any other error is an answer. */
const MEANS_DOWN: ReadonlySet<string> = new Set<ErrorCode>([
  ...(['SERVICE_DOWN', 'SERVICE_CRASHED', 'DEADLINE_PASSED', 'LIMIT_REACHED', 'RATE_EXCEEDED', 'STREAMS_EXCEEDED'] as const),
])
/** It ended for a reason on this side, or because of a swap, which is not a fault. */
const SAYS_NOTHING: ReadonlySet<string> = new Set<ErrorCode | 'CANCELLED'>(['CANCELLED', 'SWAP_IN_PROGRESS', 'DEPENDENCY_UNSATISFIED', 'STORE_FULL'])
