/**
 * What a service finds beside ECMAScript, made so that nothing of Node's own can be reached through it: no object of Node is handed
 * out, none is `this` of a function of the service, and no error of Node gets through.
 */
import { AbortController, AbortSignal, DOMException, Event, EventTarget } from './events.ts'
import { guarded } from './guard.ts'
import { TextDecoder, TextEncoder, URL, URLSearchParams } from './text.ts'
import { makeTimers } from './timers.ts'

/** Longest line a service prints, characters; and so many lines at once, and in every second. */
const PRINTED_CHARS_MAX = 1_000
const PRINTED_LINES_PER_SECOND_MAX = 50

/** Called once, before the realm is locked: takes what it needs of Node's globals, which go away afterwards. */
export function makeEndowments(): Record<string, unknown> {
  const { performance, structuredClone, atob, btoa } = globalThis
  const { timeOrigin } = performance
  return {
    ...makeTimers(),
    ...{ AbortController, AbortSignal, DOMException, Event, EventTarget },
    ...{ TextEncoder, TextDecoder, URL, URLSearchParams },
    performance: { now: () => performance.now(), timeOrigin },
    console: makeConsole(),
    structuredClone: (value: unknown, options?: Parameters<typeof structuredClone>[1]) => guarded(() => structuredClone(value, options)),
    atob: (text: string) => guarded(() => atob(text)),
    btoa: (text: string) => guarded(() => btoa(text)),
  }
}

/** Prints plain lines, not too many. Nothing is inspected: that would call the service's code from within Node. */
function makeConsole(): Record<string, unknown> {
  const { console, performance } = globalThis
  let second = 0
  let lines = 0
  const print = (...values: unknown[]) => {
    const now = Math.floor(performance.now() / 1_000)
    if (now !== second) [second, lines] = [now, 0]
    if (lines++ < PRINTED_LINES_PER_SECOND_MAX) console.log(values.map(textOf).join(' ').slice(0, PRINTED_CHARS_MAX))
  }
  return Object.fromEntries(['debug', 'log', 'info', 'warn', 'error', 'trace'].map((level) => [level, print]))
}

function textOf(value: unknown): string {
  if (value instanceof Error) return String(value.stack ?? value)
  if (typeof value !== 'object' || value === null) return String(value)
  try {
    return JSON.stringify(value) ?? String(value)
  } catch {
    return String(value)
  }
}
