/** Why a service is in its state, what will happen next and when, in plain words. Pure: one status and the time go in, sentences come out. */
import { type Change, ChangeState, ServiceState, type ServiceStatus, type ServiceTransition } from '../../proto/gen/lifecycle.ts'
import { healthOf } from '../device/gate.ts'
import { callNext, callWords } from './calls.ts'
import { time } from './output.ts'
import { usageWords } from './usage.ts'

/** What the agent does with a worker that ended, in time to start or stops; a test compares it with the agent's own limits. */
export const RESTARTS = {
  startTimeoutMs: 30_000,
  stopTimeoutMs: 5_000,
  restartsBurst: 5,
  restartsWindowMs: 60_000,
  backoffFirstMs: 200,
  backoffMaxMs: 10_000,
} as const

export interface Next {
  /** Latest wall time at which it happens by itself, Unix milliseconds; null: not by itself, or at no known time. */
  readonly atMs: number | null
  readonly text: string
}

export interface Explanation {
  /** One sentence. */
  readonly summary: string
  /** Sentences, the weightiest first. */
  readonly why: readonly string[]
  /** In the order in which it happens. */
  readonly next: readonly Next[]
}

/** @param nowMs wall time, Unix milliseconds: says how far off a time is */
export function explain(status: ServiceStatus, nowMs: number): Explanation {
  const { change } = status
  const crashes = crashesOf(status)
  const [state, next] = lifeOf(status, crashes)
  const provisional = change?.state === ChangeState.PROVISIONAL && isOfService(change)
  const standing = provisional ? ` is provisional since ${time(change.provisionalAtMs)} and ${state}` : ` ${state}`
  const why = [
    ...healthWords(status),
    ...crashWords(status, crashes),
    ...callWords(status),
    ...usageWords(status),
    ...tierWords(status),
    ...(change ? changeWords(change) : []),
    ...lastWords(status),
  ]
  const changes = change ? changeNext(status, change) : []
  // A provisional version is not started again: the way back comes first.
  return { summary: `${name(status)}${standing}`, why, next: [...changes, ...callNext(status), ...next].map((one) => withDistance(one, nowMs)) }
}

/** The lines a person reads. */
export function explanationText({ summary, why, next }: Explanation): string {
  const part = (title: string, lines: readonly string[]) => lines.map((line, index) => `${(index === 0 ? title : '').padEnd(6)}${line}`)
  return [
    summary,
    ...part('Why:', why),
    ...part(
      'Next:',
      next.map(({ text }) => text),
    ),
  ].join('\n')
}

/** Where it runs, and what should confine it there but does not. */
function tierWords({ tier, confinement }: ServiceStatus): string[] {
  if (tier === '' || confinement.length === 0) return []
  const held = confinement.filter((one) => !one.startsWith('no ') && one !== tier)
  const lacking = confinement.filter((one) => one.startsWith('no '))
  const where = tier === 'process' ? 'a process of its own' : 'a worker thread of the agent'
  const rest = lacking.length > 0 ? `; this device has ${lacking.join('; ')}` : ''
  return [`it runs in ${where}, confined by ${held.join(', ')}${rest}`]
}

interface Crashes {
  /** Within the window, up to the last one. */
  readonly count: number
  readonly last: ServiceTransition | undefined
}

function crashesOf({ history, version }: ServiceStatus): Crashes {
  const all = history.filter((one) => one.version === version && (one.to === ServiceState.BACKOFF || one.to === ServiceState.FAILED))
  const last = all.at(-1)
  return { count: last ? all.filter((one) => last.atMs - one.atMs < RESTARTS.restartsWindowMs).length : 0, last }
}

const none: Next = { atMs: null, text: 'nothing by itself' }

