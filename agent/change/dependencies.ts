/**
 * What services require of the agent and of one another, and whether a change may happen. Pure. The rule: whichever version of each
 * service comes to run next (the one that serves, the one before it that a revert brings back, one on its way in), every range holds.
 */
import semver from 'semver'
import { OffboxError } from '../../core/errors.ts'
import { apiOf, type Manifest, providedBy } from '../../core/manifest.ts'

export type Declared = Pick<Manifest, 'name' | 'version' | 'methods' | 'provides' | 'requires'>

/** One service of the device, as far as others may depend on it. */
export interface Installed {
  readonly service: string
  /** Every version that may run without a further order: usually one, more while a change is not settled. */
  readonly versions: readonly Declared[]
  /** It may be gone without a further order: an install that is not confirmed, a removal under way. */
  readonly mayGo: boolean
}

/** A range that does not hold. */
export interface Unsatisfied {
  /** "telemetry 1.1.0" */
  readonly requirer: string
  /** "kernel" or a gRPC service name. */
  readonly api: string
  readonly range: string
  /** What there is, in words. */
  readonly found: string
}

/** Ranges named in one error. */
const NAMED_MAX = 5

/**
 * May `candidate` be installed, or take the place of the version of its service that runs?
 * @throws DEPENDENCY_UNSATISFIED naming each range that would not hold because of it
 */
export function admitDependencies(candidate: Declared, installed: readonly Installed[], kernelVersion: string): void {
  const { name, version, requires } = candidate
  const others = installed.filter(({ service }) => service !== name)
  const own = installed.find(({ service }) => service === name)
  const after: Installed[] = [...others, { service: name, versions: [...(own?.versions ?? []), candidate], mayGo: false }]
  const broken: Unsatisfied[] = []
  const kernel = kernelUnsatisfied(candidate, kernelVersion)
  if (kernel) broken.push(kernel)
  for (const [api, range] of Object.entries(requires?.apis ?? {})) {
    // Its own API is its own business: only this version serves it when this version runs.
    if (semver.satisfies(providedBy(candidate).get(api) ?? '', range)) continue
    const found = shortfall(api, range, others)
    if (found !== undefined) broken.push({ requirer: `${name} ${version}`, api, range, found })
  }
  refuse([...broken, ...newlyBroken(others, installed, after)])
}

/**
 * May `service` be removed?
 * @throws DEPENDENCY_UNSATISFIED naming who requires what of it
 */
export function admitRemoval(service: string, installed: readonly Installed[]): void {
  const others = installed.filter((one) => one.service !== service)
  refuse(newlyBroken(others, installed, others))
}

/** Undefined: the agent's kernel is one that this version requires. */
export function kernelUnsatisfied({ name, version, requires }: Declared, kernelVersion: string): Unsatisfied | undefined {
  const range = requires?.kernel
  if (range === undefined || semver.satisfies(kernelVersion, range)) return undefined
  return { requirer: `${name} ${version}`, api: 'kernel', range, found: `this agent's kernel is ${kernelVersion}` }
}

/** Every range of the device that does not hold, e.g. because a service could not be started. */
export function unsatisfied(installed: readonly Installed[]): Unsatisfied[] {
  return newlyBroken(installed, [], installed)
}

/** @throws DEPENDENCY_UNSATISFIED unless there is nothing to name */
export function refuse(broken: readonly Unsatisfied[]): void {
  if (broken.length === 0) return
  const words = broken.slice(0, NAMED_MAX).map(({ requirer, api, range, found }) => `${requirer} requires ${api} ${range}; ${found}`)
  const more = broken.length > NAMED_MAX ? [`and ${broken.length - NAMED_MAX} more`] : []
  throw new OffboxError('DEPENDENCY_UNSATISFIED', [...words, ...more].join('. '))
}

/**
 * For each service, those that start before it: the providers of what it requires. Services that require one another in a circle do not
 * wait for one another all round: the last in order of names goes first.
 */
export function startsAfter(services: readonly Declared[]): ReadonlyMap<string, ReadonlySet<string>> {
  const after = new Map<string, Set<string>>()
  const waitsFor = (from: string, to: string): boolean => {
    const reached = new Set([from])
    for (const one of reached) for (const next of after.get(one) ?? []) reached.add(next)
    return reached.has(to)
  }
  const sorted = [...services].sort((one, other) => (one.name < other.name ? -1 : 1))
  for (const { name } of sorted) after.set(name, new Set())
  for (const one of sorted) {
    for (const api of Object.keys(one.requires?.apis ?? {})) {
      for (const provider of sorted) {
        if (provider.name === one.name || !provider.methods.some(({ path }) => apiOf(path) === api)) continue
        if (!waitsFor(provider.name, one.name)) after.get(one.name)?.add(provider.name)
      }
    }
  }
  return after
}

/** Ranges of `requirers` that hold (or need not) with `before` and do not with `after`. */
function newlyBroken(requirers: readonly Installed[], before: readonly Installed[], after: readonly Installed[]): Unsatisfied[] {
  return requirers.flatMap(({ service, versions }) =>
    versions.flatMap((one) =>
      Object.entries(one.requires?.apis ?? {}).flatMap(([api, range]) => {
        if (semver.satisfies(providedBy(one).get(api) ?? '', range)) return []
        const others = (all: readonly Installed[]) => all.filter((other) => other.service !== service)
        const found = shortfall(api, range, others(after))
        // What did not hold before is not this change's doing.
        if (found === undefined || (before.length > 0 && shortfall(api, range, others(before)) !== undefined)) return []
        return [{ requirer: `${one.name} ${one.version}`, api, range, found }]
      }),
    ),
  )
}

/** Undefined: some service provides it, whichever of its versions runs. Else what there is instead. */
function shortfall(api: string, range: string, installed: readonly Installed[]): string | undefined {
  const found: string[] = []
  for (const { service, versions, mayGo } of installed) {
    const provided = versions.map((one) => ({ version: one.version, api: providedBy(one).get(api) }))
    if (provided.every((one) => one.api === undefined)) continue
    const bad = provided.find((one) => one.api === undefined || !semver.satisfies(one.api, range))
    if (!bad && !mayGo) return undefined
    if (bad) found.push(bad.api === undefined ? `${service} ${bad.version} does not provide it` : `${service} ${bad.version} provides ${bad.api}`)
    else found.push(`${service} ${provided[0]?.version} provides it, and may go: its change is not confirmed`)
  }
  return found.length > 0 ? found.join(', ') : 'nothing here provides it'
}
