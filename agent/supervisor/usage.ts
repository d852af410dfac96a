/** Whether what is used is too much, and whose it is. Pure: readings and times come in, verdicts go out. */
import type { Usage } from './transport.ts'

const MIB = 2 ** 20

/** Share of a bound by which CPU time may be over it: two clocks are compared. */
const CPU_TOLERANCE = 1.05

/** CPU time over a moving window. */
export class CpuWindow {
  readonly #windowMs: number
  #samples: { atMs: number; cpuMs: number }[] = []

  constructor(windowMs: number) {
    this.#windowMs = windowMs
  }

  /** `atMs`: monotonic. A CPU time below the last one is of a new worker: the window begins anew. */
  add(atMs: number, cpuMs: number): void {
    const last = this.#samples.at(-1)
    if (last && cpuMs < last.cpuMs) this.#samples = []
    this.#samples.push({ atMs, cpuMs })
    // One sample from before the window stays: it is where the window begins.
    while ((this.#samples[1]?.atMs ?? Number.POSITIVE_INFINITY) <= atMs - this.#windowMs) this.#samples.shift()
  }

  /** Per cent of one core over the newest `overMs` at least, or over all there is; 0 with fewer than two samples. */
  percent(overMs: number): number {
    const last = this.#samples.at(-1)
    const first = this.#samples.findLast(({ atMs }) => last && last.atMs - atMs >= overMs) ?? this.#samples[0]
    if (!first || !last || last.atMs === first.atMs) return 0
    return ((last.cpuMs - first.cpuMs) * 100) / (last.atMs - first.atMs)
  }

  /** Whether more than `percentMax` was used over a whole window. Less than a window is no verdict: every start is busy. */
  sustained(percentMax: number): boolean {
    const first = this.#samples[0]
    const last = this.#samples.at(-1)
    return first !== undefined && last !== undefined && last.atMs - first.atMs >= this.#windowMs && this.percent(this.#windowMs) > percentMax * CPU_TOLERANCE
  }
}

/** Words for a version that uses more memory than it may; undefined when it does not. */
export function memoryExcess({ memoryBytes }: Usage, memoryMbMax: number): string | undefined {
  return memoryBytes > memoryMbMax * MIB ? `${Math.round(memoryBytes / MIB)} MiB in use, ${memoryMbMax} MiB allowed` : undefined
}

/**
 * Memory of the agent's process that nobody answers for: neither the agent's own heap nor what its workers report. It moves slowly;
 * when it jumps, some worker fills memory that is not counted as its own, or is inside one long operation and cannot report.
 */
export class Unaccounted {
  readonly #jumpBytes: number
  readonly #riseBytesPerMs: number
  #floor: { atMs: number; bytes: number } | undefined

  /** @param limits `riseMbPerSecond`: what is taken for ordinary growth, e.g. of the allocator */
  constructor(limits: { jumpMb: number; riseMbPerSecond: number }) {
    this.#jumpBytes = limits.jumpMb * MIB
    this.#riseBytesPerMs = (limits.riseMbPerSecond * MIB) / 1_000
  }

  /** Bytes above what is usual when that is a jump, else 0. */
  jump(atMs: number, bytes: number): number {
    const { atMs: beforeMs, bytes: before } = this.#floor ?? { atMs, bytes }
    const floor = Math.min(bytes, before + (atMs - beforeMs) * this.#riseBytesPerMs)
    this.#floor = { atMs, bytes: floor }
    return bytes - floor > this.#jumpBytes ? bytes - floor : 0
  }

  /** A worker has come or gone: what is there now is usual. */
  forget(): void {
    this.#floor = undefined
  }
}

/** A worker of the agent's process, and what it did between two readings. */
export interface Suspect {
  /** It has not answered since memory began to jump. */
  readonly mute: boolean
  readonly grownBytes: number
  /** CPU time used meanwhile. */
  readonly cpuMs: number
}

/** Who fills memory: one that cannot answer, else the one that grew most, else the one that worked most (filling takes time). */
export function blame<S extends Suspect>(suspects: readonly S[]): S | undefined {
  const rank = ({ mute, grownBytes, cpuMs }: Suspect) => [mute ? 1 : 0, Math.round(Math.max(0, grownBytes) / (8 * MIB)), cpuMs] as const
  return suspects.toSorted((one, other) => {
    const [a, b] = [rank(one), rank(other)]
    return b[0] - a[0] || b[1] - a[1] || b[2] - a[2]
  })[0]
}
