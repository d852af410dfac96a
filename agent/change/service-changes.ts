/** Install, upgrade and removal of services as changes: what each step does to the store and to the supervisor. */
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import { type Capability, KERNEL_VERSION, type Manifest } from '../../core/manifest.ts'
import type { Clock } from '../../core/clock.ts'
import { confirmTimeoutMsDefault, reasonCharsMax, serviceRetryMsMax, serviceRetryMsMin } from '../limits.ts'
import { WIRE_LIMITS } from '../../services/sdk/wire.ts'
import type { Supervisor, VerifiedBundle } from '../supervisor/types.ts'
import { admit, admitFloor } from '../trust/admit.ts'
import type { BundleTrust } from '../trust/bundle-trust.ts'
import { type Evidence, NO_EVIDENCE } from '../trust/evidence.ts'
import type { FloorStore } from '../trust/floors.ts'
import type { BundleStore } from '../trust/store.ts'
import { admitDependencies, admitRemoval, kernelUnsatisfied, refuse, unsatisfied } from './dependencies.ts'
import type { Engine } from './engine.ts'
import { InstalledServices } from './installed.ts'
import { admitRoom, type Room } from './preflight.ts'
import { slotOf } from './rules.ts'
import { startInOrder } from './start-order.ts'
import type { ChangeHandler, ChangeRecord } from './types.ts'

export interface ServiceChangesOptions {
  readonly engine: Engine
  readonly supervisor: Supervisor
  readonly bundles: BundleStore
  readonly floors: FloorStore
  readonly trust: Pick<BundleTrust, 'ordered' | 'admitStored'>
  readonly granted: ReadonlySet<Capability>
  /** Whether the agent itself serves a method. */
  readonly isOwnMethod: (path: string) => boolean
  /** Memory and disk there are now; without it versions are admitted unasked. */
  readonly room?: () => Promise<Room>
  /** Removes what drivers keep for a service. Safe to repeat. */
  readonly forgetState: (service: string) => Promise<void>
  readonly clock: Clock
  readonly log: { info(fields: object, message: string): void; error(fields: object, message: string): void }
}

export interface ServiceOrder {
  readonly kind: 'install' | 'upgrade'
  readonly service: string
  readonly version: string
  readonly allowDowngrade: boolean
  readonly bakeMs: number
  readonly confirmTimeoutMs: number
  /** Parsed JSON; undefined: keep what the service has, or {}. */
  readonly config: unknown
  readonly reason: string
  readonly author: string
}

interface Upload {
  readonly file: Uint8Array
  readonly bundle: VerifiedBundle
  readonly config: unknown
}

/** An active version, verified. */
interface Loaded {
  readonly bundle: VerifiedBundle
  readonly config: unknown
}

export class ServiceChanges {
  readonly #options: ServiceChangesOptions
  /** By the token in the change's plan, while its change is under way in this process. */
  readonly #uploads = new Map<string, Upload>()
  readonly #retries = new Map<string, () => void>()
  /** Why a stored service did not start, by its name. */
  readonly #refused = new Map<string, string>()
  /** Services that start since what is trusted has changed. */
  readonly #reconsidered = new Map<string, Promise<void>>()
  readonly #installed: InstalledServices
  #tokens = 0
  #closed = false

