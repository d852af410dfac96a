import t from 'tap'
import { Deframer, writeFrame } from '../../../agent/api/grpc-wire.ts'

/** What comes out when frames come in pieces of these sizes, repeated. */
function deframed(frames: Buffer, sizes: readonly number[], bytesMax = 4 * 1024 * 1024): Buffer[] {
  const found: Buffer[] = []
  const deframer = new Deframer(bytesMax)
  for (let at = 0, turn = 0; at < frames.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1
    deframer.push(frames.subarray(at, at + size), (message) => found.push(message))
    at += size
  }
  if (deframer.partial) throw new Error('a message is left unfinished')
  return found
}

t.test('messages come out as they went in, whatever the pieces', async (t) => {
  const messages = [0, 1, 5, 4_000, 0, 100_000, 1_024, 1_025].map((size, index) => Buffer.alloc(size, index + 1))
  const frames = Buffer.concat(messages.map((one) => writeFrame(one)))
  for (const sizes of [[1], [2], [4], [5], [6], [1, 1_025], [3, 5_000, 1], [1_024], [16_384], [frames.length]]) {
    t.ok(
      deframed(frames, sizes).every((one, index) => one.equals(messages[index] as Buffer)),
      `pieces of ${sizes.join()}`,
    )
    t.equal(deframed(frames, sizes).length, messages.length)
  }
})

// It took hours: each piece was looked at again with each that followed.
t.test('a large message in pieces of one byte is put together all the same', { timeout: 120_000 }, async (t) => {
  const message = Buffer.alloc(2 * 1024 * 1024, 7)
  const [found] = deframed(writeFrame(message), [1])
  t.ok(found?.equals(message))
})

t.test('a message over the bound is refused once its length is there, in however many pieces that comes', async (t) => {
  const head = writeFrame(Buffer.alloc(11)).subarray(0, 5)
  for (const size of [1, 2, 3, 5]) t.throws(() => deframed(head, [size], 10), { name: 'Error', message: /larger than max \(11 vs 10\)/ })
})
