/** Timers over Node's: its Timeout objects, which are also `this` of every callback, stay here. */

type Callback = (...values: unknown[]) => unknown
type Start = (run: () => void, delayMs: number) => NodeJS.Timeout | NodeJS.Immediate

/** Longest delay of a timer, milliseconds; Node warns of every longer one, and of what is no number. */
const DELAY_MS_MAX = 2 ** 31 - 1

export function boundedDelayMs(delayMs: unknown): number {
  return Math.min(Math.max(Number(delayMs) || 0, 1), DELAY_MS_MAX)
}

let clear: (timer: unknown) => void

/** What a timer function answers. `unref` and `ref` are there for libraries that call them. */
export class Timer {
  readonly #handle: NodeJS.Timeout | NodeJS.Immediate

  constructor(handle: NodeJS.Timeout | NodeJS.Immediate) {
    this.#handle = handle
  }

  ref(): this {
    this.#handle.ref()
    return this
  }

  unref(): this {
    this.#handle.unref()
    return this
  }

  hasRef(): boolean {
    return this.#handle.hasRef()
  }

  /** Begins anew; an immediate has nothing to begin. */
  refresh(): this {
    if ('refresh' in this.#handle) this.#handle.refresh()
    return this
  }

  [Symbol.dispose](): void {
    this.#handle[Symbol.dispose]()
  }

  static {
    clear = (timer) => {
      if (typeof timer === 'object' && timer !== null && #handle in timer) timer.#handle[Symbol.dispose]()
    }
  }
}

export function makeTimers(): Record<string, unknown> {
  const { setTimeout, setInterval, setImmediate, queueMicrotask } = globalThis
  const { apply } = Reflect
  const begin = (start: Start, callback: unknown, delayMs: unknown, values: unknown[]) => {
    const run = callable(callback)
    return new Timer(start(() => void apply(run, undefined, values), boundedDelayMs(delayMs)))
  }
  const callable = (callback: unknown): Callback => {
    if (typeof callback !== 'function') throw new TypeError('a timer needs a function')
    return callback as Callback
  }
  return {
    setTimeout: (callback: unknown, delayMs: unknown, ...values: unknown[]) => begin(setTimeout, callback, delayMs, values),
    setInterval: (callback: unknown, delayMs: unknown, ...values: unknown[]) => begin(setInterval, callback, delayMs, values),
    setImmediate: (callback: unknown, ...values: unknown[]) => begin(setImmediate, callback, 0, values),
    queueMicrotask: (callback: unknown) => {
      const run = callable(callback)
      queueMicrotask(() => void apply(run, undefined, []))
    },
    clearTimeout: clear,
    clearInterval: clear,
    clearImmediate: clear,
  }
}
