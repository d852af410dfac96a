import t from 'tap'
import { pack, PACKED_BYTES_MAX, unpack } from '../../../services/sdk/packing.ts'
import { readFromWorker, type FromWorker, type ToWorker } from '../../../services/sdk/wire.ts'

const bytes = (...values: number[]) => new Uint8Array(values)
const open = { type: 'open', call: 1, method: '/a.B/C', principal: 'p', deadlineMs: undefined, metadata: { k: 'v' } } as const
const error = { code: 'ARGUMENT_INVALID', message: 'no' } as const

/** Every type of message, with every field that it may have. */
const MESSAGES: readonly (ToWorker | FromWorker)[] = [
  open,
  { ...open, deadlineMs: 5, bytes: bytes() },
  { ...open, bytes: bytes(1, 2, 3), onBehalfOf: 'q' },
  { ...open, bytes: bytes(4), cursor: 'c' },
  { type: 'data', call: 1, bytes: bytes(5, 6) },
  { type: 'data', call: 2, bytes: new Uint8Array(PACKED_BYTES_MAX + 1).fill(7) },
  { type: 'halfClose', call: 1 },
  { type: 'cancel', call: 1 },
  { type: 'credit', call: 1, count: 32 },
  { type: 'control', id: 1, action: 'health' },
  { type: 'capabilityResult', id: 1, value: { a: [1] } },
  { type: 'channelData', channel: 1, bytes: bytes(8) },
  { type: 'channelEnd', channel: 1, bytes: bytes(9), error },
  { type: 'end', call: 1 },
  { type: 'end', call: 1, bytes: bytes(10) },
  { type: 'end', call: 1, error, trailers: { t: 'u' } },
  { type: 'end', call: 1, bytes: bytes(11), trailers: { t: ['u', 'v'] } },
  { type: 'metadata', call: 1, fields: { m: 'n' } },
  { type: 'cancelled', call: 1, cursor: 'c' },
  { type: 'done', id: 1, value: 1 },
  { type: 'capability', id: 1, capability: 'proc', operation: 'read', input: {} },
  { type: 'channelOpen', channel: 1, method: '/a.B/C', kind: 'unary', metadata: {}, timeoutMs: 5, under: 3, bytes: bytes(12) },
  { type: 'log', level: 'info', message: 'm', fields: { f: 1 } },
]
/** `undefined` and a missing field are one. */
const plain = (messages: readonly unknown[]) =>
  messages.map((one) => Object.fromEntries(Object.entries(one as object).filter(([, value]) => value !== undefined)))

t.test('what is packed and cloned comes out as it went in, whatever is beside it', async (t) => {
  for (const list of [MESSAGES, MESSAGES.toReversed(), ...MESSAGES.map((one) => [one])]) {
    const transfer: ArrayBuffer[] = []
    const packed = pack(structuredClone(list) as ToWorker[], transfer)
    t.same(plain(unpack(structuredClone(packed, { transfer }), true)), plain(list))
  }
})

t.test('a payload has a buffer of its own where it must not show its neighbours', async (t) => {
  const [one] = unpack(
    pack(
      [
        { type: 'data', call: 1, bytes: bytes(1) },
        { type: 'data', call: 2, bytes: bytes(2) },
      ],
      [],
    ),
    true,
  ) as { bytes: Uint8Array }[]
  t.equal(one?.bytes.buffer.byteLength, 1)
})

t.test('a view of a larger buffer is copied, never transferred', async (t) => {
  const whole = new Uint8Array(PACKED_BYTES_MAX * 3)
  const transfer: ArrayBuffer[] = []
  pack([{ type: 'data', call: 1, bytes: whole.subarray(1, PACKED_BYTES_MAX * 2) }], transfer)
  t.notOk(transfer.includes(whole.buffer))
  t.equal(transfer[0]?.byteLength, PACKED_BYTES_MAX * 2 - 1)
})

t.test('what is no batch is refused', async (t) => {
  for (const raw of [undefined, null, 1, 'text', {}, { list: 'x' }, { list: [], bytes: 'x' }]) t.throws(() => unpack(raw, false), /not a batch/)
  for (const size of [-3, 1, 0.5, Number.NaN, 'a', 2 ** 60]) t.throws(() => unpack({ list: ['data', 1, size] }, false), /outside/)
})

// A text of 8 MB in place of the object became an object with 8 million keys, and took the agent 830 MB.
t.test('what stands in place of a message is handed on as it is, and never taken apart', async (t) => {
  for (const rest of ['text', ['a', 'b'], new Uint8Array(3), null, 5, undefined, new Map([[1, 2]])]) {
    const [message] = unpack({ list: ['bytes', rest, 1], bytes: bytes(1) }, false)
    t.equal(message, rest)
    t.throws(() => readFromWorker([message]), Error)
  }
})