  /** Registers its handlers with the engine; call before `engine.recover`. */
  constructor(options: ServiceChangesOptions) {
    this.#options = options
    this.#installed = new InstalledServices(options.supervisor, () => options.engine.all())
    options.engine.handle('install', this.#versionHandler())
    options.engine.handle('upgrade', this.#versionHandler())
    options.engine.handle('remove', this.#removalHandler())
    options.supervisor.onProvisionalFailure = (service, reason) => this.#failed(service, reason)
    options.supervisor.onSpent = (service, reason) => void this.#fallBack(service, reason)
  }

  /**
   * Verifies, admits and runs a bundle until its change is provisional. An order for what runs already is answered with its
   * change, so that a caller who lost the answer may repeat the order.
   * @throws what BundleTrust.ordered, admit and the supervisor throw; PREFLIGHT_REFUSED, DEPENDENCY_UNSATISFIED, SERVICE_EXISTS, SERVICE_NOT_FOUND, BUNDLE_EXISTS, SWAP_IN_PROGRESS
   */
  async order(order: ServiceOrder, file: Uint8Array, evidence: Evidence = NO_EVIDENCE): Promise<ChangeRecord> {
    const { engine, bundles, floors, granted, supervisor, trust } = this.#options
    const bundle = await trust.ordered(order, file, evidence)
    const { service, version, kind } = order
    // What came with the order may have let the stored version start: that is what is to be replaced.
    await this.#reconsidered.get(service)
    const running = supervisor.get(service)
    const active = await bundles.active(service)
    const present = running?.version ?? active?.version
    const servedBy = (path: string) => (this.#options.isOwnMethod(path) ? 'agent' : supervisor.methods().find((method) => method.path === path)?.service)
    admit(bundle.manifest, { ordered: order, floor: floors.of(service), running: present, granted, servedBy })
    supervisor.checkTier(bundle.manifest)
    if (running && running.version === version) {
      if (running.manifestSha256 !== bundle.manifestSha256)
        throw new OffboxError('BUNDLE_EXISTS', `another bundle of ${service} ${version} runs; raise the version`)
      const last = this.#lastOf(service, version)
      const current = last?.state === 'provisional' ? await bundles.candidate(service, last.id) : active
      const same = order.config === undefined || kind === 'install' || JSON.stringify(order.config) === JSON.stringify(current?.config)
      if (last && same) return last
    }
    if (kind === 'install' && present !== undefined && present !== version)
      throw new OffboxError('SERVICE_EXISTS', `${service} ${present} is installed; use Upgrade`)
    if (kind === 'upgrade' && present === undefined) throw new OffboxError('SERVICE_NOT_FOUND', `${service} is not installed on this device`)
    await this.#admitRoom(bundle.manifest, file.byteLength)
    // No pause between this and the note that it is coming: two orders that exclude one another must not both pass.
    admitDependencies(bundle.manifest, this.#installed.list(), KERNEL_VERSION)
    this.#tokens += 1
    const token = `${this.#tokens}`
    this.#uploads.set(token, { file, bundle, config: order.config ?? active?.config ?? {} })
    try {
      const { bakeMs, confirmTimeoutMs, reason, author } = order
      const plan = { token, manifests: { from: running?.manifestSha256 ?? '', to: bundle.manifestSha256 } }
      const change = { kind, service, from: present ?? '', to: version, author, reason, plan, bakeMs, confirmTimeoutMs }
      return await this.#installed.while({ coming: bundle.manifest }, async () => await engine.propose(change))
    } finally {
      this.#uploads.delete(token)
    }
  }

  /** @throws PREFLIGHT_REFUSED */
  async #admitRoom(manifest: Manifest, bundleBytes: number): Promise<void> {
    const { engine, supervisor, bundles, room } = this.#options
    if (!room) return
    const { name } = manifest
    const running = supervisor.get(name)
    const changes = engine
      .all()
      .filter((record) => !record.settled && record.service !== name && slotOf(record) === slotOf({ kind: 'install', service: record.service }))
    const others = (await bundles.services()).filter((service) => service !== name).length
    const presentBytes = running?.use.memoryBytes ?? 0
    // While it is handed over, state may be there twice; it is part of what is used.
    const stateBytes = running && running.manifest.snapshot.writes.length > 0 ? Math.min(presentBytes, WIRE_LIMITS.snapshotBytesMax) : 0
    admitRoom({ manifest, bundleBytes, presentBytes, stateBytes }, await room(), { others, changesOpen: changes.length })
  }

  /** @throws SERVICE_NOT_FOUND, SWAP_IN_PROGRESS, DEPENDENCY_UNSATISFIED others require what it provides */
  async remove(service: string, by: { author: string; reason: string }): Promise<ChangeRecord> {
    const { engine, bundles, supervisor } = this.#options
    const running = supervisor.get(service)
    const version = running?.version ?? (await bundles.active(service))?.version
    if (version === undefined) throw new OffboxError('SERVICE_NOT_FOUND', `${service} is not installed on this device`)
    const plan = { manifests: { from: running?.manifestSha256 ?? '', to: '' } }
    admitRemoval(service, this.#installed.list())
    const change = { kind: 'remove', service, from: version, to: '', ...by, plan, bakeMs: 0, confirmTimeoutMs: 0, permanent: true } as const
    return await this.#installed.while({ leaving: service }, async () => await engine.propose(change))
  }

  /**
   * After `engine.recover`: starts every active version, those first whose APIs others call. Resolves when each runs or has failed once.
   * A range that does not hold here keeps nothing from starting: its calls fail until it does.
   */
  async startActive(): Promise<void> {
    const { bundles, engine, clock, log } = this.#options
    const open = new Set(engine.all().flatMap((record) => (record.settled ? [] : [record.service])))
    const services = (await bundles.services()).filter((service) => !open.has(service))
    const loaded = new Map<string, Promise<Loaded | undefined>>()
    const manifests: Manifest[] = []
    const load = async (service: string) => {
      try {
        await bundles.dropAll(service)
        await bundles.collect(service)
      } catch (error) {
        log.error({ service, err: error }, 'what an interrupted change left could not be removed')
      }
      // What cannot be loaded is told when it is to start: a second look would find it set aside, and not say why.
      const loading = this.#load(service)
      loaded.set(service, loading)
      const found = await loading.catch(() => undefined)
      if (found) manifests.push(found.bundle.manifest)
    }
    await Promise.all(services.map(load))
    await startInOrder(services, manifests, clock, async (service) => await this.#startActive(service, serviceRetryMsMin, loaded.get(service)))
    for (const missing of unsatisfied(this.#installed.list())) log.error(missing, 'a range of a service does not hold here')
  }

  /** What is trusted has changed: stored services that were refused for it may start now. */
  async reconsider(): Promise<void> {
    const refused = [...this.#refused].filter(([, reason]) => /^(POLICY_DENIED|BUNDLE_UNTRUSTED):/.test(reason)).map(([service]) => service)
    const start = async (service: string) => {
      const started = this.#startActive(service, serviceRetryMsMin)
      this.#reconsidered.set(service, started)
      await started.finally(() => this.#reconsidered.delete(service))
    }
    await Promise.all(refused.map(start))
  }

  /** Stored versions that do not run, for the inventory; `reason`: why the last start was refused, with its code. */
  async down(): Promise<{ service: string; version: string; reason: string }[]> {
    const found: { service: string; version: string; reason: string }[] = []
    for (const service of await this.#options.bundles.services()) {
      if (this.#options.supervisor.get(service)) continue
      const active = await this.#options.bundles.active(service).catch(() => null)
      if (active) found.push({ service, version: active.version, reason: this.#refused.get(service) ?? '' })
    }
    return found
  }

  close(): void {
    this.#closed = true
    for (const cancel of this.#retries.values()) cancel()
  }

  /** Undefined: nothing of it is active. @throws as BundleStore.load */
  async #load(service: string): Promise<Loaded | undefined> {
    const { bundles } = this.#options
    const active = await bundles.active(service)
    if (!active) return undefined
    const bundle = await bundles.load(service, active.version)
    this.#installed.stored(bundle.manifest)
    return { bundle, config: active.config }
  }

  async #startActive(service: string, retryMs: number, loaded?: Promise<Loaded | undefined>): Promise<void> {
    const { floors, supervisor, engine, log, clock, trust } = this.#options
    this.#retries.delete(service)
    this.#refused.delete(service)
    const busy = engine.all().some((record) => !record.settled && slotOf(record) === slotOf({ kind: 'install', service }))
    if (this.#closed || busy || supervisor.get(service)) return
    try {
      const { bundle, config } = (await (loaded ?? this.#load(service))) ?? {}
      if (!bundle) return
      trust.admitStored(bundle)
      admitFloor(bundle.manifest, floors.of(service))
      const kernel = kernelUnsatisfied(bundle.manifest, KERNEL_VERSION)
      if (kernel) refuse([kernel])
      await supervisor.install(bundle, config)
      await supervisor.commit(service)
      log.info({ service, version: bundle.manifest.version }, 'service started')
    } catch (error) {
      const code = codeOf(error)
      // What is stored will not become trusted or whole by itself; what did not start may start later.
      const final = code.startsWith('BUNDLE_') || ['STORE_CORRUPT', 'DEPENDENCY_UNSATISFIED', 'POLICY_DENIED'].includes(code)
      this.#refused.set(service, `${code}: ${messageOf(error)}`.slice(0, reasonCharsMax))
      log.error({ service, code, err: error, ...(final ? {} : { retryMs }) }, 'a stored service does not start')
      if (final || this.#closed) return
      const again = () => void this.#startActive(service, Math.min(retryMs * 2, serviceRetryMsMax))
      this.#retries.set(service, clock.after(retryMs, again))
    }
  }

  #versionHandler(): ChangeHandler {
    const { bundles, supervisor, log } = this.#options
    const fallenBack = (record: ChangeRecord) => (record.plan as { lastGood?: boolean }).lastGood === true
    const upload = (record: ChangeRecord): Upload => {
      const found = this.#uploads.get((record.plan as { token: string }).token)
      if (!found) throw new Error(`the upload of change ${record.id} is gone`)
      return found
    }
    return {
      stage: async (record, track) => {
        track.mark('store')
        if (fallenBack(record)) {
          const { version, config } = await this.#lastGood(record)
          return await bundles.stage(record.service, null, { version, config, changeId: record.id })
        }
        const { file, config } = upload(record)
        await bundles.stage(record.service, file, { version: record.to, config, changeId: record.id })
      },
      apply: async (record, track) => {
        const { bundle, config } = fallenBack(record) ? await this.#lastGood(record) : upload(record)
        this.#retries.get(record.service)?.()
        return supervisor.get(record.service) ? await supervisor.swap(bundle, config, track) : await supervisor.install(bundle, config, track)
      },
      commit: async (record, track) => {
        track.mark('activate')
        await bundles.commit(record.service, record.id, { fallenBack: fallenBack(record) }).catch((error) => {
          // Trying again cannot bring it back: the version before stays the one to start, and the controller sees which runs.
          if (codeOf(error) !== 'STORE_CORRUPT') throw error
          log.error({ service: record.service, change: record.id, err: error }, 'a confirmed version is lost')
        })
        await supervisor.commit(record.service, track)
        await bundles.collect(record.service)
      },
      revert: async (record, track) => {
        await supervisor.revert(record.service, record.reason, track)
        track.mark('drop')
        await bundles.drop(record.service, record.id)
        await bundles.collect(record.service)
        if (record.from !== '' && !supervisor.get(record.service)) this.#restartLater(record.service)
      },
    }
  }

  #removalHandler(): ChangeHandler {
    const { bundles, supervisor, forgetState } = this.#options
    return {
      stage: async () => {},
      apply: async () => ({ heldMs: 0, heldCalls: 0 }),
      commit: async (record, track) => {
        this.#retries.get(record.service)?.()
        await supervisor.remove(record.service, track)
        track.mark('forget')
        await bundles.forget(record.service)
        this.#installed.forget(record.service)
        await forgetState(record.service)
      },
      revert: async () => {},
    }
  }

  /** A version before that was down when the change began: tried again once the change is settled. */
  #restartLater(service: string): void {
    if (this.#closed) return
    this.#retries.get(service)?.()
    this.#retries.set(
      service,
      this.#options.clock.after(serviceRetryMsMin, () => void this.#startActive(service, serviceRetryMsMin)),
    )
  }

  #failed(service: string, reason: string): void {
    const { engine, log } = this.#options
    const change = engine.all().find((record) => !record.settled && slotOf(record) === slotOf({ kind: 'install', service }))
    if (!change) return
    engine.revert(change.id, reason, 'SWAP_ROLLED_BACK').catch((error) => {
      // Confirmed in the same moment: then the version stays, and the supervisor's restart policy has it.
      log.error({ service, change: change.id, code: codeOf(error), error: messageOf(error) }, 'a failing version could not be reverted')
    })
  }

  /** @throws BUNDLE_NOT_FOUND, and what loading and admitting a stored bundle throws */
  async #lastGood({ service, to }: Pick<ChangeRecord, 'service' | 'to'>): Promise<{ bundle: VerifiedBundle; version: string; config: unknown }> {
    const { bundles, floors, trust } = this.#options
    const lastGood = await bundles.lastGood(service)
    if (lastGood?.version !== to) throw new OffboxError('BUNDLE_NOT_FOUND', `${service} ${to} is no longer kept as the last good version`)
    const bundle = await bundles.load(service, to)
    trust.admitStored(bundle)
    admitFloor(bundle.manifest, floors.of(service))
    return { bundle, version: to, config: lastGood.config }
  }

  /** A confirmed version has crashed too often: the one before is tried, once, before the service stays down. */
  async #fallBack(service: string, reason: string): Promise<void> {
    const { bundles, engine, log } = this.#options
    try {
      const [active, lastGood] = [await bundles.active(service), await bundles.lastGood(service)]
      if (!active || !lastGood || this.#closed) return
      const why = `${active.version} crashed too often (${reason}): back to the last good version`.slice(0, reasonCharsMax)
      const change = { kind: 'upgrade', service, from: active.version, to: lastGood.version, author: 'agent', reason: why, plan: { lastGood: true } } as const
      await engine.propose({ ...change, bakeMs: 0, confirmTimeoutMs: confirmTimeoutMsDefault, permanent: true })
      log.info({ service, from: active.version, to: lastGood.version }, 'the last good version serves again')
    } catch (error) {
      log.error({ service, code: codeOf(error), error: messageOf(error) }, 'the service stays down: its last good version could not be brought back')
    }
  }

  #lastOf(service: string, version: string): ChangeRecord | undefined {
    const of = this.#options.engine.all().filter((record) => record.service === service && slotOf(record).endsWith('/version'))
    return of.find((record) => record.to === version && (record.state === 'provisional' || record.state === 'confirmed'))
  }
}
