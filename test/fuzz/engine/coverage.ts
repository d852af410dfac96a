/**
 * Which code has run, by V8's precise coverage of blocks (node:inspector), for the isolate that this is made in. To ask costs 2 ms, so it is
 * asked once for a batch of executions. The same counts tell how much work was done, whatever else the machine was doing.
 */
import { Session } from 'node:inspector'

interface FunctionCoverage {
  readonly ranges: readonly { readonly startOffset: number; readonly endOffset: number; readonly count: number }[]
}

type Gain = readonly [blocks: Map<number, boolean>, start: number]

export interface Taken {
  /** Blocks of the product that had never run before. */
  readonly gained: number
  /** Executions of blocks since the last time, all code of the isolate together. */
  readonly work: number
}

export class Coverage {
  readonly #session = new Session()
  readonly #covers: readonly string[]
  /** By function: each block ever seen, by its start, and whether it has run. */
  readonly #blocks = new Map<string, Map<number, boolean>>()
  #gains: Gain[] = []

  /** @param covers what the URL of code that counts begins with */
  constructor(covers: readonly string[]) {
    this.#covers = covers
    this.#session.connect()
    this.#post('Profiler.enable')
    this.#post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
  }

  take(): Taken {
    let work = 0
    this.#gains = []
    for (const { url, functions } of this.#post('Profiler.takePreciseCoverage').result as { url: string; functions: FunctionCoverage[] }[]) {
      const ours = this.#covers.some((prefix) => url.startsWith(prefix))
      for (const { ranges } of functions) {
        for (const { count } of ranges) work += count
        if (ours) note(this.#of(`${url}:${ranges[0]?.startOffset}`), ranges, this.#gains)
      }
    }
    return { gained: this.#gains.length, work }
  }

  /** As if what the last `take` gained had never run: to find out which one of a batch gained it. */
  undo(): void {
    for (const [blocks, start] of this.#gains) blocks.set(start, false)
    this.#gains = []
  }

  /** Blocks that have run, and all that were seen in functions that have run. */
  get reached(): { run: number; seen: number } {
    const all = [...this.#blocks.values()].flatMap((blocks) => [...blocks.values()])
    return { run: all.filter(Boolean).length, seen: all.length }
  }

  close(): void {
    this.#post('Profiler.stopPreciseCoverage')
    this.#session.disconnect()
  }

  #of(name: string): Map<number, boolean> {
    const blocks = this.#blocks.get(name) ?? new Map<number, boolean>()
    this.#blocks.set(name, blocks)
    return blocks
  }

  #post(method: string, parameters: object = {}) {
    let result: unknown
    this.#session.post(method, parameters, (error: Error | null, answer: unknown) => {
      if (error) throw error
      result = answer
    })
    return result as { result: unknown }
  }
}

/**
 * V8 reports a block only where its count differs from the block around it, so what has run is known only of the starts of blocks that were
 * reported at some time: each is looked up in the ranges of this time, the innermost of which counts.
 */
function note(blocks: Map<number, boolean>, ranges: FunctionCoverage['ranges'], gains: Gain[]): void {
  if (!ranges[0] || ranges[0].count === 0) return
  for (const { startOffset } of ranges) if (!blocks.has(startOffset)) blocks.set(startOffset, false)
  for (const [start, run] of blocks) {
    if (run) continue
    const inner = ranges.findLast(({ startOffset, endOffset }) => startOffset <= start && start < endOffset)
    if (!inner || inner.count === 0) continue
    blocks.set(start, true)
    gains.push([blocks, start])
  }
}
