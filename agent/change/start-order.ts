/** Starts what is stored at boot: those first whose APIs others call. */
import type { Clock } from '../../core/clock.ts'
import type { Manifest } from '../../core/manifest.ts'
import { dependencyWaitMs } from '../limits.ts'
import { startsAfter } from './dependencies.ts'

/**
 * Calls `start` once for each service, when those it depends on have started or failed to; it does not wait for them for long, since
 * one that hangs must not keep others down. What has no manifest waits for nobody. Resolves when every `start` has.
 */
export async function startInOrder(
  services: readonly string[],
  manifests: readonly Manifest[],
  clock: Clock,
  start: (service: string) => Promise<void>,
): Promise<void> {
  const after = startsAfter(manifests)
  const begun = new Map<string, Promise<void>>()
  const begin = (service: string): Promise<void> => {
    const known = begun.get(service)
    if (known) return known
    const before = [...(after.get(service) ?? [])].map(begin)
    const started = before.length === 0 ? start(service) : settled(clock, before).then(async () => await start(service))
    begun.set(service, started)
    return started
  }
  await Promise.all(services.map(begin))
}

async function settled(clock: Clock, before: readonly Promise<void>[]): Promise<void> {
  let cancel = () => {}
  const enough = new Promise<void>((resolve) => {
    cancel = clock.after(dependencyWaitMs, resolve)
  })
  await Promise.race([Promise.allSettled(before), enough])
  cancel()
}
