/** Readings of the machine, shared by all callers: however many ask, each source is read at most once in its time. */
import type { BgpSessionInit, TelemetrySampleInit } from '../../proto/gen/telemetry.ts'
import { type Capabilities, OffboxError, type ServiceContext } from '../sdk/service.ts'

/** Counters and CPU: hundreds of calls a second must not mean thousands of reads of /proc and /sys. */
export const countersAgeMaxMs = 250
/** BIRD is one thread that has routes to compute. */
export const sessionsAgeMaxMs = 1_000

export interface Readings {
  readonly sample: Omit<TelemetrySampleInit, 'sequence' | 'callSequence' | 'serviceVersion' | 'atMs'>
  /** Why there are no sessions in the sample; empty when there are. */
  readonly birdFailure: string
}

export class Sampler {
  readonly #links: Cached<Awaited<ReturnType<NonNullable<Capabilities['link']>['interfaces']>>>
  readonly #proc: Cached<Awaited<ReturnType<NonNullable<Capabilities['proc']>['read']>>>
  readonly #sessions: Cached<{ sessions: BgpSessionInit[]; failure: string }>

  constructor({ capabilities, nowMs }: Pick<ServiceContext, 'capabilities' | 'nowMs'>) {
    const { link, proc, bird } = capabilities
    if (!link || !proc || !bird) throw new OffboxError('CAPABILITY_DENIED', 'telemetry needs the capabilities link, proc and bird')
    this.#links = new Cached(countersAgeMaxMs, nowMs, async () => await link.interfaces())
    this.#proc = new Cached(countersAgeMaxMs, nowMs, async () => await proc.read())
    this.#sessions = new Cached(sessionsAgeMaxMs, nowMs, async () => {
      try {
        const { protocols } = await bird.protocols()
        const bgp = protocols.filter(({ type }) => type === 'BGP')
        const sessions = bgp.map(({ name, neighborAddress, info, routesImported }) => ({ name, neighborAddress, state: info, routesImported }))
        return { sessions, failure: '' }
      } catch (error) {
        // A sample without sessions is worth more than none.
        return { sessions: [], failure: error instanceof Error ? error.message : String(error) }
      }
    })
  }

  /** @param withLoad1 since 1.1.0. @throws DRIVER_FAILED the kernel's tables cannot be read */
  async read(withLoad1: boolean): Promise<Readings> {
    const [interfaces, { load1, ...proc }, { sessions, failure }] = await Promise.all([this.#links.get(), this.#proc.get(), this.#sessions.get()])
    return { sample: { interfaces, ...proc, bgpSessions: sessions, ...(withLoad1 ? { load1 } : {}) }, birdFailure: failure }
  }
}

/** One value, read again when it is older than `ageMaxMs`. A failed reading is not kept. */
class Cached<T> {
  readonly #ageMaxMs: number
  readonly #nowMs: () => number
  readonly #read: () => Promise<T>
  #value: { value: T; atMs: number } | undefined
  #reading: Promise<T> | undefined

  constructor(ageMaxMs: number, nowMs: () => number, read: () => Promise<T>) {
    this.#ageMaxMs = ageMaxMs
    this.#nowMs = nowMs
    this.#read = read
  }

  async get(): Promise<T> {
    const ageMs = this.#value ? this.#nowMs() - this.#value.atMs : Number.POSITIVE_INFINITY
    // Below zero: the clock was set back, and an age means nothing.
    if (this.#value && ageMs >= 0 && ageMs <= this.#ageMaxMs) return this.#value.value
    this.#reading ??= this.#refresh().finally(() => {
      this.#reading = undefined
    })
    return await this.#reading
  }

  async #refresh(): Promise<T> {
    const atMs = this.#nowMs()
    const value = await this.#read()
    this.#value = { value, atMs }
    return value
  }
}
