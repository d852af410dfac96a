/**
 * Keeps every version that runs within its memory and its CPU share. It looks at the agent's own resident memory many times a second,
 * which costs 12 us, and asks each version every second; as soon as memory rises it asks all of them, and goes on asking fast.
 */
import type { Clock } from '../../core/clock.ts'
import type { Account } from './account.ts'
import { IdleCollection } from './idle.ts'
import type { ResourceLimits } from './limits.ts'
import type { Usage } from './transport.ts'
import { blame, CpuWindow, memoryExcess, Unaccounted, type Suspect } from './usage.ts'

/** One started version. */
export interface Watched {
  readonly account: Account
  usage(): Promise<Usage | undefined>
  /** Asks it to collect its garbage. */
  collect(): void
  /** Ends it: `code` is why. */
  end(code: 'MEMORY_EXCEEDED' | 'CPU_EXCEEDED', why: string): void
}

export interface ProcessMemory {
  /** Resident memory of this process, bytes. */
  rssBytes(): number
  /** What the main thread accounts for: its heap and its buffers, bytes. */
  ownBytes(): number
}

export const processMemory: ProcessMemory = {
  rssBytes: () => process.memoryUsage.rss(),
  ownBytes: () => {
    const { heapTotal, external } = process.memoryUsage()
    return heapTotal + external
  },
}

interface Entry {
  readonly watched: Watched
  readonly cpu: CpuWindow
  readonly idle: IdleCollection
  usage: Usage | undefined
  before: Usage | undefined
  /** Since when a question has no answer, monotonic milliseconds. */
  askedAtMs: number | undefined
  ended: boolean
}

export class ResourceWatch {
  readonly #clock: Clock
  readonly #limits: ResourceLimits
  readonly #memory: ProcessMemory
  readonly #entries = new Set<Entry>()
  readonly #unaccounted: Unaccounted
  /** When everybody was last asked. */
  #askedRssBytes = 0
  #askedAtMs = 0
  #quietAtMs = 0
  #cancel: (() => void) | undefined

  constructor(clock: Clock, limits: ResourceLimits, memory: ProcessMemory = processMemory) {
    this.#clock = clock
    this.#limits = limits
    this.#unaccounted = new Unaccounted(limits)
    this.#memory = memory
  }

  /** From now on; the result ends it and is safe to call twice. */
  add(watched: Watched): () => void {
    const own = { cpu: new CpuWindow(this.#limits.cpuWindowMs), idle: new IdleCollection(this.#limits) }
    const entry: Entry = { watched, ...own, usage: undefined, before: undefined, askedAtMs: undefined, ended: false }
    this.#entries.add(entry)
    this.#unaccounted.forget()
    if (!this.#cancel) this.#arm(this.#limits.lookMs)
    return () => {
      if (!this.#entries.delete(entry)) return
      this.#unaccounted.forget()
      if (this.#entries.size > 0) return
      this.#cancel?.()
      this.#cancel = undefined
    }
  }

  #arm(delayMs: number): void {
    this.#cancel = this.#clock.after(delayMs, () => this.#look())
  }

  #look(): void {
    const nowMs = this.#clock.monotonicMs()
    const rssBytes = this.#memory.rssBytes()
    if (rssBytes - this.#askedRssBytes > this.#limits.risingMb * 2 ** 20) this.#quietAtMs = nowMs + this.#limits.alertMs
    const alert = nowMs < this.#quietAtMs
    if (alert || nowMs - this.#askedAtMs >= this.#limits.askMs) {
      this.#askedAtMs = nowMs
      this.#askedRssBytes = rssBytes
      this.#guard(nowMs, rssBytes)
      for (const entry of this.#entries) void this.#ask(entry, nowMs)
    }
    this.#arm(alert ? this.#limits.lookFastMs : this.#limits.lookMs)
  }

  async #ask(entry: Entry, askedAtMs: number): Promise<void> {
    if (entry.askedAtMs !== undefined || entry.ended) return
    entry.askedAtMs = askedAtMs
    // Not to be told is like no answer: the heartbeat has the last word on such a one.
    const usage = await entry.watched.usage().catch(() => undefined)
    entry.askedAtMs = undefined
    if (!usage || entry.ended || !this.#entries.has(entry)) return
    const nowMs = this.#clock.monotonicMs()
    entry.before = entry.usage ?? usage
    entry.usage = usage
    entry.cpu.add(nowMs, usage.cpuMs)
    const { account } = entry.watched
    account.memoryBytes = usage.memoryBytes
    account.cpuPercent = entry.cpu.percent(this.#limits.cpuShownMs)
    const excess = memoryExcess(usage, account.limits.memoryMbMax)
    if (excess !== undefined) this.#end(entry, 'MEMORY_EXCEEDED', excess)
    else if (entry.cpu.sustained(account.limits.cpuPercentMax)) {
      const percent = Math.round(entry.cpu.percent(this.#limits.cpuWindowMs))
      this.#end(entry, 'CPU_EXCEEDED', `${percent} % of a core over ${this.#limits.cpuWindowMs / 1_000} s, ${account.limits.cpuPercentMax} % allowed`)
    } else if (entry.idle.due(nowMs, usage.cpuMs)) entry.watched.collect()
  }

  /** The last resort, for what no worker reports. */
  #guard(nowMs: number, rssBytes: number): void {
    const entries = [...this.#entries]
    // One that was ended goes on filling memory until its operation is over; nobody else has to answer for that.
    if (entries.some(({ ended, usage }) => ended && (!usage || usage.inAgent))) {
      this.#unaccounted.forget()
      return
    }
    const inAgent = entries.filter(({ usage, askedAtMs }) => (usage ? usage.inAgent : askedAtMs !== undefined))
    const reported = inAgent.reduce((sum, { usage }) => sum + (usage?.memoryBytes ?? 0), 0)
    const jumpBytes = this.#unaccounted.jump(nowMs, rssBytes - this.#memory.ownBytes() - reported)
    if (jumpBytes === 0) return
    const guilty = blame(inAgent.map((entry) => ({ entry, ...this.#suspect(entry, nowMs) })))?.entry
    const risen = Math.round(jumpBytes / 2 ** 20)
    if (guilty) this.#end(guilty, 'MEMORY_EXCEEDED', `the agent's memory rose by ${risen} MiB that no service reports, while this one was at work`)
  }

  #end(entry: Entry, code: 'MEMORY_EXCEEDED' | 'CPU_EXCEEDED', why: string): void {
    entry.ended = true
    entry.watched.end(code, why)
  }

  #suspect({ askedAtMs, usage, before }: Entry, nowMs: number): Suspect {
    return {
      mute: askedAtMs !== undefined && nowMs - askedAtMs >= this.#limits.muteMs,
      grownBytes: (usage?.memoryBytes ?? 0) - (before?.memoryBytes ?? 0),
      cpuMs: (usage?.cpuMs ?? 0) - (before?.cpuMs ?? 0),
    }
  }
}