function lifeOf(status: ServiceStatus, { count, last }: Crashes): [state: string, next: Next[]] {
  const sinceMs = status.history.filter((one) => one.version === status.version && one.to === status.state).at(-1)?.atMs ?? 0
  const since = sinceMs === 0 ? '' : ` since ${time(sinceMs)}`
  const by = (text: string, delayMs: number): Next => {
    const atMs = sinceMs === 0 ? null : sinceMs + delayMs
    return { atMs, text: atMs === null ? `${text} within ${delayMs / 1000} s` : `${text} by ${time(atMs)}` }
  }
  switch (status.state) {
    case ServiceState.LOADED:
      return [`is verified and stored, and has no worker yet`, [{ atMs: null, text: 'its worker is started' }]]
    case ServiceState.STARTING:
      return [`is starting${since}`, [by('it serves, or its worker is ended and that counts as a crash,', RESTARTS.startTimeoutMs)]]
    case ServiceState.READY:
      return [serving(status), isSettling(status) ? [] : [{ ...none, text: `${none.text}: it goes on${readyUntil(status)}` }]]
    case ServiceState.QUIESCING:
      return [`is stopping${since}`, [by('it has stopped, or its worker is ended,', RESTARTS.stopTimeoutMs)]]
    case ServiceState.BACKOFF: {
      const pauseMs = Math.min(RESTARTS.backoffMaxMs, RESTARTS.backoffFirstMs * 2 ** Math.max(0, count - 1))
      const left = RESTARTS.restartsBurst - count
      const further =
        left > 0 ? `${plural(left, 'further crash', 'further crashes')} within ${RESTARTS.restartsWindowMs / 1000} s would be forgiven, one more not` : ''
      const text =
        further || `one more crash within ${RESTARTS.restartsWindowMs / 1000} s and it gives way to the last good version, or stays down where none is kept`
      return [`crashed and waits${since} before it is started again`, [by('its worker is started again', pauseMs), { atMs: null, text }]]
    }
    case ServiceState.STOPPED:
      return [
        `was stopped on purpose${sinceMs === 0 ? '' : ` at ${time(sinceMs)}`}`,
        isSettling(status) ? [] : [{ ...none, text: `${none.text}: it stays stopped until it is changed` }],
      ]
    case ServiceState.FAILED: {
      const how = last
        ? `failed at ${time(last.atMs)} after ${plural(count, 'crash', 'crashes')}`
        : 'is stored on the device and does not run: it could not be started'
      const text = `${none.text}: it stays down until it is upgraded, removed or the device restarts; its log: offbox device logs DEVICE --service ${status.service}`
      return [how, isSettling(status) ? [] : [{ ...none, text }]]
    }
    default:
      return ['is in a state that this program does not know', [none]]
  }
}

function serving(status: ServiceStatus): string {
  const health = healthOf(status)
  if (health === 'healthy') return 'serves calls and is healthy'
  if (health === 'degraded') return 'serves calls, with less than it should'
  return health === 'unhealthy' ? 'runs and is unhealthy: it does not do its work' : 'serves calls; its health is not known yet'
}

function readyUntil(status: ServiceStatus): string {
  if (healthOf(status) === 'unhealthy')
    return ' as it is, until it recovers or somebody changes it; the device replaces only provisional versions for their health'
  return ' until it is changed or crashes'
}

function healthWords(status: ServiceStatus): string[] {
  const numbers = Object.entries(status.health?.evidence ?? {}).map(([key, value]) => `${key} ${value}`)
  const evidence = numbers.length === 0 ? '' : ` (${numbers.join(', ')})`
  const health = healthOf(status)
  if (health === 'unknown') return []
  return [`it says of itself: ${health}${status.health?.reason ? `, ${status.health.reason}` : ''}${evidence}`]
}

function crashWords(status: ServiceStatus, { count, last }: Crashes): string[] {
  if (!last) return status.state === ServiceState.FAILED ? ['the device has no history of it: it has not run since the agent started'] : []
  const times = count === 1 ? '' : `; ${count} crashes in the ${RESTARTS.restartsWindowMs / 1000} s up to then`
  return [`its last crash, at ${time(last.atMs)}: ${last.reason || 'no reason given'}${times}`]
}

function changeWords(change: Change): string[] {
  const ordered = `ordered by ${change.author || 'nobody named'} at ${time(change.proposedAtMs)}`
  const reason = change.reason === '' ? '' : `: ${change.reason}`
  const held = change.heldCalls > 0 ? `; ${plural(change.heldCalls, 'call was', 'calls were')} held, for ${change.heldMs.toFixed(1)} ms` : ''
  switch (change.state) {
    case ChangeState.PROPOSED:
      return [`${changeName(change)} is recorded and has touched nothing yet; ${ordered}`]
    case ChangeState.STAGED:
      return [`${changeName(change)} is verified and stored beside what runs${stepWords(change)}; ${ordered}`]
    case ChangeState.PROVISIONAL:
      return [`${changeName(change)} is live and not confirmed; ${ordered}${held}`]
    case ChangeState.CONFIRMED:
      return [`${changeName(change)} is confirmed${reason}; ${ordered}`]
    case ChangeState.REVERTED:
      return [`${changeName(change)} was undone${reason}${change.error ? ` (${change.error})` : ''}; ${ordered}`]
    default:
      return []
  }
}

