/** Runs a campaign in a worker and watches it: one that hangs, or outgrows its heap, is ended, and the input that it was at is the crash. */
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { BOUNDS, type Bounds, CRASHES_MAX } from './campaign.ts'
import type { CampaignOrder, CampaignReport } from './worker.ts'

const LOOK_MS = 250
const root = pathToFileURL(join(import.meta.dirname, '../../..')).href
const PRODUCT = ['core', 'agent', 'services', 'proto'].map((folder) => `${root}/${folder}/`)

export type Wanted = Pick<CampaignOrder, 'module' | 'target' | 'seed' | 'coverage'> & {
  readonly inputBytesMax: number
  /** Wall time, milliseconds. */
  readonly forMs: number
  readonly executionsMax?: number
  /** Default: the product. */
  readonly covers?: readonly string[]
  readonly bounds?: Bounds
  readonly crashesMax?: number
}

export async function runWatched(wanted: Wanted): Promise<CampaignReport> {
  const { inputBytesMax, forMs, executionsMax = Number.POSITIVE_INFINITY, covers = PRODUCT, bounds = BOUNDS, crashesMax = CRASHES_MAX, ...what } = wanted
  const state = new SharedArrayBuffer(8)
  const input = new SharedArrayBuffer(inputBytesMax + 1)
  const order: CampaignOrder = { ...what, executionsMax, covers, bounds, crashesMax, forMs, state, input }
  const worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData: order, resourceLimits: { maxOldGenerationSizeMb: bounds.heapMbMax } })
  const numbers = new Int32Array(state)

  return await new Promise((resolve, reject) => {
    let [lastExecution, sinceMs, looking] = [-1, 0, false]
    /** Ends it, with what is known. */
    const crashed = (text: string): void => {
      clearInterval(timer)
      void worker.terminate()
      const bytes = new Uint8Array(input).slice(0, Atomics.load(numbers, 1))
      const executions = Atomics.load(numbers, 0)
      resolve({ executions, outcomes: {}, corpus: 0, blocks: { run: 0, seen: 0 }, crashes: [{ text: `${wanted.target}: ${text}`, input: bytes }] })
    }
    const look = async (): Promise<void> => {
      const { user, system } = await worker.cpuUsage()
      const [execution, cpuMs] = [Atomics.load(numbers, 0), (user + system) / 1_000]
      if (execution !== lastExecution) [lastExecution, sinceMs] = [execution, cpuMs]
      // Twice as long as an execution may take that does come to its end.
      else if (execution > 0 && cpuMs - sinceMs > 2 * bounds.cpuMsMax) crashed('hangs')
    }
    const timer = setInterval(() => {
      if (looking) return
      looking = true
      void look()
        .catch(() => {})
        .finally(() => {
          looking = false
        })
    }, LOOK_MS)
    worker.once('message', (report: CampaignReport) => {
      clearInterval(timer)
      resolve(report)
    })
    worker.once('error', (error: Error & { code?: string }) => {
      if (error.code === 'ERR_WORKER_OUT_OF_MEMORY') crashed(`took more than ${bounds.heapMbMax} MiB of heap`)
      else {
        clearInterval(timer)
        reject(error)
      }
    })
    worker.once('exit', (code) => {
      if (code !== 0) crashed(`ended its thread with code ${code}`)
    })
  })
}
