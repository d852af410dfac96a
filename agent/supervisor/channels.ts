/** Calls between services of this device: who may call what, until when, in whose name, and whether the circuit lets it. */
import type { Clock } from '../../core/clock.ts'
import { codeOf, type ErrorCode, messageOf, OffboxError } from '../../core/errors.ts'
import { apiOf, type Manifest, type ManifestMethod } from '../../core/manifest.ts'
import semver from 'semver'
import type { FromWorker } from '../../services/sdk/wire.ts'
import { askEvent, type Circuit, CLOSED, endEvent, nextCircuit, type CircuitEvent } from './breaker.ts'
import { Channel, type ChannelEnd } from './channel.ts'
import { Tally } from './tally.ts'
import type { CallHandle, CircuitStatus, ClientCall, SupervisorHost } from './types.ts'

export type ChannelOpen = Extract<FromWorker, { type: 'channelOpen' }>

export const CHANNEL_LIMITS = {
  /** Services on the way of one call, the first included. The deepest honest chain we know has three. */
  depthMax: 8,
  /** Calls that one version of a service may have under way to others. */
  openMax: 256,
  /** For calls with one answer whose caller sets no time. */
  timeoutMsDefault: 30_000,
} as const

/** Set by the agent on calls of services: how many services the call has come through. */
export const DEPTH_KEY = 'offbox-call-depth'

/** What serves a method now. */
export interface Callee {
  readonly service: string
  readonly method: ManifestMethod
  /** Version of the API. */
  readonly version: string
}

export interface ChannelsOptions {
  readonly fleet: string
  readonly clock: Clock
  /** 0 to 1. */
  readonly chance: () => number
  readonly host: Pick<SupervisorHost, 'mutation' | 'serviceCalls'>
  readonly find: (path: string) => Callee | undefined
  /** What serves any method of an API now. */
  readonly provider: (api: string) => string | undefined
  readonly route: (client: ClientCall) => CallHandle
  /** A circuit has changed its state. */
  readonly changed: (caller: string, circuit: CircuitStatus) => void
}

/** One service and one API that it calls. */
interface Line {
  circuit: Circuit
  /** The error of the last failure that counted. */
  lastError: string
}

export class Channels {
  readonly #options: ChannelsOptions
  /** By caller and API; they outlive the caller's restarts and upgrades. */
  readonly #lines = new Map<string, Map<string, Line>>()
  readonly #tally: Tally

  constructor(options: ChannelsOptions) {
    this.#options = options
    this.#tally = new Tally(options.clock, (calls) => options.host.serviceCalls?.(calls))
  }

  /** Begins a call. Whatever refuses it ends it through `to`. */
  open(caller: Manifest, request: ChannelOpen, origin: ClientCall | undefined, to: ChannelEnd): Channel {
    const { clock } = this.#options
    const api = apiOf(request.method)
    const channel = new Channel(request, clock, to)
    try {
      const range = rangeOf(caller, api)
      const about = this.#about(caller, request, origin)
      const { line, ...admitted } = this.#admit(caller.name, api)
      let { probe } = admitted
      const allowedMs = about.deadlineMs === undefined ? undefined : about.deadlineMs - clock.nowMs()
      const ended = (outcome: Outcome, message: string) => {
        const event = endEvent(line.circuit, { probe, outcome, allowedMs })
        if (event === 'failed' || event === 'tripped' || event === 'probeFailed') line.lastError = message ? `${outcome}: ${message}` : outcome
        if (event) this.#step(caller.name, api, line, event)
        this.#tally.count({ principal: about.principal, method: request.method, outcome })
      }
      const answered = () => {
        this.#step(caller.name, api, line, probe ? 'probeOk' : 'ok')
        probe = false
      }
      channel.admitted(about, allowedMs, { answered, ended })
      this.#connect(channel, request, range, api)
    } catch (error) {
      if (codeOf(error) === 'CAPABILITY_DENIED') this.#tally.count({ principal: this.#principal(caller.name), method: api, outcome: 'CAPABILITY_DENIED' })
      channel.fail(codeOf(error), messageOf(error))
    }
    return channel
  }

