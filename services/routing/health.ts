/** What the routing service says of itself. Pure. */
import type { BirdProtocol, Health } from '../sdk/service.ts'

/** What was seen of BIRD last, and how long ago. */
export interface Sight {
  readonly protocols: readonly BirdProtocol[]
  /** Why the last look failed; empty when it did not. */
  readonly failure: string
  /** Failed looks in a row. */
  readonly failures: number
}

/** One look may fall into a restart of BIRD, which is healed within seconds. */
export const failuresTolerated = 2

export interface SessionCounts {
  readonly sessionsConfigured: number
  readonly sessionsEstablished: number
  readonly routesLearned: number
}

export function countSessions(protocols: readonly BirdProtocol[]): SessionCounts {
  const sessions = protocols.filter(({ type }) => type === 'BGP')
  return {
    sessionsConfigured: sessions.length,
    sessionsEstablished: sessions.filter(({ info }) => info === 'Established').length,
    routesLearned: sessions.reduce((sum, { routesImported }) => sum + routesImported, 0),
  }
}

/** Healthy: BIRD answers and every session is up. Degraded: some are not. Unhealthy: BIRD stays silent. */
export function judge(sight: Sight): Health {
  const counts = countSessions(sight.protocols)
  const evidence = { ...counts }
  if (sight.failures > failuresTolerated) return { status: 'unhealthy', reason: `BIRD does not answer: ${sight.failure}`, evidence }
  if (sight.failures > 0) return { status: 'degraded', reason: `BIRD did not answer: ${sight.failure}`, evidence }
  const down = counts.sessionsConfigured - counts.sessionsEstablished
  if (down === 0) return { status: 'healthy', evidence }
  const names = sight.protocols.filter(({ type, info }) => type === 'BGP' && info !== 'Established').map(({ name, info }) => `${name} (${info || 'down'})`)
  return { status: 'degraded', reason: `${down} of ${counts.sessionsConfigured} sessions are down: ${names.slice(0, 5).join(', ')}`, evidence }
}
