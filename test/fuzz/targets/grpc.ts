/** The bytes and headers of gRPC, as any client with a certificate may send them. */
import { Deframer, FRAME_BYTES, MessageTooLong, readHead, readMetadata, writeFrame, type Headers } from '../../../agent/api/grpc-wire.ts'
import { holds, jsonBytes, type Target } from '../target.ts'

const MESSAGE_BYTES_MAX = 4_096

/** What the same bytes hold when they come in one piece, by the protocol's own words: a flag, a length, a message. */
function cut(stream: Buffer): { messages: Buffer[]; tooLong: boolean; rest: number } {
  const messages: Buffer[] = []
  let at = 0
  while (stream.length - at >= FRAME_BYTES) {
    const length = stream.readUInt32BE(at + 1)
    if (length > MESSAGE_BYTES_MAX) return { messages, tooLong: true, rest: 0 }
    if (stream.length - at - FRAME_BYTES < length) break
    messages.push(stream.subarray(at + FRAME_BYTES, at + FRAME_BYTES + length))
    at += FRAME_BYTES + length
  }
  return { messages, tooLong: false, rest: stream.length - at }
}

export const grpcTargets: readonly Target[] = [
  {
    name: 'grpc-deframer',
    reads: 'agent/api/grpc-wire.ts Deframer, any bytes in pieces of any sizes (the first byte says how many, the next ones which)',
    seeds: () => {
      const frames = Buffer.concat([Buffer.from('first'), Buffer.alloc(0), Buffer.alloc(700, 1), Buffer.from('x')].map((one) => writeFrame(one)))
      return [[0], [1, 1], [3, 5, 1, 250], [2, 4, 6]].map((sizes) => new Uint8Array(Buffer.concat([Buffer.from(sizes), frames])))
    },
    codes: [],
    declared: (error) => error instanceof MessageTooLong,
    inputBytesMax: 16 * 1024,
    run: (input) => {
      const sizes = [...input.subarray(1, 1 + ((input[0] ?? 0) % 8))]
      const stream = Buffer.from(input.subarray(1 + sizes.length))
      const expected = cut(stream)
      const found: Buffer[] = []
      const deframer = new Deframer(MESSAGE_BYTES_MAX)
      const push = (): void => {
        for (let at = 0, turn = 0; at < stream.length; turn++) {
          const size = Math.max(1, sizes[turn % sizes.length] ?? stream.length)
          deframer.push(stream.subarray(at, at + size), (message) => found.push(message))
          at += size
        }
      }
      if (expected.tooLong) {
        let refused = false
        try {
          push()
        } catch (error) {
          if (!(error instanceof MessageTooLong)) throw error
          refused = true
        }
        holds(refused, 'a message over its bound was taken')
        return false
      }
      push()
      holds(
        Buffer.compare(Buffer.concat(found), Buffer.concat(expected.messages)) === 0 && found.length === expected.messages.length,
        'other messages than were sent',
      )
      holds(deframer.partial === expected.rest > 0, 'an unfinished message is not told')
      return found.length > 0
    },
  },
  {
    name: 'grpc-headers',
    reads: 'agent/api/grpc-wire.ts readHead and readMetadata, any header fields',
    seeds: () => [
      jsonBytes({ ':path': '/a.B/C', 'grpc-timeout': '100m', 'grpc-encoding': 'gzip', 'content-type': 'application/grpc', 'x-key': 'a', 'x-bin': 'AAAA' }),
      jsonBytes({ 'grpc-timeout': '99999999H', 'x-list': ['a', 'b'], age: 5 }),
    ],
    codes: [],
    declared: (error) => error instanceof SyntaxError,
    form: 'json',
    inputBytesMax: 16 * 1024,
    run: (input) => {
      const headers = headersOf(JSON.parse(Buffer.from(input).toString('utf8')))
      const { timeoutMs, encoding } = readHead(headers)
      holds(timeoutMs === undefined || Number.isNaN(timeoutMs) || (timeoutMs >= 0 && timeoutMs <= 99_999_999 * 3_600_000), 'a time that no header can say')
      holds(typeof encoding === 'string', 'an encoding that is no text')
      const metadata = readMetadata(headers)
      holds(
        Object.values(metadata).every((value) => typeof value === 'string'),
        'metadata that is no text',
      )
      holds(Object.getPrototypeOf(metadata) === Object.prototype, 'metadata with another prototype')
      return true
    },
  },
]

/** As Node gives them: no prototype; a text, a list of texts, or (for few) a number. */
function headersOf(raw: unknown): Headers {
  const headers: Record<string, string | string[] | number> = Object.create(null)
  for (const [name, value] of Object.entries(typeof raw === 'object' && raw !== null ? raw : {})) {
    if (typeof value === 'string' || typeof value === 'number') headers[name] = value
    else if (Array.isArray(value)) headers[name] = value.map((one) => (typeof one === 'string' ? one : JSON.stringify(one)))
  }
  return headers
}
