/** What a service says to the agent: frames of the process tier, packed batches, the messages in them. */
import { encodeFrame, FRAME_LIMITS, FrameReader } from '../../../core/frames.ts'
import { unpack } from '../../../services/sdk/packing.ts'
import { pack, plainFields, readFromWorker, readHealth, readSnapshot, toWireError, WIRE_LIMITS, type FromWorker } from '../../../services/sdk/wire.ts'
import { holds, jsonBytes, type Target } from '../target.ts'

const bytes = (size: number) => new Uint8Array(size).fill(7)
const joined = (pieces: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(pieces))

/** Neither a mistake of the language nor of the machine: both are subclasses of their own. */
const plainError = (error: unknown) => error instanceof Error && error.constructor === Error
/** The parsers of the runtime name what is wrong in classes of their own. */
const frameError = (error: unknown) =>
  plainError(error) || error instanceof SyntaxError || (error as { code?: unknown } | null)?.code === 'ERR_ENCODING_INVALID_ENCODED_DATA'

const messages: FromWorker[] = [
  { type: 'data', call: 1, bytes: bytes(9) },
  { type: 'end', call: 1, bytes: bytes(3), trailers: { 'x-key': ['a', 'b'], 'x-bin': 'AAAA' } },
  { type: 'end', call: 2, error: { code: 'SERVICE_STATUS', message: 'no', status: 5, details: 'AAAA' } },
  { type: 'metadata', call: 3, fields: { 'x-key': 'a' } },
  { type: 'cancelled', call: 3, cursor: 'here' },
  { type: 'credit', call: 3, count: 8 },
  { type: 'done', id: 4, value: { schema: 1 } },
  { type: 'capability', id: 5, capability: 'proc', operation: 'read', input: { path: '/proc/stat' } },
  { type: 'channelOpen', channel: 6, method: '/a.B/C', kind: 'unary', timeoutMs: 10, under: 1, metadata: { 'x-key': 'a' }, bytes: bytes(2) },
  { type: 'channelData', channel: 6, bytes: bytes(2) },
  { type: 'channelHalfClose', channel: 6 },
  { type: 'channelCredit', channel: 6, count: 2 },
  { type: 'channelCancel', channel: 6 },
  { type: 'log', level: 'info', message: 'text', fields: { a: 1, b: { c: 'd' } } },
  { type: 'logsDropped', count: 2 },
]

/** A frame as a process sends it: one packed batch. */
const packed = (...batch: FromWorker[]) => joined(encodeFrame([pack(batch, [])]))

/** All batches of a stream that comes in pieces of `sizes`, repeated. */
function read(stream: Uint8Array, sizes: readonly number[]): unknown[][] {
  const batches: unknown[][] = []
  const reader = new FrameReader((batch) => batches.push(batch))
  for (let at = 0, turn = 0; at < stream.length; turn++) {
    const size = Math.max(1, sizes[turn % sizes.length] ?? stream.length)
    reader.push(stream.subarray(at, at + size))
    at += size
  }
  return batches
}

/** Every batch as the agent takes it. */
function takeBatch(batch: unknown): void {
  for (const message of readFromWorker(unpack(batch, false))) {
    if (message.type === 'log') holds(JSON.stringify(plainFields(message.fields)).length < 2 * WIRE_LIMITS.logFieldsCharsMax, 'a log line over its bound')
    if (message.type === 'data') holds(message.bytes.byteLength <= WIRE_LIMITS.messageBytesMax, 'a message over its bound')
    if (message.type === 'done') answered(message.value)
  }
}

/** What answers are read with, whatever was asked. */
function answered(value: unknown): void {
  for (const reading of [() => readHealth(value), () => readSnapshot(value, 1)]) {
    try {
      reading()
    } catch (error) {
      if (!plainError(error)) throw error
    }
  }
  holds(typeof toWireError(value).message === 'string', 'an error without text')
}

/** JSON can say no bytes, bigints and the like: a lone {"$": kind, "of": value} stands for them. */
function revived(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  const { $: kind, of } = value as { $?: unknown; of?: unknown }
  if (kind === 'bytes') return bytes(typeof of === 'number' ? Math.min(Math.abs(Math.trunc(of)) || 0, 1_024) : 0)
  if (kind === 'bigint') return BigInt(typeof of === 'number' && Number.isSafeInteger(of) ? of : 0)
  if (kind === 'undefined') return undefined
  if (kind === 'number') return Number(of)
  if (Array.isArray(value)) return value.map(revived)
  const copy: Record<string, unknown> = {}
  for (const key of Object.keys(value)) Object.defineProperty(copy, key, { value: revived((value as Record<string, unknown>)[key]), enumerable: true })
  return copy
}

const specials = (value: unknown): unknown =>
  value instanceof Uint8Array
    ? { $: 'bytes', of: value.length }
    : Array.isArray(value)
      ? value.map(specials)
      : typeof value === 'object' && value !== null
        ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, specials(one)]))
        : value

