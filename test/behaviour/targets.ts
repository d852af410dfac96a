/** The two servers that the behavioural list is run against, each on a port of its own on loopback. */
import * as grpc from '@grpc/grpc-js'
import type { Test } from 'tap'
import { attachRoutes } from '../../agent/api/route.ts'
import { toStatus } from '../../agent/api/status.ts'
import { requestBytesMax } from '../../agent/limits.ts'
import { GRPC_STATUS } from '../../services/sdk/status.ts'
import type { Metadata } from '../../services/sdk/service.ts'
import { WIRE_LIMITS } from '../../services/sdk/wire.ts'
import { harness } from '../agent/supervisor/harness.ts'
import { counterBundle, payloadOf } from '../fixtures/services/counter/bundle.ts'
import { type About, handlers, PATHS, type Thrown } from './handlers.ts'

export interface Target {
  readonly name: 'grpc-js' | 'offbox'
  readonly port: number
  readonly client: grpc.Client
}

export const TARGETS: readonly { readonly name: Target['name']; start(t: Test): Promise<Target> }[] = [
  { name: 'grpc-js', start: plain },
  { name: 'offbox', start: ours },
]

const same = (bytes: Buffer) => bytes

async function bound(t: Test, name: Target['name'], server: grpc.Server): Promise<Target> {
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => (error ? reject(error) : resolve(port)))
  })
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), { 'grpc.max_receive_message_length': 64 * 1024 * 1024 })
  t.teardown(() => {
    client.close()
    server.forceShutdown()
  })
  return { name, port, client }
}

async function ours(t: Test): Promise<Target> {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  const payload = await payloadOf('test/behaviour/service.ts')
  const methods = [
    { path: PATHS.unary, kind: 'unary' },
    { path: PATHS.server, kind: 'serverStream' },
    { path: PATHS.client, kind: 'clientStream' },
    { path: PATHS.bidi, kind: 'bidi' },
  ] as const
  const limits = { messagesPerSecondMax: 100_000 }
  const { manifest } = await counterBundle('1.0.0', {
    name: 'behaviour',
    methods,
    capabilities: [],
    snapshot: { writes: [], reads: [] },
    heapMbMax: 64,
    limits,
  })
  await supervisor.install({ manifest, manifestSha256: '0'.repeat(64), keyIds: [], payload }, {})
  const server = new grpc.Server()
  attachRoutes(server, supervisor, {
    admit: (_, path) => ({ principal: 'spiffe://lab/operator/test', path }),
    intent: async () => {},
    finished: () => {},
    toStatus: (error) => toStatus(error, { error: () => {} }),
  })
  return await bound(t, 'offbox', server)
}

class Failure extends Error {
  readonly thrown: Thrown
  constructor(thrown: Thrown) {
    super(thrown.message)
    this.thrown = thrown
  }
}

/** A grpc-js server with the same bounds, its handlers fitted to the functions of the list. */
async function plain(t: Test): Promise<Target> {
  const server = new grpc.Server({
    'grpc.max_receive_message_length': requestBytesMax,
    'grpc.max_send_message_length': WIRE_LIMITS.messageBytesMax,
  })
  const { unary, server: many, client, bidi } = handlers((thrown) => new Failure(thrown))
  type AnyCall = grpc.ServerUnaryCall<Buffer, Buffer> &
    grpc.ServerWritableStream<Buffer, Buffer> &
    grpc.ServerReadableStream<Buffer, Buffer> &
    grpc.ServerDuplexStream<Buffer, Buffer>
  const about = (call: AnyCall): About & { trailers: grpc.Metadata } => {
    const abort = new AbortController()
    call.on('cancelled', () => abort.abort())
    const map = Object.entries(call.metadata.toJSON())
    const deadline = Number(call.getDeadline())
    const own = {
      trailers: new grpc.Metadata(),
      signal: abort.signal,
      metadata: Object.fromEntries(map.filter(([key]) => !key.endsWith('-bin')).map(([key, values]) => [key, values.join(', ')])),
      binaryMetadata: Object.fromEntries(map.filter(([key]) => key.endsWith('-bin')).map(([key, values]) => [key, values as Buffer[]])),
      sendMetadata: (metadata: Metadata) => call.sendMetadata(asMetadata(metadata)),
      setTrailers: (metadata: Metadata) => {
        own.trailers = asMetadata(metadata)
      },
      ...(Number.isFinite(deadline) ? { deadlineMs: deadline } : {}),
    }
    return own
  }
  const one = (handle: (call: AnyCall, about: About) => Promise<Uint8Array>) => (call: AnyCall, answer: grpc.sendUnaryData<Buffer>) => {
    const own = about(call)
    handle(call, own).then(
      (bytes) => answer(null, Buffer.from(bytes), own.trailers),
      (error) => answer(asError(error)),
    )
  }
  const stream = (handle: (call: AnyCall, about: About) => AsyncIterable<Uint8Array>) => async (call: AnyCall) => {
    const own = about(call)
    try {
      for await (const bytes of handle(call, own)) {
        if (!call.write(Buffer.from(bytes)) && !own.signal.aborted) {
          await new Promise<void>((resolve) => {
            call.once('drain', resolve)
            own.signal.addEventListener('abort', () => resolve())
          })
        }
        if (own.signal.aborted) return
      }
      call.end(own.trailers)
    } catch (error) {
      call.emit('error', asError(error))
    }
  }
  const requests = (call: AnyCall) => call.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>
  server.register(PATHS.unary, one(async (call, own) => await unary(call.request, own)) as never, same, same, 'unary')
  server.register(PATHS.client, one(async (call) => await client(requests(call))) as never, same, same, 'clientStream')
  server.register(PATHS.server, stream((call, own) => many(call.request, own)) as never, same, same, 'serverStream')
  server.register(PATHS.bidi, stream((call) => bidi(requests(call))) as never, same, same, 'bidi')
  return await bound(t, 'grpc-js', server)
}

function asMetadata(metadata: Metadata): grpc.Metadata {
  const all = new grpc.Metadata()
  for (const [key, value] of Object.entries(metadata)) {
    for (const one of Array.isArray(value) ? value : [value]) all.add(key, typeof one === 'string' ? one : Buffer.from(one as Uint8Array))
  }
  return all
}

function asError(error: unknown): Partial<grpc.StatusObject> {
  if (!(error instanceof Failure)) return { code: grpc.status.INTERNAL, details: String(error) }
  const { status, message, details, trailers } = error.thrown
  const metadata = asMetadata(trailers ?? {})
  if (details) metadata.set('grpc-status-details-bin', Buffer.from(details))
  return { code: GRPC_STATUS[status], details: message, metadata }
}
