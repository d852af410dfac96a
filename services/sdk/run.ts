/**
 * The script every worker runs. Built into one file (build.mjs) that the agent hands to `new Worker(text, { eval: true })`. The port to
 * the agent stays in this closure: service code is evaluated without it.
 */
import { type MessagePort, workerData } from 'node:worker_threads'
import { ServiceHost } from './host.ts'
import { hideNodeGlobals } from './sandbox.ts'
import { Outbox, type FromWorker, type ToWorker, type WorkerStart } from './wire.ts'

const { port: rawPort, code, manifest, quiesceTimeoutMs } = workerData as WorkerStart
const port = rawPort as MessagePort
// `workerData` can be imported again; the port must not be found there.
for (const key of Object.keys(workerData)) delete workerData[key]

const post = port.postMessage.bind(port)
const outbox = new Outbox<FromWorker>((batch, transfer) => post(batch, transfer))
hideNodeGlobals()

const host = new ServiceHost({
  load: () => new Function(`"use strict";\n${code}\nreturn offboxService\n//# sourceURL=${manifest.name}@${manifest.version}`)(),
  manifest,
  quiesceTimeoutMs,
  send: (message, owned) => outbox.send(message, owned),
})
port.on('message', (batch: ToWorker[]) => {
  for (const message of batch) host.receive(message)
})