export const wireTargets: readonly Target[] = [
  {
    name: 'frames',
    reads: 'core/frames.ts FrameReader, any bytes in pieces of any size (the first byte says which)',
    seeds: () => [
      joined([new Uint8Array([1]), packed(messages[0] as FromWorker)]),
      joined([new Uint8Array([7]), ...encodeFrame([{ a: Number.NaN, b: 5n, c: bytes(3) }, [bytes(0), undefined, bytes(2)]])]),
      joined([new Uint8Array([200]), packed(...messages), packed(...messages.slice(0, 2))]),
    ],
    codes: [],
    declared: frameError,
    inputBytesMax: 256 * 1024,
    run: (input) => {
      const [first = 0] = input
      const stream = input.subarray(1)
      const batches = read(stream, [first])
      // What was read can be written, and reads the same again, whole.
      const again = read(joined(batches.flatMap((batch) => encodeFrame(batch))), [])
      holds(again.length === batches.length, 'frames that cannot be written again')
      return batches.length > 0
    },
  },
  {
    name: 'frames-header',
    reads: 'core/frames.ts FrameReader, any header with lengths that agree',
    seeds: () => [
      jsonBytes([
        [{ a: null, b: [null, null] }],
        [
          ['bytes', 3, 0, 'a'],
          ['number', 'NaN', 0, 'b', 0],
          ['bigint', '12', 0, 'b', 1],
        ],
      ]),
      jsonBytes([[[null]], [['undefined', 0, 0, 0]]]),
    ],
    codes: [],
    declared: frameError,
    inputBytesMax: 128 * 1024,
    run: (input) => {
      const sizes = declaredBytes(input)
      const lengths = Buffer.alloc(8)
      lengths.writeUInt32BE(input.length, 0)
      lengths.writeUInt32BE(Math.min(sizes, 1024 * 1024), 4)
      const batches = read(joined([lengths, input, bytes(Math.min(sizes, 1024 * 1024))]), [])
      holds(({} as { polluted?: unknown }).polluted === undefined && Object.keys(Object.prototype).length === 0, 'a frame reached a prototype')
      return batches.length > 0
    },
  },
  {
    name: 'wire-frames',
    reads: 'services/sdk unpack and readFromWorker behind core/frames.ts, any bytes: all that a process of a service can send',
    seeds: () => [packed(...messages), packed(messages[1] as FromWorker, messages[8] as FromWorker)],
    codes: [],
    declared: frameError,
    inputBytesMax: 256 * 1024,
    run: (input) => {
      const batches = read(input, [])
      for (const batch of batches) takeBatch(batch[0])
      return batches.length > 0
    },
  },
  {
    name: 'wire-batch',
    reads: 'services/sdk/packing.ts unpack and wire.ts readFromWorker, any value in place of a batch',
    seeds: () => messages.map((message) => jsonBytes(specials(pack([message], [])))).concat(jsonBytes(specials(pack(messages, [])))),
    codes: [],
    declared: (error) => plainError(error) || error instanceof SyntaxError,
    form: 'json',
    inputBytesMax: 128 * 1024,
    run: (input) => {
      takeBatch(revived(JSON.parse(Buffer.from(input).toString('utf8'))))
      return true
    },
  },
  {
    name: 'wire-messages',
    reads: 'services/sdk/wire.ts readFromWorker, readHealth, readSnapshot, toWireError, plainFields: any values in place of messages',
    seeds: () => [
      ...messages.map((message) => jsonBytes([specials(message)])),
      jsonBytes([{ type: 'done', id: 1, value: { status: 'healthy', reason: 'all well', evidence: { sessions: 4 } } }]),
      jsonBytes([{ type: 'done', id: 1, value: { schema: 1, bytes: { $: 'bytes', of: 8 }, checksum: 5 } }]),
      jsonBytes([{ type: 'done', id: 1, error: { code: 'INTERNAL', message: 'text' } }]),
    ],
    codes: [],
    declared: (error) => plainError(error) || error instanceof SyntaxError,
    form: 'json',
    inputBytesMax: 128 * 1024,
    run: (input) => {
      const raw = revived(JSON.parse(Buffer.from(input).toString('utf8')))
      for (const message of readFromWorker(raw)) {
        if (message.type === 'log') plainFields(message.fields)
        if (message.type === 'done') answered(message.value)
      }
      return true
    },
  },
]

/** How many bytes a header's extras speak of. */
function declaredBytes(header: Uint8Array): number {
  try {
    const extras = (JSON.parse(Buffer.from(header).toString('utf8')) as unknown[])[1]
    if (!Array.isArray(extras)) return 0
    const sizes = extras.map((extra) => (Array.isArray(extra) && extra[0] === 'bytes' && Number.isSafeInteger(extra[1]) ? Math.max(0, extra[1]) : 0))
    return Math.min(
      FRAME_LIMITS.bytesMax,
      sizes.reduce((sum: number, one: number) => sum + one, 0),
    )
  } catch {
    return 0
  }
}
