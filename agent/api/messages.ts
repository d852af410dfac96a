/** From the agent's own types to the messages of offbox.v1. Pure. */
import { providedBy } from '../../core/manifest.ts'
import {
  type ChangeInit,
  ChangeState,
  type CircuitInit,
  ServiceState,
  type ServiceStatusInit,
  type ServiceTransitionInit,
  type ServiceUsageInit,
} from '../../proto/gen/lifecycle.ts'
import type { ChangeRecord } from '../change/types.ts'
import type { ServiceUse } from '../supervisor/account.ts'
import type { CircuitStatus, RunningService, Transition } from '../supervisor/types.ts'

/** ServiceHealth.Status of lifecycle.proto. */
const HEALTH = { healthy: 1, degraded: 2, unhealthy: 3 } as const

export function changeMessage(record: ChangeRecord): ChangeInit {
  const { id, kind, service, from, to, reason, error, author, proposedAtMs, provisionalAtMs, heldMs, heldCalls, receipt } = record
  const confirmDeadlineMs = record.state === 'provisional' ? record.confirmDeadlineMs : 0
  const state = ChangeState[record.state.toUpperCase() as keyof typeof ChangeState]
  return {
    id,
    kind,
    service,
    from,
    to,
    state,
    reason,
    error,
    author,
    proposedAtMs,
    provisionalAtMs,
    confirmDeadlineMs,
    heldMs,
    heldCalls,
    steps: [...record.steps],
    receipt,
  }
}

export interface StatusFacts {
  readonly floor: string | undefined
  readonly change: ChangeRecord | undefined
  readonly withHistory: boolean
}

export function statusMessage(running: RunningService, facts: StatusFacts): ServiceStatusInit {
  const { service, version, previousVersion, health, manifest, manifestSha256, starts, history } = running
  return {
    service,
    version,
    previousVersion,
    state: stateNumber(running.state),
    health: health ? { status: HEALTH[health.status], reason: health.reason ?? '', evidence: { ...health.evidence } } : { status: 0 },
    methods: manifest.methods.map(({ path }) => path),
    capabilities: [...manifest.capabilities],
    change: facts.change ? changeMessage(facts.change) : null,
    starts,
    history: facts.withHistory ? history.map(transitionMessage) : [],
    manifestSha256,
    floor: facts.floor ?? '',
    usage: usageMessage(running.use),
    circuits: running.circuits.map(circuitMessage),
    provides: Object.fromEntries(providedBy(manifest)),
    requires: { ...(manifest.requires?.kernel === undefined ? {} : { kernel: manifest.requires.kernel }), ...manifest.requires?.apis },
    tier: running.tier,
    confinement: [...running.confinement],
  }
}

export function usageMessage({ limits, memoryBytes, cpuPercent, streamsOpen, messages, exceeded }: ServiceUse): ServiceUsageInit {
  return {
    memoryBytes,
    memoryBytesMax: limits.memoryMbMax * 2 ** 20,
    cpuPercent,
    cpuPercentMax: limits.cpuPercentMax,
    streamsOpen,
    streamsMax: limits.streamsMax,
    messagesPerSecondMax: limits.messagesPerSecondMax,
    logLinesPerSecondMax: limits.logLinesPerSecondMax,
    exceeded: { ...exceeded },
    messages,
  }
}

const CIRCUIT_STATE = { closed: 'closed', open: 'open', halfOpen: 'half-open' } as const

export function circuitMessage({ state, ...circuit }: CircuitStatus): CircuitInit {
  return { ...circuit, state: CIRCUIT_STATE[state] }
}

/** A service that is stored and does not run. @param down.reason why its last start was refused; empty: unknown */
export function downMessage(down: { service: string; version: string; reason: string }, facts: StatusFacts): ServiceStatusInit {
  const { service, version, reason } = down
  const change = facts.change ? changeMessage(facts.change) : null
  const health = reason === '' ? { status: 0 } : { status: HEALTH.unhealthy, reason }
  return { service, version, state: ServiceState.FAILED, health, change, floor: facts.floor ?? '' }
}

export function transitionMessage(transition: Transition): ServiceTransitionInit {
  const { atMs, event, version, reason } = transition
  return { atMs, from: stateNumber(transition.from), to: stateNumber(transition.to), event, version, reason }
}

function stateNumber(state: RunningService['state']): number {
  return ServiceState[state.toUpperCase() as keyof typeof ServiceState] ?? 0
}
