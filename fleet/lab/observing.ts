/** Starts the lab's client (observer.ts) inside the lab's network and follows what it sees. */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { OffboxError } from '../../core/errors.ts'
import type { Home } from '../home/home.ts'
import type { LabDevice } from './mesh.ts'
import type { Observation } from './observer.ts'
import { longRunning } from './process.ts'

const FIRST_LOOK_TIMEOUT_MS = 60_000
/** Longer than a call's own deadline: the client finishes what is in flight. */
const STOP_TIMEOUT_MS = 30_000
const API_PORT = 9339
const root = join(import.meta.dirname, '../..')

export interface RunningObserver {
  /** The newest observation. */
  readonly last: Observation
  /** Resolves when an observation satisfies `enough` (true) or time is up (false). @throws when the client ends or `signal` aborts */
  until(enough: (seen: Observation) => boolean, timeoutMs: number, signal: AbortSignal): Promise<boolean>
  /** The first observation that begins after this call. */
  next(signal: AbortSignal): Promise<Observation>
  /** Has it finish its calls; answers its last observation. Safe to call twice. */
  stop(): Promise<Observation>
}

export async function startObserver(input: { home: Home; namespace: string; devices: readonly LabDevice[] }): Promise<RunningObserver> {
  let last: Observation | null = null
  let count = 0
  let gone = ''
  const words: string[] = []
  const targets = input.devices.map((one) => `${one.id}=${one.port.address}:${API_PORT}`)
  const client = await longRunning(process.execPath, ['fleet/lab/observer.ts', '--home', input.home.path, ...targets], {
    namespace: input.namespace,
    cwd: root,
    onLine: (line, from) => {
      if (from === 'stderr') return void words.push(line)
      last = JSON.parse(line)
      count++
    },
  })
  client.exited.then((how) => (gone = how))
  const until = async (enough: (seen: Observation) => boolean, timeoutMs: number, signal?: AbortSignal): Promise<boolean> => {
    const deadlineMs = performance.now() + timeoutMs
    for (;;) {
      signal?.throwIfAborted()
      if (last && enough(last)) return true
      if (gone) throw new OffboxError('INTERNAL', `the lab's client ended (${gone}): ${words.slice(-10).join('\n')}`)
      if (performance.now() > deadlineMs) return false
      await delay(100)
    }
  }
  await until(() => true, FIRST_LOOK_TIMEOUT_MS)
  const newest = () => last ?? { final: false, devices: {} }
  return {
    get last() {
      return newest()
    },
    until,
    next: async (signal) => {
      // The one under way may have looked before the call; the one after it has not.
      const after = count + 2
      await until(() => count >= after, FIRST_LOOK_TIMEOUT_MS, signal)
      return newest()
    },
    stop: async () => {
      if (gone) return newest()
      process.kill(client.pid, 'SIGTERM')
      await Promise.race([client.exited, delay(STOP_TIMEOUT_MS, undefined, { ref: false })])
      await client.stop('SIGKILL')
      return newest()
    },
  }
}
