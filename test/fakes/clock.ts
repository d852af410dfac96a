/** A clock that stands still until it is told. */
import type { Clock } from '../../core/clock.ts'

export class FakeClock implements Clock {
  #nowMs = 0
  #sequence = 0
  readonly #timers = new Map<number, { atMs: number; callback: () => void }>()

  nowMs(): number {
    return 1_700_000_000_000 + this.#nowMs
  }

  monotonicMs(): number {
    return this.#nowMs
  }

  after(delayMs: number, callback: () => void): () => void {
    this.#sequence += 1
    const id = this.#sequence
    this.#timers.set(id, { atMs: this.#nowMs + delayMs, callback })
    return () => this.#timers.delete(id)
  }

  /** Timers that are due run in order of time, each at its time; what they start asynchronously gets its turn after each. */
  async advance(byMs: number): Promise<void> {
    const untilMs = this.#nowMs + byMs
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.atMs <= untilMs).sort(([, one], [, other]) => one.atMs - other.atMs)[0]
      if (!due) break
      this.#timers.delete(due[0])
      this.#nowMs = due[1].atMs
      due[1].callback()
      await settled()
    }
    this.#nowMs = untilMs
    await settled()
  }

  get waiting(): number {
    return this.#timers.size
  }
}

/** Lets everything that is ready run. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 60; turn++) await new Promise((resolve) => setImmediate(resolve))
}
