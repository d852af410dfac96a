/** The lab's verdict, computed from what its client observed. Pure: it sees observations, never intentions. */
import type { Observation } from './observer.ts'

export interface LabFigures {
  /** "pxe" or "local". */
  readonly boot: string
  readonly devices: number
  /** Services seen running on every device. */
  readonly services: number
  /** Devices seen running the new version at the end. */
  readonly upgraded: number
  readonly calls: number
  readonly callsByVersion: Record<string, Record<string, number>>
  readonly failedCalls: number
  readonly duplicates: number
  /** Established ends of BGP sessions, counted at both ends. */
  readonly bgpSessionEnds: number
  readonly routesLearned: number
  readonly seconds: number
}

export interface Expected {
  readonly devices: number
  readonly services: number
  readonly fromVersion: string
  readonly toVersion: string
  /** The service that is rolled out. */
  readonly service: string
}

/** Calls that make the run worth something. */
export const CALLS_MIN = 300

export function figuresOf(boot: string, observed: Observation, expected: Expected, seconds: number): LabFigures {
  const entries = Object.entries(observed.devices)
  const looks = entries.map(([, device]) => device.look)
  const sum = (of: (device: (typeof entries)[number][1]) => number) => entries.reduce((total, [, device]) => total + of(device), 0)
  const everywhere = Object.keys(looks[0]?.services ?? {}).filter((name) => looks.every((look) => look?.services[name] !== undefined))
  return {
    boot,
    devices: entries.filter(([, device]) => device.calls > 0).length,
    services: everywhere.length,
    upgraded: looks.filter((look) => look?.services[expected.service] === expected.toVersion).length,
    calls: sum((device) => device.calls),
    callsByVersion: Object.fromEntries(entries.map(([id, device]) => [id, device.byVersion])),
    failedCalls: sum((device) => device.failed),
    duplicates: sum((device) => device.duplicates),
    bgpSessionEnds: sum((device) => Object.keys(device.look?.sessions ?? {}).length),
    routesLearned: sum((device) => device.look?.routesLearned ?? 0),
    seconds: Math.round(seconds),
  }
}

/** What is wrong with a run, one sentence each; empty when all is as it should be. */
export function complaints(observed: Observation, figures: LabFigures, expected: Expected): string[] {
  const found: string[] = []
  const must = (holds: boolean, text: string) => {
    if (!holds) found.push(text)
  }
  const ends = expected.devices * (expected.devices - 1)
  must(figures.devices === expected.devices, `${figures.devices} of ${expected.devices} devices answered`)
  must(figures.services === expected.services, `${figures.services} of ${expected.services} services run on every device`)
  must(figures.upgraded === expected.devices, `${figures.upgraded} of ${expected.devices} devices run ${expected.service} ${expected.toVersion}`)
  must(figures.calls > CALLS_MIN, `${figures.calls} calls; more than ${CALLS_MIN} are needed to say anything`)
  must(figures.failedCalls === 0, `${figures.failedCalls} calls failed`)
  must(figures.duplicates === 0, `${figures.duplicates} numbers were given out twice`)
  must(figures.bgpSessionEnds === ends, `${figures.bgpSessionEnds} of ${ends} ends of BGP sessions are established`)
  for (const [id, device] of Object.entries(observed.devices)) {
    if (device.lastError) found.push(`${id}: last failed call: ${device.lastError}`)
    if (device.look?.error) found.push(`${id}: last look failed: ${device.look.error}`)
    for (const version of [expected.fromVersion, expected.toVersion]) must((device.byVersion[version] ?? 0) > 0, `${id} never answered from ${version}`)
    must(device.gaps === 0, `${id}: ${device.gaps} numbers were given to nobody`)
    for (const [name, routes] of Object.entries(device.look?.sessions ?? {})) must(routes > 0, `${id}: the session with ${name} has carried no route`)
  }
  return found
}
