import t from 'tap'
import { encodeFrame, FRAME_LIMITS, FrameReader, framesOf } from '../../core/frames.ts'
import { pack, type ToWorker, unpack } from '../../services/sdk/wire.ts'

const join = (pieces: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(pieces))

function read(bytes: Uint8Array, pieceBytes = bytes.byteLength || 1): unknown[][] {
  const batches: unknown[][] = []
  const reader = new FrameReader((batch) => batches.push(batch))
  for (let at = 0; at < bytes.byteLength; at += pieceBytes) reader.push(bytes.subarray(at, at + pieceBytes))
  if (reader.torn) throw new Error('torn')
  return batches
}

/** A frame with any header, as a hostile child could write it. */
function frame(header: string, bytes: Uint8Array = new Uint8Array(0), lengths: [number, number] = [Buffer.byteLength(header), bytes.byteLength]): Uint8Array {
  const start = Buffer.alloc(8)
  start.writeUInt32BE(lengths[0], 0)
  start.writeUInt32BE(lengths[1], 4)
  return join([start, Buffer.from(header), bytes])
}

/** Numbers from 0 to n, the same at each run. */
function seeded(start: number): (n: number) => number {
  let seed = start
  return (n) => {
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed % n
  }
}

const messages = [
  { type: 'data', call: 1, bytes: new Uint8Array([1, 2, 3]) },
  { type: 'end', call: 2, error: { code: 'INTERNAL', message: 'größer \ud83d\ude00' } },
  { type: 'done', id: 3, value: { schema: 1, bytes: new Uint8Array(100_000).fill(7) } },
  { type: 'done', id: 4, value: { status: 'healthy', evidence: { nan: Number.NaN, inf: Number.NEGATIVE_INFINITY, big: 12345678901234567890n } } },
  { type: 'capability', id: 5, input: [undefined, null, [new Uint8Array(0)], { key: 'bytes', value: new Uint8Array([255]) }] },
]

t.test('what was written is read, in whatever pieces it arrives', async (t) => {
  const bytes = join(encodeFrame(messages))
  for (const size of [bytes.byteLength, 65_536, 1_000, 7, 1]) t.same(read(bytes, size).flat(), messages, `pieces of ${size}`)
  t.same(read(join(encodeFrame([]))), [[]], 'also a batch of nothing')
})

t.test('random values come through', async (t) => {
  const random = seeded(20261122)
  const value = (depth: number): unknown => {
    const kind = random(depth > 4 ? 6 : 8)
    if (kind === 0) return random(2) === 0
    if (kind === 1) return random(1000) - 500.5
    if (kind === 2) return String.fromCharCode(random(60_000)).repeat(random(5))
    if (kind === 3) return new Uint8Array(random(300)).fill(random(256))
    if (kind === 4) return null
    if (kind === 5) return [Number.NaN, Number.POSITIVE_INFINITY, -7n][random(3)]
    if (kind === 6) return Array.from({ length: random(4) }, () => value(depth + 1))
    return Object.fromEntries(Array.from({ length: random(4) }, (_, index) => [`k${index}`, value(depth + 1)]))
  }
  for (let round = 0; round < 300; round++) {
    const batch = Array.from({ length: 1 + random(5) }, () => ({ type: 'x', value: value(0) }))
    t.strictSame(read(join(encodeFrame(batch)), 1 + random(200)).flat(), batch)
  }
})

t.test('byte arrays arrive with buffers of their own', async (t) => {
  const pool = Buffer.alloc(4096, 1)
  const [[message]] = read(join(encodeFrame([{ bytes: pool.subarray(10, 20) }]))) as [[{ bytes: Uint8Array }]]
  t.equal(message.bytes.buffer.byteLength, 10)
})

t.test('a large batch goes out as several frames, a large message as one', async (t) => {
  const batches = read(
    join(
      framesOf(
        Array.from({ length: 8 }, (_, call) => ({ type: 'data', call, bytes: new Uint8Array(200_000) })),
        (portion) => portion,
      ),
    ),
  )
  t.ok(batches.length > 2 && batches.length < 8, `${batches.length} frames`)
  t.same(batches.flat(2).length, 8)
  t.equal(read(join(encodeFrame([{ bytes: new Uint8Array(64 * 1024 * 1024) }]))).length, 1)
})

t.test('a value without end is cut off, and does not end the sender', async (t) => {
  const loop: Record<string, unknown> = { name: 'loop' }
  loop['self'] = loop
  t.equal(read(join(encodeFrame([loop]))).length, 1)
})

