/**
 * Calls at a constant rate, whether or not those before have been answered. A call's time counts from when it was due, so that a server
 * that stands still is seen by every call that it keeps waiting.
 */
import { messageOf } from '../../core/errors.ts'
import type { Peer } from './peer.ts'

interface Sample {
  /** When it was due, performance.now. */
  readonly dueMs: number
  readonly tookMs: number
}

export class OpenLoop {
  readonly #peer: Peer
  readonly #intervalMs: number
  readonly #samples: Sample[] = []
  readonly #underWay = new Set<Promise<void>>()
  #running = true
  calls = 0
  failed = 0
  again = 0
  readonly failures = new Map<string, number>()

  constructor(peer: Peer, perSecond: number) {
    this.#peer = peer
    this.#intervalMs = 1_000 / perSecond
    void this.#run()
  }

  /** The longest that a call due between these times took, failed ones too. After `stop`: before, those under way are not known yet. */
  worstMs(fromMs: number, toMs: number): number {
    return Math.max(0, ...this.#samples.filter(({ dueMs }) => dueMs >= fromMs && dueMs < toMs).map(({ tookMs }) => tookMs))
  }

  async stop(): Promise<void> {
    this.#running = false
    await Promise.all(this.#underWay)
  }

  async #run(): Promise<void> {
    for (let dueMs = performance.now(); this.#running; dueMs += this.#intervalMs) {
      const early = dueMs - performance.now()
      if (early > 0) await new Promise((resolve) => setTimeout(resolve, early))
      const one = this.#one(dueMs).finally(() => this.#underWay.delete(one))
      this.#underWay.add(one)
    }
  }

  async #one(dueMs: number): Promise<void> {
    this.calls++
    try {
      if ((await this.#peer.call()) === 'again') this.again++
    } catch (error) {
      this.failed++
      const text = messageOf(error)
      this.failures.set(text, (this.failures.get(text) ?? 0) + 1)
    }
    this.#samples.push({ dueMs, tookMs: performance.now() - dueMs })
  }
}
