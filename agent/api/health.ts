/** grpc.health.v1: whether each gRPC service on this device serves, and the device as a whole. */
import { OffboxError } from '../../core/errors.ts'
import { apiOf } from '../../core/manifest.ts'
import { type HealthCheckResponseInit, HealthMethods } from '../../proto/gen/health.ts'
import { watchersMax } from '../limits.ts'
import type { RunningService, Supervisor } from '../supervisor/types.ts'
import { OWN_APIS } from './authorize.ts'
import type { CallContext, Serve } from './serve.ts'

/** As grpc.health.v1.HealthCheckResponse.ServingStatus numbers them. */
const SERVING = 1
const NOT_SERVING = 2
const SERVICE_UNKNOWN = 3

/**
 * By gRPC service name. A service counts while it is ready and does not say that it is unhealthy; the device ("") while all that runs
 * on it does. The agent's own APIs serve as long as anybody can ask.
 */
export function servingOf(running: readonly Pick<RunningService, 'state' | 'health' | 'manifest'>[]): ReadonlyMap<string, number> {
  const statuses = new Map<string, number>(OWN_APIS.map((api) => [api, SERVING]))
  let device = SERVING
  for (const { state, health, manifest } of running) {
    const status = state === 'ready' && health?.status !== 'unhealthy' ? SERVING : NOT_SERVING
    if (status !== SERVING) device = status
    for (const { path } of manifest.methods) statuses.set(apiOf(path), status)
  }
  return statuses.set('', device)
}

export function serveHealth(serve: Serve, supervisor: Pick<Supervisor, 'list' | 'watch'>): void {
  let watchers = 0
  const statusOf = (name: string) => servingOf(supervisor.list()).get(name)
  serve.unary(HealthMethods.Check, ({ service }) => {
    const status = statusOf(service)
    if (status === undefined) throw new OffboxError('SERVICE_NOT_FOUND', `nothing on this device serves ${JSON.stringify(service)}`)
    return { status }
  })
  serve.unary(HealthMethods.List, () => ({
    statuses: Object.fromEntries([...servingOf(supervisor.list())].map(([name, status]) => [name, { status }])),
  }))
  serve.serverStream(HealthMethods.Watch, async function* ({ service }, { signal }: CallContext): AsyncGenerator<HealthCheckResponseInit> {
    if (watchers >= watchersMax) throw new OffboxError('LIMIT_REACHED', `${watchersMax} callers watch already`)
    watchers += 1
    let wake = () => {}
    let changed = true
    const tell = () => {
      changed = true
      wake()
    }
    const unwatch = supervisor.watch(tell)
    signal.addEventListener('abort', tell)
    try {
      let last: number | undefined
      while (!signal.aborted) {
        if (!changed)
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        changed = false
        const status = statusOf(service) ?? SERVICE_UNKNOWN
        // Only the latest matters: a slow reader misses what has passed, and nothing waits for it.
        if (status !== last && !signal.aborted) yield { status }
        last = status
      }
    } finally {
      watchers -= 1
      unwatch()
    }
  })
}
