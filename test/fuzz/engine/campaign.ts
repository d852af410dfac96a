/**
 * Runs one target again and again on inputs made from its seeds; those that reach code that none had reached become seeds themselves. Bounds
 * on work and memory are checked for each execution: what breaks one is a crash as well.
 */
import { Crash, execute, type Outcome, type Target } from '../target.ts'
import type { Coverage } from './coverage.ts'
import { mutate } from './mutate.ts'
import type { Random } from './random.ts'

export interface Bounds {
  readonly cpuMsMax: number
  readonly workMax: number
  readonly workPerByteMax: number
  readonly residentMbMax: number
  readonly heapMbMax: number
}

export const BOUNDS: Bounds = {
  /** CPU of one execution, milliseconds: what it takes at most is a few hundred, of tweetnacl alone. Regular expressions count here only. */
  cpuMsMax: 5_000,
  /** Blocks executed, for an input of any size, and for each byte of it. */
  workMax: 20_000_000,
  workPerByteMax: 2_000,
  /** Growth of the process's largest resident size over what it was when the campaign began, MiB; a frame of 73 MiB fits. */
  residentMbMax: 512,
  /** Heap of the campaign's thread, MiB; V8 enforces it. */
  heapMbMax: 192,
}

const BATCH = 64
const CORPUS_MAX = 2_000
/** Kinds of crash after which a campaign ends. */
export const CRASHES_MAX = 20

export interface Progress {
  executions: number
  /** How executions ended. */
  readonly outcomes: Record<Outcome, number>
  /** One for each place and text. */
  readonly crashes: Map<string, Crash>
  corpus: number
}

export interface CampaignOptions {
  readonly target: Target
  readonly random: Random
  /** Null: blind. */
  readonly coverage: Coverage | null
  /** Inputs are kept for what they reach; otherwise coverage is only measured. */
  readonly guided: boolean
  readonly bounds?: Bounds
  /** Executions between two looks at coverage. */
  readonly batch?: number
  /** Asked before each batch. */
  readonly goesOn: (progress: Progress) => boolean
  /** Told of each input before it is executed, in case there is no after. */
  readonly before?: (input: Uint8Array) => void
}

/** Never rejects for what a target does. */
export async function runCampaign(options: CampaignOptions): Promise<Progress> {
  const { target, random, coverage, guided, batch: batchSize = BATCH, bounds = BOUNDS, goesOn } = options
  const campaign = new Campaign(options)
  const seeds = target.seeds()
  const corpus = [...seeds]
  for (const seed of corpus) await campaign.once(seed)
  coverage?.take()
  while (goesOn(campaign.progress)) {
    // Most of what is new was refused early: without the seeds little would be accepted.
    const parent = () => random.pick(random.chance(2) ? seeds : corpus)
    const batch = Array.from({ length: batchSize }, () => mutate(random, parent(), { corpus, bytesMax: target.inputBytesMax, json: target.form === 'json' }))
    for (const input of batch) await campaign.once(input)
    const taken = coverage?.take()
    if (!coverage || !taken) continue
    const gains = guided && taken.gained > 0 && corpus.length < CORPUS_MAX
    if (gains) coverage.undo()
    if (gains || taken.work > bounds.workMax) corpus.push(...(await campaign.oneByOne(batch, coverage)))
  }
  return { ...campaign.progress, corpus: corpus.length }
}

class Campaign {
  readonly progress: Progress = { executions: 0, outcomes: {}, crashes: new Map(), corpus: 0 }
  readonly #target: Target
  readonly #before: (input: Uint8Array) => void
  readonly #bounds: Bounds
  readonly #baseMb = residentMb()

  constructor({ target, before, bounds = BOUNDS }: CampaignOptions) {
    this.#target = target
    this.#bounds = bounds
    this.#before = before ?? (() => {})
  }

  async once(input: Uint8Array): Promise<void> {
    const { progress } = this
    this.#before(input)
    progress.executions += 1
    const startedMs = cpuMs()
    try {
      const outcome = await execute(this.#target, input)
      progress.outcomes[outcome] = (progress.outcomes[outcome] ?? 0) + 1
    } catch (error) {
      if (!(error instanceof Crash)) throw error
      this.#note(error)
    }
    const tookMs = cpuMs() - startedMs
    if (tookMs > this.#bounds.cpuMsMax) this.#over(input, 'took more CPU than any input may')
    if (residentMb() - this.#baseMb > this.#bounds.residentMbMax) this.#over(input, `took more than ${this.#bounds.residentMbMax} MiB of memory`)
  }

  /** A batch again, to tell its inputs apart. @returns those that reached something new */
  async oneByOne(batch: readonly Uint8Array[], coverage: Coverage): Promise<Uint8Array[]> {
    const keepers: Uint8Array[] = []
    for (const input of batch) {
      await this.once(input)
      const { gained, work } = coverage.take()
      if (gained > 0) keepers.push(input)
      if (work > this.#bounds.workMax + this.#bounds.workPerByteMax * input.length) this.#over(input, 'did more work than its size allows')
    }
    return keepers
  }

  #over(input: Uint8Array, what: string): void {
    this.#note(new Crash(this.#target.name, input, new Error(what)))
  }

  /** The smallest input of each kind is kept. */
  #note(crash: Crash): void {
    const kind = crash.message.replace(/\d+/g, 'N')
    const known = this.progress.crashes.get(kind)
    if (!known || known.input.length > crash.input.length) this.progress.crashes.set(kind, crash)
  }
}

/** CPU of this thread, milliseconds. */
function cpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1_000
}

/** The largest that the process has ever been, MiB. */
function residentMb(): number {
  return process.resourceUsage().maxRSS / 1_024
}
