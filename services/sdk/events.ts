/**
 * Event, EventTarget, AbortController and AbortSignal as the DOM standard has them, in plain ECMAScript. Node's own are not lent: a
 * symbol on Node's AbortSignal makes a MessagePort, whose prototype is that of the port to the agent.
 */
import { boundedDelayMs } from './timers.ts'

const { queueMicrotask, setTimeout, WeakRef: Weak } = globalThis

export class DOMException extends Error {
  constructor(message = '', name = 'Error') {
    super(`${message}`)
    Object.defineProperty(this, 'name', { value: `${name}`, configurable: true, writable: true })
  }
}

/** Known to this module only: who holds a signal or an event may not do these. */
let end: (signal: AbortSignal, reason: unknown) => void
let placeAt: (event: Event, target: EventTarget) => { readonly stopped: boolean }
let hasListener: (target: EventTarget, type: string) => boolean

interface EventParts {
  readonly cancelable?: boolean
}

export class Event {
  readonly type: string
  readonly cancelable: boolean
  #target: EventTarget | null = null
  #prevented = false
  #stopped = false

  constructor(type: unknown, { cancelable = false }: EventParts = {}) {
    this.type = `${type}`
    this.cancelable = Boolean(cancelable)
  }

  get target(): EventTarget | null {
    return this.#target
  }

  get currentTarget(): EventTarget | null {
    return this.#target
  }

  get defaultPrevented(): boolean {
    return this.#prevented
  }

  preventDefault(): void {
    this.#prevented = this.cancelable
  }

  stopImmediatePropagation(): void {
    this.#stopped = true
  }

  stopPropagation(): void {}

  static {
    placeAt = (event, target) => {
      event.#target = target
      return {
        get stopped() {
          return event.#stopped
        },
      }
    }
  }
}

type Listener = ((event: Event) => void) | { handleEvent(event: Event): void }
interface ListenerOptions {
  readonly once?: boolean
  readonly signal?: AbortSignal
}
interface Entry {
  readonly listener: Listener
  readonly once: boolean
  /** Takes back what it left with the signal that would remove it. */
  readonly forget: () => void
  live: boolean
}

export class EventTarget {
  /** By type, then by listener, in the order in which they came. */
  readonly #entries = new Map<string, Map<Listener, Entry>>()

  addEventListener(type: unknown, listener: Listener | null | undefined, options?: ListenerOptions | boolean): void {
    if (listener === null || listener === undefined) return
    const { once = false, signal } = typeof options === 'object' && options !== null ? options : {}
    const name = `${type}`
    const entries = this.#entries.get(name) ?? new Map<Listener, Entry>()
    if (signal?.aborted || entries.has(listener)) return
    const remove = () => this.removeEventListener(name, listener)
    this.#entries.set(name, entries)
    entries.set(listener, { listener, once: Boolean(once), forget: () => signal?.removeEventListener('abort', remove), live: true })
    signal?.addEventListener('abort', remove, { once: true })
  }

  removeEventListener(type: unknown, listener: Listener | null | undefined): void {
    const name = `${type}`
    const entries = this.#entries.get(name)
    const entry = entries?.get(listener as Listener)
    if (!entries || !entry) return
    entry.live = false
    entries.delete(entry.listener)
    if (entries.size === 0) this.#entries.delete(name)
    entry.forget()
  }

