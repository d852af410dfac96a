/**
 * A load generator on node:http2: unary gRPC calls over one mutual-TLS connection with hardly any work of its own. A grpc-js client
 * needs as much CPU per call as a grpc-js server, so that with one the bench would measure the client.
 */
import { once } from 'node:events'
import { type ClientHttp2Session, connect } from 'node:http2'

export interface LoadTarget {
  readonly port: number
  readonly serverName: string
  readonly caPem: string
  readonly identity: { readonly keyPem: string; readonly certificatePem: string }
}

/** One gRPC frame with `message` in it, not compressed. */
export function frame(message: Uint8Array): Buffer {
  const bytes = Buffer.alloc(5 + message.byteLength)
  bytes.writeUInt32BE(message.byteLength, 1)
  bytes.set(message, 5)
  return bytes
}

export class Load {
  readonly #session: ClientHttp2Session
  readonly #serverName: string

  private constructor(session: ClientHttp2Session, serverName: string) {
    this.#session = session
    this.#serverName = serverName
  }

  static async open({ port, serverName, caPem, identity }: LoadTarget): Promise<Load> {
    const session = connect(`https://127.0.0.1:${port}`, {
      ca: caPem,
      key: identity.keyPem,
      cert: identity.certificatePem,
      servername: serverName,
      settings: { initialWindowSize: 4 * 1024 * 1024 },
    })
    await once(session, 'connect')
    session.setLocalWindowSize(16 * 1024 * 1024)
    return new Load(session, serverName)
  }

  close(): void {
    this.#session.destroy()
  }

  /** @param onBytes is told of each piece of the answer, frames included. @throws Error when the call does not end with status 0 */
  async call(path: string, request: Buffer, onBytes: (count: number) => void = () => {}): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const stream = this.#session.request({
        ':method': 'POST',
        ':path': path,
        ':authority': this.#serverName,
        'content-type': 'application/grpc',
        te: 'trailers',
        'grpc-timeout': '30S',
        'user-agent': 'offbox-bench',
      })
      let status: unknown
      stream.on('data', (chunk: Buffer) => onBytes(chunk.byteLength))
      stream.on('response', (headers) => {
        status = headers['grpc-status']
      })
      stream.on('trailers', (headers) => {
        status = headers['grpc-status']
      })
      stream.on('error', reject)
      stream.on('close', () => (status === '0' ? resolve() : reject(new Error(`${path} ended with status ${String(status)}`))))
      stream.end(request)
    })
  }

  /** Keeps `inFlight` calls under way for `ms`. */
  async unaryPerSecond(path: string, request: Buffer, inFlight: number, ms: number): Promise<{ count: number; perSecond: number }> {
    const startMs = performance.now()
    let count = 0
    await Promise.all(
      Array.from({ length: inFlight }, async () => {
        for (; performance.now() - startMs < ms; count++) await this.call(path, request)
      }),
    )
    return { count, perSecond: (count * 1_000) / (performance.now() - startMs) }
  }
}
