/** Calls of the behavioural list, through a grpc-js client and, for what such a client never sends, over bare HTTP/2. */
import { once } from 'node:events'
import { connect, type OutgoingHttpHeaders } from 'node:http2'
import * as grpc from '@grpc/grpc-js'
import { PATHS } from './handlers.ts'
import type { Target } from './targets.ts'

const same = (bytes: Buffer) => bytes

export interface Ended {
  readonly code: grpc.status
  readonly details: string
  readonly trailers: grpc.Metadata
  readonly initial: grpc.Metadata
  readonly messages: readonly string[]
}

export interface CallOptions extends grpc.CallOptions {
  readonly metadata?: grpc.Metadata
}

/** Everything that came back for one call. `messages` as text. */
export async function collect(call: grpc.ClientReadableStream<Buffer> | grpc.ClientDuplexStream<Buffer, Buffer>): Promise<Ended> {
  const messages: string[] = []
  let initial = new grpc.Metadata()
  call.on('metadata', (metadata) => {
    initial = metadata
  })
  call.on('data', (bytes) => messages.push(String(bytes)))
  call.on('error', () => {})
  const status = await new Promise<grpc.StatusObject>((resolve) => call.on('status', resolve))
  return { code: status.code, details: status.details, trailers: status.metadata, initial, messages }
}

export async function unary({ client }: Target, request: string | Buffer, options: CallOptions = {}, path: string = PATHS.unary): Promise<Ended> {
  return await new Promise((resolve) => {
    let initial = new grpc.Metadata()
    const messages: string[] = []
    const call = client.makeUnaryRequest(path, same, same, Buffer.from(request), options.metadata ?? new grpc.Metadata(), options, (_, value) => {
      if (value) messages.push(String(value))
    })
    call.on('metadata', (metadata) => {
      initial = metadata
    })
    call.on('status', ({ code, details, metadata }) => setImmediate(() => resolve({ code, details, trailers: metadata, initial, messages })))
  })
}

export function serverStream({ client }: Target, request: string, options: CallOptions = {}): grpc.ClientReadableStream<Buffer> {
  return client.makeServerStreamRequest(PATHS.server, same, same, Buffer.from(request), options.metadata ?? new grpc.Metadata(), options)
}

export function bidi({ client }: Target): grpc.ClientDuplexStream<Buffer, Buffer> {
  return client.makeBidiStreamRequest(PATHS.bidi, same, same)
}

export function clientStream({ client }: Target): { call: grpc.ClientWritableStream<Buffer>; ended: Promise<Ended> } {
  const messages: string[] = []
  const call = client.makeClientStreamRequest(PATHS.client, same, same, new grpc.Metadata(), (_, value) => {
    if (value) messages.push(String(value))
  })
  call.on('error', () => {})
  const ended = new Promise<Ended>((resolve) => {
    call.on('status', ({ code, details, metadata }) =>
      setImmediate(() => resolve({ code, details, trailers: metadata, initial: new grpc.Metadata(), messages })),
    )
  })
  return { call, ended }
}

export function frame(message: Uint8Array, compressed = false): Buffer {
  const bytes = Buffer.alloc(5 + message.byteLength)
  bytes[0] = compressed ? 1 : 0
  bytes.writeUInt32BE(message.byteLength, 1)
  bytes.set(message, 5)
  return bytes
}

/** One call over bare HTTP/2: sends `pieces` as they are, and half-closes unless told otherwise. */
export async function bare({ port }: Target, path: string, headers: OutgoingHttpHeaders, pieces: readonly Buffer[], halfClose = true) {
  const session = connect(`http://127.0.0.1:${port}`)
  try {
    const stream = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers', ...headers })
    const chunks: Buffer[] = []
    let response: Record<string, unknown> = {}
    let trailers: Record<string, unknown> = {}
    stream.on('response', (headers) => {
      response = headers
    })
    stream.on('trailers', (headers) => {
      trailers = headers
    })
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('error', () => {})
    for (const piece of pieces) stream.write(piece)
    if (halfClose) stream.end()
    await Promise.race([once(stream, 'end'), once(stream, 'close')])
    stream.close()
    const status = trailers['grpc-status'] ?? response['grpc-status']
    return {
      status: status === undefined ? undefined : Number(status),
      message: String(trailers['grpc-message'] ?? response['grpc-message'] ?? ''),
      body: Buffer.concat(chunks),
      response,
    }
  } finally {
    session.destroy()
  }
}

/** Fails after a minute. */
export async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const WAIT_MS = 60_000
  const startMs = performance.now()
  while (!(await holds())) {
    if (performance.now() - startMs > WAIT_MS) throw new Error(`waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
