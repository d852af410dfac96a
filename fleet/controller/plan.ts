/** What to do next so that a device comes to its desired state. Pure: desired and observed go in, one step comes out. */
import semver from 'semver'
import type { DesiredService, FailedVersion } from '../device/record.ts'
import type { HealthName } from '../device/gate.ts'

export interface ObservedService {
  readonly service: string
  readonly version: string
  /** Name of ServiceState, e.g. "READY". */
  readonly state: string
  readonly health: HealthName
  readonly healthReason: string
  /** Another version that crashed too often there of late, so that the device went back from it by itself. */
  readonly left?: FailedVersion
  /** The open change of the service itself (install, upgrade, remove), if any. */
  readonly change: { readonly id: string; readonly to: string; readonly provisional: boolean; readonly reason: string } | null
}

export interface PlanInput {
  readonly desired: readonly DesiredService[]
  /** Services to remove where they run. */
  readonly dismissed: readonly string[]
  /** A routing configuration is wanted and the one in force is not known to be it. */
  readonly routingWanted: boolean
  readonly observed: readonly ObservedService[]
  /** Services that a rollout is changing on this device now. */
  readonly rollouts: ReadonlySet<string>
  readonly failures: Readonly<Record<string, FailedVersion>>
  /** Services whose step the device refused just now because of what others require or provide, with its words. */
  readonly deferred?: ReadonlyMap<string, string>
}

export type Step =
  | { readonly do: 'install' | 'upgrade'; readonly service: string; readonly version: string }
  | { readonly do: 'adopt'; readonly service: string; readonly version: string; readonly changeId: string }
  | { readonly do: 'remove'; readonly service: string }
  | { readonly do: 'setRouting' }

export interface Plan {
  /** Null: nothing can be done now. */
  readonly step: Step | null
  /** What is not as desired and resolves by itself. */
  readonly waiting: readonly string[]
  /** What is not as desired and needs somebody. */
  readonly stuck: readonly string[]
}

/** Beginning of the reason in every order of the reconciler: by it a later controller knows its own changes. */
export const ORDER_REASON = 'desired state'

export function plan(input: PlanInput): Plan {
  const waiting: string[] = []
  const stuck: string[] = []
  let first: Step | null = null
  const todo = (step: Step) => {
    const refused = 'service' in step ? input.deferred?.get(step.service) : undefined
    if (refused === undefined) first ??= step
    else stuck.push(refused)
  }
  for (const want of input.desired) {
    const found = input.observed.find(({ service }) => service === want.service)
    const next = found ? forRunning(input, want, found) : forMissing(input, want)
    if (next === null) continue
    if (typeof next === 'object' && 'do' in next) todo(next)
    else (next.startsWith('!') ? stuck : waiting).push(next.replace(/^!/, ''))
  }
  for (const service of input.dismissed) {
    if (input.rollouts.has(service) || input.desired.some((want) => want.service === service)) continue
    if (input.observed.some((found) => found.service === service)) todo({ do: 'remove', service })
  }
  const routing = input.observed.find(({ service }) => service === 'routing')
  if (input.routingWanted) {
    if (routing?.state === 'READY') todo({ do: 'setRouting' })
    else if (!input.desired.some(({ service }) => service === 'routing')) stuck.push('a routing configuration is set, but the service routing is not desired')
    else waiting.push('the routing configuration waits for the service routing')
  }
  return { step: first, waiting, stuck }
}

/** A step, null when all is well, or words; words that begin with "!" need somebody. */
type Next = Step | string | null

function forMissing({ failures }: PlanInput, { service, version }: DesiredService): Next {
  return failed(failures, service, version) ?? { do: 'install', service, version }
}

function forRunning(input: PlanInput, want: DesiredService, found: ObservedService): Next {
  const { service, version } = want
  if (input.rollouts.has(service)) return null
  const { change } = found
  if (change) {
    const ours = change.reason.startsWith(ORDER_REASON) && change.to === version && change.provisional
    if (ours) return { do: 'adopt', service, version, changeId: change.id }
    return `${service}: change ${change.id} to ${change.to} is not finished (${change.reason})`
  }
  if (found.version !== version) {
    const known = failed(input.failures, service, version)
    if (known) return known
    if (semver.valid(found.version) && semver.gt(found.version, version)) {
      return `!${service} runs ${found.version}, newer than the desired ${version}: to go back, offbox rollout start ${service} ${version} --allow-downgrade`
    }
    return { do: 'upgrade', service, version }
  }
  if (found.state === 'FAILED') return `!${service} ${version} crashed too often and stays down; see offbox device logs`
  if (found.state !== 'READY') return `${service} ${version} is ${found.state}`
  if (found.health === 'unhealthy') return `!${service} ${version} is unhealthy: ${found.healthReason}`
  return null
}

function failed(failures: PlanInput['failures'], service: string, version: string): string | null {
  const known = failures[service]
  if (known?.version !== version) return null
  return `!${service} ${version} failed on this device and is not tried again unasked (offbox device desire asks): ${known.reason}`
}