const STEP_WORDS: Readonly<Record<string, string>> = {
  prepare: 'the new version loads its code beside it',
  hold: 'new calls are held',
  drain: 'new calls are held while those under way finish',
  'hand over': 'new calls are held while the old version hands its state over',
  start: 'new calls are held while the new version starts with that state',
  discard: 'the new version has failed and is put away',
  restore: 'new calls are held while the old version takes its own state back',
  flip: 'the new version serves',
  release: 'the new version serves',
  suspend: 'the new version serves, and the old one is put to sleep',
}

/** Where a swap in progress is; nothing before it has begun. */
function stepWords({ steps }: Change): string {
  const last = steps.at(-1)
  const words = last && STEP_WORDS[last.step]
  return words === undefined
    ? ''
    : `, and is being put in its place: ${words} (step "${last?.step}", ${((last?.atMs ?? 0) / 1000).toFixed(2)} s after the order)`
}

function changeNext(status: ServiceStatus, change: Change): Next[] {
  const fails = isOfService(change) ? '; at once if it crashes, hangs or is unhealthy' : ''
  switch (change.state) {
    case ChangeState.PROPOSED:
    case ChangeState.STAGED:
      return [{ atMs: null, text: `${changeName(change)} goes live, provisionally, or ${name(status)} goes on` }]
    case ChangeState.PROVISIONAL:
      return [{ atMs: change.confirmDeadlineMs, text: `${wayBack(change)} at ${time(change.confirmDeadlineMs)} unless confirmed${fails}` }]
    case ChangeState.CONFIRMED:
      return [{ atMs: null, text: 'what ran before is put away' }]
    case ChangeState.REVERTED:
      return [{ atMs: null, text: `what ran before goes on${change.from && isOfService(change) ? `: ${change.from}` : ''}` }]
    default:
      return [{ atMs: null, text: 'its change is in a state that this program does not know' }]
  }
}

function wayBack(change: Change): string {
  if (change.kind === 'install') return 'it is removed again'
  if (isOfService(change)) return `it reverts to ${change.from}`
  return `its ${change.kind} reverts${change.from ? ` to ${short(change.from)}` : ''}`
}

/** The newest transition, unless a crash said it already. */
function lastWords({ history }: ServiceStatus): string[] {
  const last = history.at(-1)
  if (!last || last.to === ServiceState.BACKOFF || last.to === ServiceState.FAILED) return []
  const why = [last.event, last.reason].filter(Boolean).join(': ')
  return [`the last that happened, at ${time(last.atMs)}: ${last.version} went from ${stateName(last.from)} to ${stateName(last.to)} (${why})`]
}

/** Whether the change replaces the service's code; the others (config, certificate) go through a service and leave it as it is. */
function isOfService(change: Change): boolean {
  return change.kind === 'install' || change.kind === 'upgrade' || change.kind === 'remove'
}

function isSettling({ change }: ServiceStatus): boolean {
  return Boolean(change && isOfService(change))
}

function changeName(change: Change): string {
  return `the ${change.kind} ${change.from ? `from ${short(change.from)} ` : ''}${change.to ? `to ${short(change.to)} ` : ''}`.trimEnd()
}

/** Revisions of configurations and certificates are digests. */
function short(version: string): string {
  return /^[0-9a-f]{32,}$/.test(version) ? version.slice(0, 12) : version
}

function withDistance(next: Next, nowMs: number): Next {
  if (next.atMs === null) return next
  const seconds = Math.round((next.atMs - nowMs) / 1000)
  return { ...next, text: `${next.text} (${seconds > 0 ? `in ${seconds} s` : 'due now'})` }
}

const name = ({ service, version }: ServiceStatus) => `${service} ${version}`
const stateName = (state: number) => (ServiceState[state] ?? 'unknown').toLowerCase()
const plural = (count: number, one: string, many: string) => `${count} ${count === 1 ? one : many}`
