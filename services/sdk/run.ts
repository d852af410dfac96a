/**
 * The script every worker runs. Built into one file (build.mjs) that the agent hands to `new Worker(text, { eval: true })`. The port to
 * the agent stays in this closure: service code is evaluated without it, in a compartment.
 */
import { type MessagePort, workerData } from 'node:worker_threads'
import { takeCollector } from './collect.ts'
import { confine } from './compartment.ts'
import { HOST_CLASSES, ServiceHost } from './host.ts'
import { Outbox, pack, unpack, type FromWorker, type ToWorker, type WorkerStart } from './wire.ts'

const { port: rawPort, code, manifest, quiesceTimeoutMs } = workerData as WorkerStart
const port = rawPort as MessagePort
// `workerData` can be imported again; the port must not be found there.
for (const key of Object.keys(workerData)) delete workerData[key]

const post = port.postMessage.bind(port)
const outbox = new Outbox<FromWorker>((batch, transfer) => post(pack(batch, transfer), transfer))
const collect = takeCollector()
const evaluate = confine({ name: manifest.name, version: manifest.version, lent: HOST_CLASSES })

const host = new ServiceHost({
  load: () => evaluate(code),
  manifest,
  quiesceTimeoutMs,
  sharesMemory: true,
  collect,
  send: (message, owned) => outbox.send(message, owned, message.type === 'done'),
})
port.on('message', (packed) => {
  for (const message of unpack(packed, true) as ToWorker[]) host.receive(message)
})
