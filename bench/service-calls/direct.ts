/**
 * One of two workers joined by a MessagePort of their own: the caller's side of the SDK in one, the callee's in the other, the same
 * service code in the same sandbox, and no agent in between. What the agent's relay costs is measured against this.
 */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { Channels } from '../../services/sdk/channels.ts'
import { confine } from '../../services/sdk/compartment.ts'
import { HOST_CLASSES } from '../../services/sdk/host.ts'
import { ServedCalls } from '../../services/sdk/served-calls.ts'
import type { Call, ServiceContext, ServiceModule } from '../../services/sdk/service.ts'
import { Outbox, type FromWorker, type ToWorker } from '../../services/sdk/wire.ts'
import { Front } from '../../test/fixtures/services/pair/methods.ts'

const { port, name, code } = workerData as { port: MessagePort; name: 'front' | 'back'; code: string }
const [postToPeer, postToBench] = [port.postMessage.bind(port), parentPort?.postMessage.bind(parentPort)]
const toCaller = new Outbox<ToWorker>((batch, transfer) => postToPeer(batch, transfer))
const toCallee = new Outbox<FromWorker>((batch, transfer) => postToPeer(batch, transfer))
const channels = new Channels((message, owned) => toCallee.send(message, owned))
const calls = new ServedCalls(
  (message, owned) => {
    if (message.type === 'end') toCaller.send({ type: 'channelEnd', channel: message.call, ...(message.bytes ? { bytes: message.bytes } : {}) }, owned)
  },
  () => {},
)

const evaluate = confine({ name, version: '1.0.0', lent: HOST_CLASSES })
const service = (evaluate(code) as ServiceModule<null>).create()
await service.start(null, { service: name, version: '1.0.0', services: channels.client } as ServiceContext)
calls.serve(service.methods)

port.on('message', (batch: (FromWorker | ToWorker)[]) => {
  for (const message of batch) {
    if (message.type === 'channelEnd') channels.receive(message)
    if (message.type !== 'channelOpen') continue
    const { channel, method, metadata, bytes } = message
    calls.receive({ type: 'open', call: channel, method, principal: 'direct', deadlineMs: undefined, metadata, ...(bytes ? { bytes } : {}) })
  }
})
parentPort?.on('message', (order: Uint8Array) => {
  const load = service.methods.find(({ path, kind }) => path === Front.Load.path && kind === 'unary')
  const answer = load?.handle(order as never, {} as Call) as Promise<Uint8Array>
  void answer.then((answered) => postToBench?.(Number(new TextDecoder().decode(answered))))
})
postToBench?.('ready')
