/** Runs the services of this device: finds the one a call is for, keeps operations on a service apart, and closes in order. */
import { systemClock, type Clock } from '../../core/clock.ts'
import { readDescriptors } from '../../core/descriptors.ts'
import { OffboxError } from '../../core/errors.ts'
import { apiOf, type Manifest, type ManifestMethod, providedBy } from '../../core/manifest.ts'
import { noTrack } from '../change/types.ts'
import { Call } from './calls.ts'
import { type Callee, Channels } from './channels.ts'
import { Instance } from './instance.ts'
import { SUPERVISOR_LIMITS, type SupervisorLimits } from './limits.ts'
import { ResourceWatch } from './resources.ts'
import { Slots } from './slots.ts'
import type { CallHandle, ClientCall, RunningService, Supervisor, SupervisorHost, SwapReport, VerifiedBundle } from './types.ts'
import { type TierOptions, TIERS_DEFAULT, Tiers } from './tiers.ts'

export interface SupervisorOptions {
  readonly clock?: Clock
  /** 0 to 1; default Math.random. */
  readonly chance?: () => number
  readonly limits?: Partial<SupervisorLimits>
  /** Text of the worker's script; default: worker-host.js as built. */
  readonly hostText?: string
  /** Default: workers for those that ask for nothing else, and processes with what confinement there is. */
  readonly tiers?: Partial<TierOptions>
  /** Services of gRPC that the agent itself serves, e.g. "offbox.v1.Device". */
  readonly reserved?: readonly string[]
  /** Names services as principals: spiffe://FLEET/service/NAME. Default "local". */
  readonly fleet?: string
}

const RESERVED = [
  'offbox.v1.Lifecycle',
  'offbox.v1.Device',
  'grpc.health.v1.Health',
  'grpc.reflection.v1.ServerReflection',
  'grpc.reflection.v1alpha.ServerReflection',
]

export function createSupervisor(host: SupervisorHost, options: SupervisorOptions = {}): Supervisor {
  return new ServiceSupervisor(host, options)
}

type Listener = Parameters<Supervisor['watch']>[0]

class ServiceSupervisor implements Supervisor {
  onProvisionalFailure: Supervisor['onProvisionalFailure'] = () => {}
  onSpent: Supervisor['onSpent'] = () => {}
  readonly #host: SupervisorHost
  readonly #options: SupervisorOptions
  readonly #clock: Clock
  readonly #limits: SupervisorLimits
  readonly #tiers: Tiers
  readonly #resources: ResourceWatch
  /** In order of start. */
  readonly #services = new Map<string, Slots>()
  readonly #byMethod = new Map<string, { slots: Slots; method: ManifestMethod; apiVersion: string }>()
  readonly #channels: Channels
  readonly #listeners = new Set<Listener>()
  readonly #busy = new Map<string, Promise<unknown>>()
  #closed = false

