/**
 * The `bird` capability. One confirmed configuration, kept in the state directory, and at most one provisional beside it: applied
 * with BIRD's own timer, which undoes it even when this agent is gone, and with the change engine's deadline, which comes first.
 */
import { randomUUID } from 'node:crypto'
import { access, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { ChangeEngine, ChangeRecord } from '../change/types.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import { BirdControl, type BirdSight } from './bird-control.ts'
import { BirdDaemon, type BirdPaths, birdPaths } from './bird-daemon.ts'
import { type BirdRecord, BirdRecords, emptyRecord, makeRecord } from './bird-record.ts'
import { composeConfig, configTextBytesMax, defaultText, isQuotable, screenText } from './bird-text.ts'
import { Input } from './input.ts'
import { type DriverLog, type Operations, Serial } from './types.ts'

export const birdDocumentBytesMax = 1024 * 1024
export const birdRoutesMax = 100_000
export const birdConfirmTimeoutMinMs = 5_000
export const birdConfirmTimeoutMaxMs = 3_600_000
/** BIRD's timer runs this much longer than the change engine's, so that the record and BIRD agree on who reverted. */
export const birdTimerMarginMs = 15_000
/** sun_path is 108 bytes with its final zero. */
const socketPathBytesMax = 107
const NEW_SUFFIX = '.conf.new'
const CANDIDATE = /^bird-.+\.conf$/

export interface BirdOptions {
  readonly command: string
  readonly stateDir: string
  readonly runDir: string
  /** Router id before any configuration was applied. */
  readonly address: string
  readonly files: AtomicFiles
  readonly changes: ChangeEngine
  readonly clock: Clock
  readonly log: DriverLog
}

interface Plan {
  readonly stageId: string
  readonly revision: string
}

interface Provisional {
  readonly changeId: string
  readonly record: BirdRecord
}

export class BirdDriver {
  readonly operations: Operations
  readonly #options: BirdOptions
  readonly #paths: BirdPaths
  readonly #records: BirdRecords
  readonly #control: BirdControl
  readonly #daemon: BirdDaemon
  /** Everything that changes what BIRD runs goes through here. */
  readonly #serial = new Serial()
  /** Handed from `apply` to `stage`, so that the journal need not carry the text. */
  readonly #proposed = new Map<string, BirdRecord>()
  #current: BirdRecord = emptyRecord
  #provisional: Provisional | undefined
  /** BIRD may run something else than the confirmed text. */
  #stale = true
  #reading: Promise<BirdSight> | undefined

  constructor(options: BirdOptions) {
    this.#options = options
    this.#paths = birdPaths(options.runDir)
    this.#records = new BirdRecords(options.files, options.stateDir)
    this.#control = new BirdControl(this.#paths.socket)
    this.#daemon = new BirdDaemon({
      command: options.command,
      paths: this.#paths,
      clock: options.clock,
      log: options.log,
      onDeath: async () => await this.#died(),
      onAnswer: async () => await this.#reconcile(),
    })
    this.operations = {
      check: async (_, input) => await this.#check(new Input(input)),
      apply: async (service, input) => await this.#apply(service, new Input(input)),
      current: async () => this.#live(),
      protocols: async () => await this.#protocols(),
      routes: async (_, input) => await this.#control.routes(new Input(input).integer('max', 0, birdRoutesMax)),
      setDrained: async (_, input) => await this.#setDrained(new Input(input).boolean('drained')),
      drained: async () => await this.#isDrained(),
    }
    options.changes.handle('config', {
      stage: async (record) => await this.#stage(record),
      apply: async (record) => await this.#serial.run(async () => await this.#goLive(record)),
      commit: async (record) => await this.#serial.run(async () => await this.#commit(record)),
      revert: async (record) => await this.#serial.run(async () => await this.#revert(record)),
    })
  }

  /** Before `changes.recover`. A BIRD that cannot be started is logged and tried again; it does not keep the agent from serving. */
  async start(): Promise<void> {
    const { runDir, log } = this.#options
    if (!isQuotable(runDir) || Buffer.byteLength(this.#paths.socket) > socketPathBytesMax) {
      throw new OffboxError('ARGUMENT_INVALID', `the run directory ${runDir} must be an absolute path of [A-Za-z0-9._/+@-] that leaves room for a socket name`)
    }
    await mkdir(runDir, { recursive: true, mode: 0o700 })
    await this.#sweep()
    try {
      this.#current = await this.#records.current()
    } catch (error) {
      // Set aside by now. The device still boots, routes nothing, and is given its configuration again by the controller.
      log.error({ error: messageOf(error) }, 'the stored BIRD configuration cannot be used')
    }
    await this.#writeConfig(this.#paths.config, this.#current)
    await this.#daemon.start()
  }

  /** BIRD itself keeps running, and with it the traffic, unless `stopBird`. */
  async close(options: { stopBird?: boolean } = {}): Promise<void> {
    await this.#daemon.close(options)
  }

  async #check(input: Input): Promise<{ revision: string }> {
    const record = makeRecord(input.text('text', configTextBytesMax), new Uint8Array())
    await this.#parse(record)
    return { revision: record.revision }
  }

  async #apply(service: string, input: Input): Promise<{ changeId: string; revision: string }> {
    // Copied: the document must not change under us while it waits.
    const record = makeRecord(input.text('text', configTextBytesMax), input.bytes('document', birdDocumentBytesMax).slice())
    const confirmTimeoutMs = input.integer('confirmTimeoutMs', birdConfirmTimeoutMinMs, birdConfirmTimeoutMaxMs)
    const [comment, author] = [input.text('comment', 1024), input.text('author', 1024)]
    if (this.#provisional) throw inProgress(this.#provisional)
    screenText(record.text)
    const plan: Plan = { stageId: randomUUID(), revision: record.revision }
    this.#proposed.set(plan.stageId, record)
    try {
      const change = await this.#options.changes.propose({
        kind: 'config',
        service,
        from: this.#current.revision,
        to: record.revision,
        author,
        reason: comment,
        plan,
        bakeMs: 0,
        confirmTimeoutMs,
      })
      return { changeId: change.id, revision: record.revision }
    } finally {
      this.#proposed.delete(plan.stageId)
    }
  }

  async #stage({ plan }: ChangeRecord): Promise<void> {
    const { stageId } = plan as Plan
    const record = this.#proposed.get(stageId)
    if (!record) throw new OffboxError('STATE_REFUSED', 'the candidate configuration is gone')
    await this.#parse(record)
    await this.#records.stage(stageId, record)
  }

  async #goLive(change: ChangeRecord): Promise<{ heldMs: number; heldCalls: number }> {
    // Two services may each have proposed one; the engine counts per service, BIRD has one configuration.
    if (this.#provisional) throw inProgress(this.#provisional)
    const { stageId } = change.plan as Plan
    const record = this.#proposed.get(stageId)
    if (!record) throw new OffboxError('STATE_REFUSED', 'the candidate configuration is gone')
    const path = join(this.#options.runDir, `bird-${stageId}.conf`)
    await this.#writeConfig(path, record)
    const timerS = Math.ceil((change.confirmTimeoutMs + birdTimerMarginMs) / 1000)
    try {
      // From here on what runs is unknown until BIRD has answered.
      this.#stale = true
      await this.#control.configure(path, timerS)
    } finally {
      await rm(path, { force: true })
    }
    this.#provisional = { changeId: change.id, record }
    return { heldMs: 0, heldCalls: 0 }
  }

  async #commit({ plan }: ChangeRecord): Promise<void> {
    const { stageId, revision } = plan as Plan
    const candidate = await this.#records.candidate(stageId)
    if (candidate) {
      await this.#records.setCurrent(candidate)
      this.#current = candidate
    } else if (this.#current.revision !== revision) {
      throw new OffboxError('STORE_CORRUPT', 'the confirmed configuration is not in the store')
    }
    await this.#writeConfig(this.#paths.config, this.#current)
    this.#provisional = undefined
    this.#stale = true
    // The same text once more, from its lasting place: it disarms BIRD's timer, and puts it back should the timer have been first.
    await this.#configureCurrent()
    await this.#records.discard(stageId)
  }

  async #revert({ id, plan }: ChangeRecord): Promise<void> {
    // A change that was refused while another one is provisional never touched BIRD: the other one must stay.
    if (!this.#provisional || this.#provisional.changeId === id) {
      this.#provisional = undefined
      this.#stale = true
      await this.#writeConfig(this.#paths.config, this.#current)
      await this.#configureCurrent()
    }
    await this.#records.discard((plan as Plan).stageId)
  }

  /** A BIRD that does not answer now is brought into line by the watch, which starts it with the file just written. */
  async #configureCurrent(): Promise<void> {
    try {
      await this.#control.configure(this.#paths.config)
      this.#stale = false
    } catch (error) {
      this.#options.log.error({ error: messageOf(error) }, 'BIRD did not take the confirmed configuration; it is tried again')
    }
  }

  async #reconcile(): Promise<void> {
    if (!this.#stale || this.#provisional) return
    await this.#serial.run(async () => {
      if (!this.#stale || this.#provisional) return
      await this.#writeConfig(this.#paths.config, this.#current)
      await this.#configureCurrent()
    })
  }

  /** A configuration under which BIRD dies before it was confirmed is not kept. */
  async #died(): Promise<void> {
    this.#stale = true
    const provisional = this.#provisional
    if (!provisional) return
    try {
      await this.#options.changes.revert(provisional.changeId, 'BIRD died while its new configuration was unconfirmed', 'DRIVER_FAILED')
    } catch (error) {
      this.#options.log.error({ changeId: provisional.changeId, error: messageOf(error) }, 'the configuration change could not be reverted')
    }
  }

  #live(): Record<string, unknown> {
    const { text, document, revision } = this.#provisional?.record ?? this.#current
    return { text, document: document.slice(), revision, provisional: this.#provisional !== undefined, changeId: this.#provisional?.changeId ?? '' }
  }

  /** Callers at the same time share one question to BIRD. */
  async #protocols(): Promise<BirdSight> {
    this.#reading ??= this.#control.protocols().finally(() => {
      this.#reading = undefined
    })
    return await this.#reading
  }

  async #setDrained(drained: boolean): Promise<void> {
    await this.#serial.run(async () => {
      if (this.#provisional) throw inProgress(this.#provisional)
      const before = await this.#isDrained()
      await this.#markDrained(drained)
      try {
        await this.#writeConfig(this.#paths.config, this.#current)
        await this.#control.configure(this.#paths.config)
      } catch (error) {
        await this.#markDrained(before)
        this.#stale = true
        await this.#writeConfig(this.#paths.config, this.#current)
        throw error
      }
      // BIRD re-announces by itself where it sees that a filter changed; asking again costs one update and misses nobody.
      await this.#control.announceAgain()
    })
  }

  async #isDrained(): Promise<boolean> {
    try {
      await access(this.#drainedPath())
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      throw error
    }
  }

  /** In the run directory: a drain outlives the agent and BIRD, and ends with a reboot. */
  async #markDrained(drained: boolean): Promise<void> {
    if (drained) await writeFile(this.#drainedPath(), '', { mode: 0o600 })
    else await rm(this.#drainedPath(), { force: true })
  }

  #drainedPath(): string {
    return join(this.#options.runDir, 'bird.drained')
  }

  /** @throws CONFIG_INVALID, DRIVER_FAILED */
  async #parse(record: BirdRecord): Promise<void> {
    screenText(record.text)
    const path = join(this.#options.runDir, `bird-check-${randomUUID()}.conf`)
    try {
      await this.#writeConfig(path, record)
      await this.#control.check(path)
    } finally {
      await rm(path, { force: true })
    }
  }

  /** Removes the candidates that a killed agent left. */
  async #sweep(): Promise<void> {
    const { runDir } = this.#options
    const left = (await readdir(runDir)).filter((name) => CANDIDATE.test(name) || name.endsWith(NEW_SUFFIX))
    for (const name of left) await rm(join(runDir, name), { force: true })
  }

  async #writeConfig(path: string, record: BirdRecord): Promise<void> {
    const text = record.text === '' ? defaultText(this.#options.address) : record.text
    const logPath = join(this.#options.runDir, 'bird.log')
    // Renamed into place, so that a BIRD starting now reads a whole file. Not durable: a reboot empties the run directory.
    const next = path.replace(/\.conf$/, NEW_SUFFIX)
    try {
      await writeFile(next, composeConfig({ text, drained: await this.#isDrained(), logPath }), { mode: 0o600 })
      await rename(next, path)
    } catch (error) {
      await rm(next, { force: true })
      throw error
    }
  }
}

function inProgress({ changeId }: Provisional): OffboxError {
  return new OffboxError('SWAP_IN_PROGRESS', `the configuration change ${changeId} is not confirmed yet`)
}
