/** What both servers of the behavioural list serve: the same functions, so that a difference is the server's. */
import type { Call, GrpcStatus, Metadata } from '../../services/sdk/service.ts'

export interface Thrown {
  readonly status: GrpcStatus
  readonly message: string
  readonly details?: Uint8Array
  readonly trailers?: Metadata
}
export type Fail = (thrown: Thrown) => Error
export type About = Pick<Call, 'signal' | 'deadlineMs' | 'metadata' | 'binaryMetadata' | 'sendMetadata' | 'setTrailers'>

export const PATHS = {
  unary: '/test.Behaviour/Unary',
  server: '/test.Behaviour/Server',
  client: '/test.Behaviour/Client',
  bidi: '/test.Behaviour/Bidi',
} as const

const encode = (text: string) => new TextEncoder().encode(text)
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
const bin = (...values: number[]) => new Uint8Array(values)

export function handlers(fail: Fail) {
  let aborted = 0
  let produced = 0
  const ended = async (about: About) => {
    await new Promise<void>((resolve) => {
      if (about.signal.aborted) resolve()
      else about.signal.addEventListener('abort', () => resolve())
    })
    aborted++
  }
  return {
    unary: async (request: Uint8Array, about: About): Promise<Uint8Array> => {
      const [what, ...rest] = decode(request).split(' ')
      const argument = rest.join(' ')
      if (what === 'echo') return encode(argument)
      if (what === 'empty' || what === '') return new Uint8Array(0)
      if (what === 'size') return encode(String(request.byteLength))
      if (what === 'big') return new Uint8Array(Number(argument))
      if (what === 'metadata') {
        const binary = Object.fromEntries(Object.entries(about.binaryMetadata).map(([key, values]) => [key, values.map((one) => [...one])]))
        return encode(JSON.stringify({ text: about.metadata, binary }))
      }
      if (what === 'answer-metadata') {
        about.sendMetadata({ 'x-initial': 'one', 'x-initial-bin': bin(0, 1, 255), 'x-many': ['a', 'b'] })
        about.setTrailers({ 'x-trailer': 'two', 'x-trailer-bin': bin(9, 8) })
        return encode('done')
      }
      if (what === 'status') {
        throw fail({ status: 'NOT_FOUND', message: 'nothing ü % here', details: bin(8, 5, 18, 1, 97), trailers: { 'x-why': 'because' } })
      }
      if (what === 'deadline') return encode(String(about.deadlineMs !== undefined))
      if (what === 'hang') {
        await ended(about)
        return encode('too late')
      }
      if (what === 'aborted') return encode(String(aborted))
      if (what === 'produced') return encode(String(produced))
      throw new Error(`unknown: ${what}`)
    },
    server: async function* (request: Uint8Array, about: About): AsyncGenerator<Uint8Array> {
      const [what, argument] = decode(request).split(' ')
      if (what === 'metadata') about.sendMetadata({ 'x-initial': 'stream' })
      if (what === 'trailers') about.setTrailers({ 'x-trailer': 'end' })
      if (what === 'hang') {
        yield encode('0')
        await ended(about)
        return
      }
      if (what === 'flood') {
        for (produced = 0; !about.signal.aborted; produced++) yield new Uint8Array(1_000)
        return
      }
      for (let at = 0; at < Number(argument ?? 0); at++) yield encode(String(at))
      if (what === 'fail') throw fail({ status: 'ABORTED', message: 'in the middle' })
    },
    client: async (requests: AsyncIterable<Uint8Array>): Promise<Uint8Array> => {
      let count = 0
      let bytes = 0
      for await (const request of requests) {
        if (decode(request) === 'stop') throw fail({ status: 'FAILED_PRECONDITION', message: 'enough' })
        count++
        bytes += request.byteLength
      }
      return encode(`${count} ${bytes}`)
    },
    bidi: async function* (requests: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for await (const request of requests) yield request
      yield encode('bye')
    },
  }
}
