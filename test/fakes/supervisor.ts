/** A small working supervisor: it keeps to the contract of agent/supervisor/types.ts and runs nothing. */
import { Account } from '../../agent/supervisor/account.ts'
import type { CallHandle, RunningService, Supervisor, SwapReport, VerifiedBundle } from '../../agent/supervisor/types.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Manifest } from '../../core/manifest.ts'

interface Slots {
  current: { bundle: VerifiedBundle; config: unknown }
  warm: { bundle: VerifiedBundle; config: unknown } | null
  provisional: boolean
}

type Listener = Parameters<Supervisor['watch']>[0]

export class FakeSupervisor implements Supervisor {
  onProvisionalFailure: (service: string, reason: string) => void = () => {}
  onSpent: (service: string, reason: string) => void = () => {}
  /** Set to make the next start fail, or wait. */
  onStart: (bundle: VerifiedBundle) => Promise<void> = async () => {}
  readonly #services = new Map<string, Slots>()
  readonly #listeners = new Set<Listener>()

  /** Set to refuse what cannot be confined. */
  onCheckTier: (manifest: Manifest) => void = () => {}

  checkTier(manifest: Manifest): void {
    this.onCheckTier(manifest)
  }

  async install(bundle: VerifiedBundle, config: unknown): Promise<SwapReport> {
    const { name } = bundle.manifest
    if (this.#services.has(name)) throw new OffboxError('SERVICE_EXISTS', `${name} runs`)
    await this.#start(bundle)
    this.#services.set(name, { current: { bundle, config }, warm: null, provisional: true })
    this.#tell(name)
    return { heldMs: 0, heldCalls: 0 }
  }

  async swap(bundle: VerifiedBundle, config: unknown): Promise<SwapReport> {
    const slots = this.#services.get(bundle.manifest.name)
    if (!slots) throw new OffboxError('SERVICE_NOT_FOUND', `${bundle.manifest.name} does not run`)
    await this.#start(bundle)
    slots.warm = slots.current
    slots.current = { bundle, config }
    slots.provisional = true
    this.#tell(bundle.manifest.name)
    return { heldMs: 1.5, heldCalls: 2 }
  }

  async commit(service: string): Promise<void> {
    const slots = this.#services.get(service)
    if (!slots) return
    slots.warm = null
    slots.provisional = false
  }

  async revert(service: string): Promise<void> {
    const slots = this.#services.get(service)
    if (!slots?.provisional) return
    if (slots.warm) {
      slots.current = slots.warm
      slots.warm = null
      slots.provisional = false
    } else this.#services.delete(service)
    this.#tell(service)
  }

  async remove(service: string): Promise<void> {
    this.#services.delete(service)
    for (const listener of this.#listeners) listener({ service, removed: true })
  }

  async close(): Promise<void> {
    this.#services.clear()
  }

  list(): RunningService[] {
    return [...this.#services.keys()].sort().flatMap((name) => this.get(name) ?? [])
  }

  get(service: string): RunningService | undefined {
    const slots = this.#services.get(service)
    if (!slots) return undefined
    const { manifest, manifestSha256 } = slots.current.bundle
    const previousVersion = slots.warm?.bundle.manifest.version ?? ''
    return {
      service,
      version: manifest.version,
      previousVersion,
      state: 'ready',
      health: null,
      manifest,
      manifestSha256,
      starts: 1,
      history: [],
      circuits: [],
      previousManifest: slots.warm?.bundle.manifest,
      use: new Account(manifest).use(),
      tier: 'worker',
      confinement: [],
    }
  }

  configOf(service: string): unknown {
    return this.#services.get(service)?.current.config
  }

  watch(listener: Listener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  call(): CallHandle {
    throw new OffboxError('METHOD_NOT_FOUND', 'this supervisor serves no calls')
  }

  descriptors(): readonly Uint8Array[] {
    return []
  }

  methods(): ReturnType<Supervisor['methods']> {
    const all = [...this.#services].flatMap(([service, { current }]) =>
      current.bundle.manifest.methods.map(({ path, kind, mutates }) => ({ path, kind, mutates: mutates === true, service })),
    )
    return all
  }

  async #start(bundle: VerifiedBundle): Promise<void> {
    await this.onStart(bundle)
  }

  #tell(service: string): void {
    const version = this.#services.get(service)?.current.bundle.manifest.version ?? ''
    for (const listener of this.#listeners) listener({ service, transition: { atMs: 0, from: 'starting', to: 'ready', event: 'ready', version, reason: '' } })
  }
}
