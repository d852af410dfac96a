/** A worker thread for one started version of a service: the only place that makes a Worker for code that is not the agent's own. */
import { setFlagsFromString } from 'node:v8'
import { MessageChannel, Worker } from 'node:worker_threads'
import { messageOf } from '../../core/errors.ts'
import { pack, unpack, type WorkerStart } from '../../services/sdk/wire.ts'
import { HostScript } from './host-script.ts'
import type { StartTransport, Usage } from './transport.ts'

/** @param hostText the script that every worker runs (services/sdk/run.ts, built) */
export function workerTransport(hostText: string): StartTransport {
  // What the agent's own heap was given at its start (agent/node.json) would override the `resourceLimits` of its workers.
  for (const flag of ['--max-semi-space-size=0', '--max-old-space-size=0']) setFlagsFromString(flag)
  const script = new HostScript(hostText)
  return ({ bundle, limits }, on) => {
    const { port1: port, port2 } = new MessageChannel()
    const workerData: WorkerStart = {
      port: port2,
      code: new TextDecoder().decode(bundle.payload),
      manifest: bundle.manifest,
      quiesceTimeoutMs: limits.quiesceTimeoutMs,
    }
    const worker = new Worker(script.boot, {
      eval: true,
      name: bundle.manifest.name,
      execArgv: ['--permission'],
      env: {},
      argv: [],
      stdin: true,
      stdout: true,
      stderr: true,
      resourceLimits: { maxOldGenerationSizeMb: bundle.manifest.heapMbMax, maxYoungGenerationSizeMb: limits.youngGenerationMbMax },
      workerData: { ...workerData, host: script.data },
      transferList: [port2],
    })
    script.learnFrom(worker)
    port.on('message', (packed) => on.batch(unpacked(packed)))
    for (const name of ['stdout', 'stderr'] as const) worker[name].on('data', (chunk) => on.printed(name, String(chunk)))
    worker.on('error', (error) => on.error(reasonOf(error, bundle.manifest.heapMbMax)))
    worker.on('exit', (code) => on.exit(`its worker ended with code ${code}`))
    return {
      confinement: ['worker', 'permission', 'ses'],
      post: (batch, transfer) => port.postMessage(pack(batch, transfer), transfer),
      close: () => port.close(),
      kill: () => void worker.terminate(),
      usage: async () => await usageOf(worker),
    }
  }
}

/** What cannot be unpacked is no batch: the reader of batches says so, and ends the worker. */
function unpacked(packed: unknown): unknown {
  try {
    return unpack(packed, false)
  } catch (error) {
    return error
  }
}

function reasonOf(error: unknown, heapMbMax: number): string {
  const { code } = error as { code?: unknown }
  return code === 'ERR_WORKER_OUT_OF_MEMORY' ? `MEMORY_EXCEEDED: its heap of ${heapMbMax} MiB is full` : messageOf(error)
}

/** Answered between two instructions of whatever the worker runs, also of an endless loop; not before the end of one long native operation. */
async function usageOf(worker: Worker): Promise<Usage | undefined> {
  try {
    const [heap, cpu] = await Promise.all([worker.getHeapStatistics(), worker.cpuUsage()])
    const memoryBytes = heap.total_physical_size + heap.external_memory + heap.malloced_memory
    return { memoryBytes, cpuMs: (cpu.user + cpu.system) / 1_000, inAgent: true }
  } catch (error) {
    // Not running yet, or no more.
    if ((error as { code?: unknown }).code === 'ERR_WORKER_NOT_RUNNING') return undefined
    throw error
  }
}