const hostile: Record<string, Uint8Array> = {
  'a header over its cap': frame('', undefined, [FRAME_LIMITS.headerBytesMax + 1, 0]),
  'no header': frame('', undefined, [0, 0]),
  'bytes over their cap': frame('[[],[]]', undefined, [7, FRAME_LIMITS.bytesMax + 1]),
  'no JSON': frame('[[],[]'),
  'no UTF-8': join([frame('', undefined, [2, 0]), new Uint8Array([0xc3, 0x28])]),
  'another shape': frame('{"messages":[]}'),
  'bytes that nobody claims': frame('[[{}],[]]', new Uint8Array(4)),
  'more bytes claimed than there are': frame('[[{"b":null}],[["bytes",9,0,"b"]]]', new Uint8Array(4)),
  'a negative length': frame('[[{"b":null}],[["bytes",-1,0,"b"]]]'),
  'a length in words': frame('[[{"b":null}],[["bytes","9",0,"b"]]]'),
  'a path to nowhere': frame('[[{}],[["undefined",0,0,"b"]]]'),
  'a path to a prototype': frame('[[{}],[["undefined",0,0,"__proto__","x"]]]'),
  'a path over what is there': frame('[[{"b":1}],[["undefined",0,0,"b"]]]'),
  'the length of the list': frame('[[{}],[["number","1e9","length"]]]'),
  'a path without end': frame(`[[{}],[["undefined",0,${'0,'.repeat(100)}0]]]`),
  'an unknown kind': frame('[[{"b":null}],[["function","x",0,"b"]]]'),
  'a number of digits without end': frame(`[[{"b":null}],[["bigint","${'9'.repeat(1000)}",0,"b"]]]`),
  'deep nesting': frame(`[${'['.repeat(100_000)}${']'.repeat(100_000)},[["undefined",0,0]]]`),
}

t.test('a frame that breaks a rule is refused', async (t) => {
  for (const [what, bytes] of Object.entries(hostile)) t.throws(() => read(bytes), Error, what)
  t.equal(({} as Record<string, unknown>)['x'], undefined, 'and no prototype was reached')
})

t.test('a frame cut short is known as torn', async (t) => {
  const bytes = join(encodeFrame(messages))
  for (const length of [1, 7, 8, 20, bytes.byteLength - 1]) {
    const reader = new FrameReader(() => {})
    reader.push(bytes.subarray(0, length))
    t.ok(reader.torn, `${length} bytes`)
  }
})

t.test('random bytes never do more than throw', async (t) => {
  const random = seeded(7)
  const good = join(encodeFrame(messages.slice(0, 2)))
  for (let round = 0; round < 3_000; round++) {
    const bytes = good.slice()
    for (let flips = 1 + random(3); flips > 0; flips--) bytes[random(bytes.byteLength)] = random(256)
    try {
      read(bytes)
    } catch (error) {
      t.type(error, Error)
    }
  }
  t.end()
})

t.test('a batch with large headers goes in as many frames as it takes, and arrives whole', async (t) => {
  const metadata = { 'x-large': 'm'.repeat(8_000) }
  const opens = Array.from({ length: 1_100 }, (_, call) => ({ type: 'open', call, method: '/a.B/C', principal: 'p', deadlineMs: undefined, metadata }) as const)
  const results = Array.from({ length: 5 }, (_, id) => ({ type: 'capabilityResult', id, value: 'r'.repeat(1_900_000) }) as const)
  for (const batch of [opens, results] as const) {
    const heard: { call?: number; id?: number }[] = []
    const reader = new FrameReader(([packed]) => heard.push(...(unpack(packed, false) as typeof heard)))
    for (const piece of framesOf<ToWorker>(batch, (portion) => pack(portion, []))) reader.push(piece)
    t.same(
      heard.map(({ call, id }) => call ?? id),
      batch.map((_, index) => index),
    )
    t.notOk(reader.torn)
  }
})

t.test('a header that is nested deeper than any sender nests is refused before it is parsed; the deepest one is not', async (t) => {
  const deep = `${'['.repeat(500_000)}${']'.repeat(500_000)}`
  t.throws(() => new FrameReader(() => {}).push(frame(`[[${deep}],[]]`)), { message: /nested too deep/ })
  let value: unknown = 'x'.repeat(20_000)
  for (let depth = 0; depth < 2 * FRAME_LIMITS.depthMax; depth++) value = { value }
  let heard = 0
  const reader = new FrameReader(() => heard++)
  for (const piece of encodeFrame([value])) reader.push(piece)
  t.equal(heard, 1, 'the sender cuts what is deeper, and the reader takes it')
})

t.test('a header of more objects than any sender sends is refused before it is parsed: they take thirty times their text', async (t) => {
  const many = (count: number) => `[[${JSON.stringify(Array.from({ length: count - 4 }, () => ({})))}],[]]`
  t.throws(() => new FrameReader(() => {}).push(frame(many(FRAME_LIMITS.containersMax + 1))), { message: /objects and arrays/ })
  let heard = 0
  new FrameReader(() => heard++).push(frame(many(FRAME_LIMITS.containersMax)))
  t.equal(heard, 1)
})