  /** One for each API that the manifest requires, in its order. */
  circuitsOf({ name, requires }: Manifest): CircuitStatus[] {
    return Object.keys(requires?.apis ?? {}).map((api) => this.#status(api, this.#lines.get(name)?.get(api)?.circuit ?? CLOSED))
  }

  /** A provider of these APIs has just become ready: who waits for it may try. */
  back(apis: Iterable<string>): void {
    for (const api of apis) {
      for (const [caller, lines] of this.#lines) {
        const line = lines.get(api)
        if (line) this.#step(caller, api, line, 'back')
      }
    }
  }

  /** The service is gone. */
  forget(caller: string): void {
    this.#lines.delete(caller)
  }

  /** Hands over what was counted. */
  close(): void {
    this.#tally.flush()
  }

  /** The call as the callee sees it. @throws CALL_DEPTH_EXCEEDED, DEADLINE_PASSED */
  #about(caller: Manifest, { method, kind, timeoutMs, metadata }: ChannelOpen, origin: ClientCall | undefined): Omit<ClientCall, 'send' | 'end'> {
    const chain = [...(origin?.chain ?? []), caller.name]
    if (chain.length > CHANNEL_LIMITS.depthMax) {
      throw new OffboxError('CALL_DEPTH_EXCEEDED', `services call one another more than ${CHANNEL_LIMITS.depthMax} deep: ${chain.join(' > ')} > ${method}`)
    }
    const nowMs = this.#options.clock.nowMs()
    const answersOnce = kind === 'unary' || kind === 'clientStream'
    const ownMs = timeoutMs ?? (answersOnce ? CHANNEL_LIMITS.timeoutMsDefault : undefined)
    const deadlines = [origin?.deadlineMs, ownMs === undefined ? undefined : nowMs + ownMs].filter((one) => one !== undefined)
    const deadlineMs = deadlines.length > 0 ? Math.min(...deadlines) : undefined
    if (deadlineMs !== undefined && deadlineMs <= nowMs) throw new OffboxError('DEADLINE_PASSED', 'no time is left for this call')
    return {
      method,
      kind,
      principal: this.#principal(caller.name),
      deadlineMs,
      metadata: { ...metadata, [DEPTH_KEY]: `${chain.length}` },
      chain,
      ...(origin ? { onBehalfOf: origin.onBehalfOf ?? origin.principal } : {}),
    }
  }

  /** @throws CIRCUIT_OPEN */
  #admit(caller: string, api: string): { probe: boolean; line: Line } {
    const { clock } = this.#options
    const line = this.#line(caller, api)
    const event = askEvent(line.circuit, clock.monotonicMs())
    if (this.#step(caller, api, line, event)) {
      const { state, failures, retryAtMs } = line.circuit
      const waitMs = Math.max(0, Math.ceil(retryAtMs - clock.monotonicMs()))
      const when = state === 'open' ? `the next call is let through in ${waitMs} ms` : 'one call is under way to see whether it answers again'
      throw new OffboxError('CIRCUIT_OPEN', `${api} failed ${failures} times in a row (${line.lastError}); ${when}`)
    }
    return { probe: line.circuit.state === 'halfOpen', line }
  }

  #connect(channel: Channel, { method }: ChannelOpen, range: string, api: string): void {
    const { find, provider, route, host } = this.#options
    const callee = find(method)
    if (!callee && provider(api) !== undefined) throw new OffboxError('METHOD_NOT_FOUND', `${provider(api)} does not serve ${method}`)
    if (!callee) throw new OffboxError('SERVICE_DOWN', `nothing on this device serves ${api} now`)
    if (!fits(callee.version, range)) {
      throw new OffboxError('DEPENDENCY_UNSATISFIED', `this version requires ${api} ${range}; ${callee.service} provides ${callee.version}`)
    }
    const { about } = channel
    if (!callee.method.mutates || !host.mutation || !about) {
      channel.connect(route)
      return
    }
    const { principal, onBehalfOf } = about
    host.mutation({ principal, method, ...(onBehalfOf === undefined ? {} : { onBehalfOf }) }).then(
      () => channel.connect(route),
      (error) => channel.fail(codeOf(error), messageOf(error)),
    )
  }

  /** Whether the call that asks is refused. */
  #step(caller: string, api: string, line: Line, event: CircuitEvent): boolean {
    const before = line.circuit.state
    const { circuit, refused } = nextCircuit(line.circuit, event, this.#options.clock.monotonicMs(), this.#options.chance())
    line.circuit = circuit
    if (circuit.state !== before) this.#options.changed(caller, this.#status(api, circuit))
    return refused
  }

  #line(caller: string, api: string): Line {
    const lines = this.#lines.get(caller) ?? new Map<string, Line>()
    this.#lines.set(caller, lines)
    const line = lines.get(api) ?? { circuit: CLOSED, lastError: '' }
    lines.set(api, line)
    return line
  }

  #status(api: string, { state, failures, retryAtMs }: Circuit): CircuitStatus {
    const { clock, provider } = this.#options
    const retryAtWallMs = state === 'open' ? Math.round(clock.nowMs() + retryAtMs - clock.monotonicMs()) : 0
    return { api, service: provider(api) ?? '', state, failures, retryAtMs: retryAtWallMs }
  }

  #principal(service: string): string {
    return `spiffe://${this.#options.fleet}/service/${service}`
  }
}

/** @throws CAPABILITY_DENIED */
function rangeOf({ name, requires }: Manifest, api: string): string {
  const apis = requires?.apis ?? {}
  if (!Object.hasOwn(apis, api)) throw new OffboxError('CAPABILITY_DENIED', `the manifest of ${name} does not require ${api || 'this'}`)
  return apis[api] as string
}

const fitting = new Map<string, boolean>()
const FITTING_MAX = 1_000

/** Remembered, since it is asked at every call. */
function fits(version: string, range: string): boolean {
  const key = `${version} ${range}`
  const known = fitting.get(key)
  if (known !== undefined) return known
  if (fitting.size >= FITTING_MAX) fitting.clear()
  const answer = semver.satisfies(version, range)
  fitting.set(key, answer)
  return answer
}

export type Outcome = ErrorCode | 'OK' | 'CANCELLED'
