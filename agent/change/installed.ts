/** The services of this device as others may depend on them: those that run, are stored, on their way in or on their way out. */
import type { Manifest } from '../../core/manifest.ts'
import type { Supervisor } from '../supervisor/types.ts'
import type { Installed } from './dependencies.ts'
import type { ChangeRecord } from './types.ts'

export class InstalledServices {
  readonly #supervisor: Pick<Supervisor, 'list'>
  readonly #changes: () => readonly ChangeRecord[]
  /** Active versions as they were found at start: of those that do not run, others may depend all the same. */
  readonly #stored = new Map<string, Manifest>()
  readonly #coming = new Set<Manifest>()
  readonly #leaving = new Set<string>()

  constructor(supervisor: Pick<Supervisor, 'list'>, changes: () => readonly ChangeRecord[]) {
    this.#supervisor = supervisor
    this.#changes = changes
  }

  /** An active version was read from the disk. */
  stored(manifest: Manifest): void {
    this.#stored.set(manifest.name, manifest)
  }

  forget(service: string): void {
    this.#stored.delete(service)
  }

  /** Counts a version from now until its change is provisional or has failed. */
  async while<T>(change: { coming: Manifest } | { leaving: string }, work: () => Promise<T>): Promise<T> {
    if ('coming' in change) this.#coming.add(change.coming)
    else this.#leaving.add(change.leaving)
    try {
      return await work()
    } finally {
      if ('coming' in change) this.#coming.delete(change.coming)
      else this.#leaving.delete(change.leaving)
    }
  }

  list(): Installed[] {
    const found = new Map<string, Manifest[]>()
    for (const { service, manifest, previousManifest } of this.#supervisor.list()) {
      found.set(service, previousManifest ? [manifest, previousManifest] : [manifest])
    }
    for (const [service, manifest] of this.#stored) if (!found.has(service)) found.set(service, [manifest])
    const going = new Set(this.#leaving)
    for (const manifest of this.#coming) {
      const known = found.get(manifest.name)
      if (!known) going.add(manifest.name)
      found.set(manifest.name, [...(known ?? []), manifest])
    }
    for (const { kind, service, from, settled } of this.#changes()) {
      if (!settled && (kind === 'remove' || (kind === 'install' && from === ''))) going.add(service)
    }
    return [...found].map(([service, versions]) => ({ service, versions, mayGo: going.has(service) }))
  }
}
