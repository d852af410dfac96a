/** A worker thread for one started version of a service: the only place that makes a Worker. */
import { MessageChannel, Worker } from 'node:worker_threads'
import { messageOf } from '../../core/errors.ts'
import type { WorkerStart } from '../../services/sdk/wire.ts'
import type { StartTransport } from './transport.ts'

/** @param hostText the script that every worker runs (services/sdk/run.ts, built) */
export function workerTransport(hostText: string): StartTransport {
  return ({ bundle, limits }, on) => {
    const { port1: port, port2 } = new MessageChannel()
    const workerData: WorkerStart = {
      port: port2,
      code: new TextDecoder().decode(bundle.payload),
      manifest: bundle.manifest,
      quiesceTimeoutMs: limits.quiesceTimeoutMs,
    }
    const worker = new Worker(hostText, {
      eval: true,
      name: bundle.manifest.name,
      execArgv: ['--permission'],
      env: {},
      argv: [],
      stdin: true,
      stdout: true,
      stderr: true,
      resourceLimits: { maxOldGenerationSizeMb: bundle.manifest.heapMbMax, maxYoungGenerationSizeMb: limits.youngGenerationMbMax },
      workerData,
      transferList: [port2],
    })
    port.on('message', (batch) => on.batch(batch))
    for (const name of ['stdout', 'stderr'] as const) worker[name].on('data', (chunk) => on.printed(name, String(chunk)))
    worker.on('error', (error) => on.error(messageOf(error)))
    worker.on('exit', (code) => on.exit(`its worker ended with code ${code}`))
    return {
      confinement: ['worker', 'permission'],
      post: (batch, transfer) => port.postMessage(batch, transfer),
      close: () => port.close(),
      kill: () => void worker.terminate(),
      usage: async () => undefined,
    }
  }
}