  /** What a listener throws is thrown again in a turn of its own, where nobody catches it. */
  dispatchEvent(event: Event): boolean {
    const state = placeAt(event, this)
    for (const entry of [...(this.#entries.get(event.type)?.values() ?? [])]) {
      if (!entry.live || state.stopped) continue
      if (entry.once) this.removeEventListener(event.type, entry.listener)
      try {
        if (typeof entry.listener === 'function') Reflect.apply(entry.listener, this, [event])
        else entry.listener.handleEvent(event)
      } catch (error) {
        queueMicrotask(() => {
          throw error
        })
      }
    }
    return !event.defaultPrevented
  }

  static {
    hasListener = (target, type) => target.#entries.has(type)
  }
}

/** Signals made of one, above which those that nobody holds any more are looked for. */
const DEPENDANTS_SWEPT_FROM = 32

export class AbortSignal extends EventTarget {
  #aborted = false
  #reason: unknown
  #onAbort: ((event: Event) => void) | null = null
  /** Of one that `any` made: the signals that end it, none of which `any` made. */
  #sources: readonly AbortSignal[] = []
  /** As its sources know it. */
  #self: WeakRef<AbortSignal> | undefined
  /** Those that `any` made of this one, with themselves when somebody listens: only then does this one keep them alive. */
  readonly #dependants = new Map<WeakRef<AbortSignal>, AbortSignal | null>()
  #sweepAt = DEPENDANTS_SWEPT_FROM

  override addEventListener(type: unknown, listener: Listener | null | undefined, options?: ListenerOptions | boolean): void {
    super.addEventListener(type, listener, options)
    this.#join()
  }

  override removeEventListener(type: unknown, listener: Listener | null | undefined): void {
    super.removeEventListener(type, listener)
    this.#join()
  }

  get onabort(): ((event: Event) => void) | null {
    return this.#onAbort
  }

  set onabort(listener: unknown) {
    this.removeEventListener('abort', this.#onAbort)
    this.#onAbort = typeof listener === 'function' ? (listener as (event: Event) => void) : null
    this.addEventListener('abort', this.#onAbort)
  }

  get aborted(): boolean {
    return this.#aborted
  }

  get reason(): unknown {
    return this.#reason
  }

  throwIfAborted(): void {
    if (this.#aborted) throw this.#reason
  }

  static abort(reason?: unknown): AbortSignal {
    const signal = new AbortSignal()
    end(signal, reason)
    return signal
  }

  static timeout(delayMs: number): AbortSignal {
    const signal = new AbortSignal()
    const pass = () => end(signal, new DOMException('The operation was aborted due to timeout', 'TimeoutError'))
    setTimeout(pass, boundedDelayMs(delayMs)).unref()
    return signal
  }

  static any(signals: Iterable<AbortSignal>): AbortSignal {
    const signal = new AbortSignal()
    const all = [...signals]
    const ended = all.find((one) => one.#aborted)
    if (ended) end(signal, ended.#reason)
    else signal.#follow(new Set(all.flatMap((one) => (one.#sources.length > 0 ? one.#sources : [one]))))
    return signal
  }

  #follow(sources: ReadonlySet<AbortSignal>): void {
    this.#sources = [...sources]
    this.#join()
    for (const source of sources) source.#sweep()
  }

  /** Its sources know of it. */
  #join(): void {
    if (this.#sources.length === 0) return
    this.#self ??= new Weak(this)
    const kept = hasListener(this, 'abort') ? this : null
    for (const source of this.#sources) source.#dependants.set(this.#self, kept)
  }

  /** As often as their number doubles, so that a long-lived signal holds no more than twice what is in use. */
  #sweep(): void {
    if (this.#dependants.size < this.#sweepAt) return
    for (const dependant of this.#dependants.keys()) if (!dependant.deref()) this.#dependants.delete(dependant)
    this.#sweepAt = Math.max(DEPENDANTS_SWEPT_FROM, 2 * this.#dependants.size)
  }

  #settle(reason: unknown): void {
    this.#aborted = true
    this.#reason = reason
    if (this.#self) for (const source of this.#sources) source.#dependants.delete(this.#self)
    this.#sources = []
  }

  static {
    end = (signal, reason = new DOMException('This operation was aborted', 'AbortError')) => {
      if (signal.#aborted) return
      const ending = [signal, ...[...signal.#dependants.keys()].flatMap((one) => one.deref() ?? [])]
      // All have aborted before a listener of any of them is called.
      for (const one of ending) one.#settle(reason)
      for (const one of ending) one.dispatchEvent(new Event('abort'))
    }
  }
}

export class AbortController {
  readonly #signal = new AbortSignal()

  get signal(): AbortSignal {
    return this.#signal
  }

  abort(reason?: unknown): void {
    end(this.#signal, reason)
  }
}
