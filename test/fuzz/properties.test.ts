/** What is written reads the same, whatever it is. fast-check prints the seed and the smallest value that breaks a property. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import { Deframer, writeFrame } from '../../agent/api/grpc-wire.ts'
import { joinBundle, splitBundle } from '../../core/bundle-format.ts'
import { encodeFrame, FrameReader } from '../../core/frames.ts'
import { shapeOf } from '../../core/json-depth.ts'
import { canonicalJson } from '../../core/tuf/canonical-json.ts'
import { pack, unpack } from '../../services/sdk/packing.ts'
import type { FromWorker } from '../../services/sdk/wire.ts'

const bytes = fc.uint8Array({ maxLength: 300 })
const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 5 })

/** A stream in pieces of these sizes, repeated. */
function* pieces(stream: Uint8Array, of: readonly number[]): Generator<Buffer> {
  for (let at = 0, turn = 0; at < stream.length; turn++) {
    const size = of[turn % of.length] ?? 1
    yield Buffer.from(stream.subarray(at, at + size))
    at += size
  }
}

t.test('a bundle that is cut has the sections it was joined from, and no byte of it may lack', async () => {
  const signature = fc.record({ keyId: fc.stringMatching(/^[0-9a-f]{64}$/), signature: fc.uint8Array({ minLength: 64, maxLength: 64 }) })
  const sections = fc.record({ manifest: bytes, payload: bytes, documents: bytes, signatures: fc.array(signature, { maxLength: 8 }) })
  fc.assert(
    fc.property(sections, fc.nat(), (whole, cutAt) => {
      const file = joinBundle(whole)
      const found = splitBundle(file)
      const same = (one: Uint8Array | undefined, other: Uint8Array) => Buffer.compare(one ?? new Uint8Array(), other) === 0
      if (!same(found.manifest, whole.manifest) || !same(found.payload, whole.payload) || !same(found.documents, whole.documents)) return false
      // Cut anywhere but where a bundle without documents would end.
      const cut = cutAt % file.length
      if (cut === file.length - whole.documents.length - 4 && whole.documents.length > 0) return true
      try {
        splitBundle(file.subarray(0, cut))
        return false
      } catch {
        return true
      }
    }),
  )
})

t.test('frames come out as they went in, whatever the pieces', async () => {
  const values = fc.anything({
    maxDepth: 3,
    withBigInt: true,
    withNullPrototype: false,
    key: fc.stringMatching(/^[a-z]{1,6}$/),
    values: [fc.double(), fc.string(), fc.boolean(), bytes],
  })
  fc.assert(
    fc.property(fc.array(values, { maxLength: 4 }), sizes, (batch, of) => {
      const read = (stream: Uint8Array, cut: readonly number[]) => {
        const heard: unknown[][] = []
        const reader = new FrameReader((messages) => heard.push(messages))
        for (const piece of pieces(stream, cut)) reader.push(piece)
        return heard
      }
      const stream = new Uint8Array(Buffer.concat(encodeFrame(batch)))
      const [whole] = read(stream, [stream.length])
      // What no frame carries (undefined fields, -0) is gone after the first time, and nothing else ever.
      return isDeepStrictEqual(read(stream, of)[0], whole) && isDeepStrictEqual(read(new Uint8Array(Buffer.concat(encodeFrame(whole ?? []))), of)[0], whole)
    }),
  )
})

t.test('messages of gRPC come out as they went in, whatever the pieces', async () => {
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 6 }), sizes, (messages, of) => {
      const found: Buffer[] = []
      const deframer = new Deframer(1_000)
      for (const piece of pieces(new Uint8Array(Buffer.concat(messages.map((one) => writeFrame(one)))), of))
        deframer.push(piece, (message) => found.push(message))
      return (
        !deframer.partial && found.length === messages.length && found.every((one, index) => Buffer.compare(one, messages[index] ?? new Uint8Array()) === 0)
      )
    }),
  )
})

t.test('a packed batch holds its messages', async () => {
  const message = fc.oneof(
    fc.record({ type: fc.constant('data' as const), call: fc.nat(), bytes }, { noNullPrototype: true }),
    fc.record({ type: fc.constant('credit' as const), call: fc.nat(), count: fc.nat() }, { noNullPrototype: true }),
    fc.record({ type: fc.constant('cancelled' as const), call: fc.nat(), cursor: fc.string() }, { noNullPrototype: true }),
  )
  fc.assert(
    fc.property(fc.array(message, { maxLength: 8 }), (batch) => {
      const sent = structuredClone(batch)
      return isDeepStrictEqual(unpack(pack(batch as FromWorker[], []), true), sent)
    }),
  )
})

t.test('canonical JSON does not depend on the order of names, and its shape is told right', async () => {
  const key = fc.stringMatching(/^[ -~]{0,8}$/).filter((name) => name !== '__proto__')
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: 'small' },
      fc.constant(null),
      fc.boolean(),
      fc.maxSafeInteger(),
      fc.stringMatching(/^[ -~]{0,12}$/),
      tie('list'),
      tie('object'),
    ),
    list: fc.array(tie('value'), { maxLength: 4 }),
    object: fc.dictionary(key, tie('value'), { maxKeys: 4 }),
  }))
  const turned = (one: unknown): unknown => {
    if (typeof one !== 'object' || one === null) return one
    return Array.isArray(one)
      ? one.map(turned)
      : Object.fromEntries(
          Object.entries(one)
            .reverse()
            .map(([name, inner]) => [name, turned(inner)]),
        )
  }
  const depthIn = (one: unknown): number => (typeof one === 'object' && one !== null ? 1 + Math.max(0, ...Object.values(one).map(depthIn)) : 0)
  fc.assert(
    fc.property(value, (one) => {
      if (depthIn(one) > 15) return true
      const text = canonicalJson(one)
      return (
        canonicalJson(turned(one)) === text &&
        isDeepStrictEqual(JSON.parse(text), JSON.parse(JSON.stringify(one))) &&
        shapeOf(Buffer.from(text)).depth === depthIn(one)
      )
    }),
  )
})
