/**
 * Event, EventTarget, AbortController and AbortSignal as the DOM standard has them, in plain ECMAScript. Node's own are not lent: a
 * symbol on Node's AbortSignal makes a MessagePort, whose prototype is that of the port to the agent.
 */
import { boundedDelayMs } from './timers.ts'

const { queueMicrotask, setTimeout } = globalThis

export class DOMException extends Error {
  constructor(message = '', name = 'Error') {
    super(`${message}`)
    Object.defineProperty(this, 'name', { value: `${name}`, configurable: true, writable: true })
  }
}

/** Known to this module only: who holds a signal or an event may not do these. */
let end: (signal: AbortSignal, reason: unknown) => void
let placeAt: (event: Event, target: EventTarget) => { readonly stopped: boolean }

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
  readonly type: string
  readonly listener: Listener
  readonly once: boolean
  live: boolean
}

export class EventTarget {
  #entries: Entry[] = []

  addEventListener(type: unknown, listener: Listener | null | undefined, options?: ListenerOptions | boolean): void {
    if (listener === null || listener === undefined) return
    const { once = false, signal } = typeof options === 'object' && options !== null ? options : {}
    const name = `${type}`
    if (signal?.aborted || this.#entries.some((entry) => entry.type === name && entry.listener === listener)) return
    this.#entries.push({ type: name, listener, once: Boolean(once), live: true })
    signal?.addEventListener('abort', () => this.removeEventListener(name, listener), { once: true })
  }

  removeEventListener(type: unknown, listener: Listener | null | undefined): void {
    const name = `${type}`
    for (const entry of this.#entries) {
      if (entry.type === name && entry.listener === listener) entry.live = false
    }
    this.#entries = this.#entries.filter(({ live }) => live)
  }

  /** What a listener throws is thrown again in a turn of its own, where nobody catches it. */
  dispatchEvent(event: Event): boolean {
    const state = placeAt(event, this)
    for (const entry of this.#entries.filter(({ type }) => type === event.type)) {
      if (!entry.live || state.stopped) continue
      if (entry.once) this.removeEventListener(entry.type, entry.listener)
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
}

export class AbortSignal extends EventTarget {
  #aborted = false
  #reason: unknown
  #onAbort: ((event: Event) => void) | null = null

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
    for (const one of signals) {
      if (one.aborted) end(signal, one.reason)
      else one.addEventListener('abort', () => end(signal, one.reason), { once: true, signal })
    }
    return signal
  }

  static {
    end = (signal, reason) => {
      if (signal.#aborted) return
      signal.#aborted = true
      signal.#reason = reason === undefined ? new DOMException('This operation was aborted', 'AbortError') : reason
      signal.dispatchEvent(new Event('abort'))
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