  constructor(host: SupervisorHost, options: SupervisorOptions) {
    this.#host = host
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#channels = new Channels({
      fleet: options.fleet ?? 'local',
      clock: this.#clock,
      chance: options.chance ?? Math.random,
      host,
      find: (path) => this.#callee(path),
      provider: (api) => this.#provider(api),
      route: (client) => this.call(client),
      changed: (service, circuit) => this.#tell({ service, circuit }),
    })
    this.#limits = { ...SUPERVISOR_LIMITS, ...options.limits }
    this.#resources = new ResourceWatch(this.#clock, this.#limits)
    this.#tiers = new Tiers({ ...TIERS_DEFAULT, ...(options.hostText === undefined ? {} : { hostText: options.hostText }), ...options.tiers })
  }

  checkTier(manifest: Manifest): void {
    this.#tiers.check(manifest)
  }

  async install(bundle: VerifiedBundle, config: unknown, track = noTrack): Promise<SwapReport> {
    const { name, version } = bundle.manifest
    return await this.#exclusively(name, async () => {
      if (this.#services.has(name)) throw new OffboxError('SERVICE_EXISTS', `${name} runs already`)
      this.#checkMethods(bundle)
      this.#tiers.check(bundle.manifest)
      const slots = this.#makeSlots(bundle, config)
      this.#services.set(name, slots)
      try {
        await slots.install(track)
      } catch (error) {
        this.#forget(name, slots)
        this.#tell({ service: name, removed: true })
        this.#host.log(name, 'warn', 'the service did not start', { version, error: String(error) })
        throw error
      }
      this.#methodsChanged()
      return { heldMs: 0, heldCalls: 0 }
    })
  }

  async swap(bundle: VerifiedBundle, config: unknown, track = noTrack): Promise<SwapReport> {
    const { name } = bundle.manifest
    return await this.#exclusively(name, async () => {
      const slots = this.#services.get(name)
      if (!slots) throw new OffboxError('SERVICE_NOT_FOUND', `${name} does not run here`)
      this.#checkMethods(bundle)
      this.#tiers.check(bundle.manifest)
      return await slots.swap(bundle, config, track)
    })
  }

  async commit(service: string, track = noTrack): Promise<void> {
    await this.#exclusively(service, async () => await this.#services.get(service)?.commit(track))
  }

  async revert(service: string, reason: string, track = noTrack): Promise<void> {
    await this.#exclusively(service, async () => {
      const slots = this.#services.get(service)
      if (slots?.uncommitted) {
        track.mark('stop')
        await this.#stop(service, slots, reason)
      } else await slots?.revert(reason, track)
    })
  }

  async remove(service: string, track = noTrack): Promise<void> {
    await this.#exclusively(service, async () => {
      const slots = this.#services.get(service)
      if (slots) track.mark('stop')
      if (slots) await this.#stop(service, slots, 'the service was removed')
    })
  }

  /** Does not wait for operations under way: it ends them. */
  async close(): Promise<void> {
    this.#closed = true
    for (const [service, slots] of [...this.#services].reverse()) await this.#stop(service, slots, 'the agent is stopping')
    this.#channels.close()
  }

  list(): RunningService[] {
    return [...this.#services.values()].map((slots) => this.#status(slots)).sort((a, b) => (a.service < b.service ? -1 : 1))
  }

  get(service: string): RunningService | undefined {
    const slots = this.#services.get(service)
    return slots && this.#status(slots)
  }

  watch(listener: Listener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  call(client: ClientCall): CallHandle {
    const found = this.#byMethod.get(client.method)
    if (!found || found.method.kind !== client.kind) throw new OffboxError('METHOD_NOT_FOUND', `nothing here serves ${client.method}`)
    found.slots.current.admit(client)
    const call = new Call(client, found.method, found.slots, this.#clock)
    if (!call.takesOne) found.slots.deliver(call)
    return call
  }

  descriptors(): readonly Uint8Array[] {
    return [...this.#services.values()].flatMap((slots) => readDescriptors(slots.current.bundle.payload))
  }

  methods(): ReturnType<Supervisor['methods']> {
    const service = (slots: Slots) => slots.current.bundle.manifest.name
    return [...this.#byMethod].map(([path, { slots, method }]) => ({ path, kind: method.kind, mutates: method.mutates === true, service: service(slots) }))
  }

  #status(slots: Slots): RunningService {
    const { manifest } = slots.current.bundle
    return { ...slots.status(), tier: this.#tiers.of(manifest), circuits: this.#channels.circuitsOf(manifest) }
  }

  #callee(path: string): Callee | undefined {
    const found = this.#byMethod.get(path)
    return found && { service: found.slots.current.bundle.manifest.name, method: found.method, version: found.apiVersion }
  }

  #provider(api: string): string | undefined {
    for (const [path, { slots }] of this.#byMethod) if (apiOf(path) === api) return slots.current.bundle.manifest.name
    return undefined
  }

  #makeSlots(bundle: VerifiedBundle, config: unknown): Slots {
    const service = bundle.manifest.name
    const make = (bundle: VerifiedBundle, config: unknown) =>
      new Instance({
        bundle,
        config,
        host: this.#host,
        startTransport: this.#tiers.start,
        clock: this.#clock,
        chance: this.#options.chance ?? Math.random,
        limits: this.#limits,
        resources: this.#resources,
        channels: this.#channels,
        on: {
          transition: (instance, transition) => slots.onTransition(instance, transition),
          health: (instance) => slots.onHealth(instance),
          silent: (instance) => slots.onSilent(instance),
        },
      })
    const slots: Slots = new Slots(
      {
        service,
        clock: this.#clock,
        limits: this.#limits,
        host: this.#host,
        make,
        watch: (transition) => {
          this.#tell(transition ? { service, transition } : { service })
          if (transition?.to === 'ready') this.#channels.back(providedBy(slots.current.bundle.manifest).keys())
        },
        provisionalFailure: (reason) => this.onProvisionalFailure(service, reason),
        spent: (reason) => this.onSpent(service, reason),
        methodsChanged: () => this.#methodsChanged(),
      },
      bundle,
      config,
    )
    return slots
  }

  /** @throws METHOD_CONFLICT */
  #checkMethods(bundle: VerifiedBundle): void {
    const reserved = this.#options.reserved ?? RESERVED
    for (const { path } of bundle.manifest.methods) {
      const other = [...this.#services].find(([name, slots]) => name !== bundle.manifest.name && serves(slots, path))
      if (other) throw new OffboxError('METHOD_CONFLICT', `${other[0]} serves ${path} already`)
      if (reserved.includes(path.split('/')[1] ?? '')) throw new OffboxError('METHOD_CONFLICT', `the agent itself serves ${path}`)
    }
  }

  async #stop(service: string, slots: Slots, reason: string): Promise<void> {
    this.#forget(service, slots)
    await slots.close(reason)
    this.#tell({ service, removed: true })
  }

  #forget(service: string, slots: Slots): void {
    if (this.#services.get(service) !== slots) return
    this.#services.delete(service)
    this.#channels.forget(service)
    this.#methodsChanged()
  }

  #methodsChanged(): void {
    this.#byMethod.clear()
    for (const slots of this.#services.values()) {
      if (slots.current.starts === 0) continue
      const { manifest } = slots.current.bundle
      const provided = providedBy(manifest)
      for (const method of manifest.methods) {
        this.#byMethod.set(method.path, { slots, method, apiVersion: provided.get(apiOf(method.path)) ?? manifest.version })
      }
    }
    this.#host.methodsChanged()
  }

  #tell(event: Parameters<Listener>[0]): void {
    for (const listener of this.#listeners) listener(event)
  }

  /** Operations on one service follow one another. @throws STATE_REFUSED while the agent is stopping */
  async #exclusively<T>(service: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(service) ?? Promise.resolve()
    const after = before.then(async () => {
      if (this.#closed) throw new OffboxError('STATE_REFUSED', 'the agent is stopping')
      return await work()
    })
    const settled = after.catch(() => {})
    this.#busy.set(service, settled)
    try {
      return await after
    } finally {
      if (this.#busy.get(service) === settled) this.#busy.delete(service)
    }
  }
}

/** Also what a version under way or kept warm declares: it may come to serve. */
function serves(slots: Slots, path: string): boolean {
  return [slots.current, slots.candidate, slots.previous].some((one) => one?.bundle.manifest.methods.some((method) => method.path === path))
}
