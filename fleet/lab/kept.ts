/** Programs of ours that the lab keeps running: started again a second after they end, as an init system would do it. */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { messageOf } from '../../core/errors.ts'
import { type LongRunning, longRunning } from './process.ts'

const WORDS_KEPT_MAX = 50
const RESTART_DELAY_MS = 1_000
const root = join(import.meta.dirname, '../..')

export interface Kept {
  stop(): Promise<void>
}

export interface KeptOptions {
  /** For people: "the controller". */
  readonly what: string
  /** Of `offbox`. */
  readonly args: readonly string[]
  readonly namespace: string
  readonly say: (text: string) => void
  /** Resolves when the first one serves; `words` are its newest lines. Its rejection ends the program, and is thrown. */
  ready(running: LongRunning, words: readonly string[]): Promise<void>
}

/** Resolves when it serves. @throws what `ready` throws */
export async function keepRunning({ what, args, namespace, say, ready }: KeptOptions): Promise<Kept> {
  const words: string[] = []
  const onLine = (line: string) => void words.splice(0, Math.max(0, words.push(line.slice(0, 500)) - WORDS_KEPT_MAX))
  const start = () => longRunning(process.execPath, ['fleet/cli/main.ts', ...args], { namespace, cwd: root, onLine })
  const first = await start()
  try {
    await ready(first, words)
  } catch (error) {
    await first.stop()
    throw error
  }
  const ended = new AbortController()
  let running = first
  const keep = async () => {
    for (;;) {
      const how = await running.exited
      if (ended.signal.aborted) return
      say(`${what} ended (${how}); starting it again`)
      await delay(RESTART_DELAY_MS, undefined, { signal: ended.signal }).catch(() => {})
      if (ended.signal.aborted) return
      running = await start()
    }
  }
  const kept = keep().catch((error) => say(`${what} could not be started again: ${messageOf(error)}`))
  return {
    stop: async () => {
      ended.abort()
      await running.stop()
      await kept
    },
  }
}
