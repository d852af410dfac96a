/** The behavioural list: what a client may rely on, whichever of the two servers it talks to. docs/api-behaviour.md lists what differs. */
import { connect } from 'node:http2'
import { gzipSync } from 'node:zlib'
import * as grpc from '@grpc/grpc-js'
import type { Test } from 'tap'
import { requestBytesMax } from '../../agent/limits.ts'
import { WIRE_LIMITS } from '../../services/sdk/wire.ts'
import { bare, bidi, clientStream, collect, frame, serverStream, unary, until } from './calls.ts'
import { PATHS } from './handlers.ts'
import type { Target } from './targets.ts'

const { status } = grpc
const text = (words: string) => Buffer.from(words)
const numberOf = async (target: Target, what: string) => Number((await unary(target, what)).messages[0])

export const CASES: Readonly<Record<string, (t: Test, target: Target) => Promise<void>>> = {
  'a unary call is answered, with status OK': async (t, target) => {
    t.match(await unary(target, 'echo hello'), { code: status.OK, details: 'OK', messages: ['hello'] })
  },
  'messages may be empty, both ways': async (t, target) => {
    t.match(await unary(target, ''), { code: status.OK, messages: [''] })
    t.match(await unary(target, 'empty'), { code: status.OK, messages: [''] })
  },
  'request metadata arrives: text, bytes, and keys that come several times': async (t, target) => {
    const metadata = new grpc.Metadata()
    metadata.set('x-text', 'with = and , and "')
    metadata.add('x-many', 'a')
    metadata.add('x-many', 'b')
    metadata.set('x-bytes-bin', Buffer.from([0, 255, 10]))
    metadata.add('x-two-bin', Buffer.from([1]))
    metadata.add('x-two-bin', Buffer.from([2, 3]))
    const got = JSON.parse((await unary(target, 'metadata', { metadata })).messages[0] ?? '')
    t.match(got.text, { 'x-text': 'with = and , and "', 'x-many': 'a, b', 'user-agent': /grpc-node-js/ })
    t.same(got.binary, { 'x-bytes-bin': [[0, 255, 10]], 'x-two-bin': [[1], [2, 3]] })
    for (const own of ['grpc-timeout', 'te', 'content-type', ':path']) t.notOk(own in got.text, own)
  },
  'initial metadata and trailers that the handler sets arrive': async (t, target) => {
    const { initial, trailers, messages } = await unary(target, 'answer-metadata')
    t.same(messages, ['done'])
    t.same([initial.get('x-initial'), initial.get('x-initial-bin')], [['one'], [Buffer.from([0, 1, 255])]])
    t.equal(initial.get('x-many').join(), 'a, b')
    t.same([trailers.get('x-trailer'), trailers.get('x-trailer-bin')], [['two'], [Buffer.from([9, 8])]])
  },
  'a stream has initial metadata before its first message, and trailers after its last': async (t, target) => {
    t.same((await collect(serverStream(target, 'metadata 2'))).initial.get('x-initial'), ['stream'])
    const ended = await collect(serverStream(target, 'trailers 2'))
    t.match(ended, { code: status.OK, messages: ['0', '1'] })
    t.same(ended.trailers.get('x-trailer'), ['end'])
  },
  'a status has its code, its message in any script, its details and its trailers': async (t, target) => {
    const ended = await unary(target, 'status')
    t.match(ended, { code: status.NOT_FOUND, details: 'nothing ü % here', messages: [] })
    t.same(ended.trailers.get('grpc-status-details-bin'), [Buffer.from([8, 5, 18, 1, 97])])
    t.same(ended.trailers.get('x-why'), ['because'])
  },
  'an exception of a handler is INTERNAL': async (t, target) => {
    t.match(await unary(target, 'nonsense'), { code: status.INTERNAL, messages: [] })
  },
  'a handler knows whether its caller set a deadline': async (t, target) => {
    t.match(await unary(target, 'deadline', { deadline: Date.now() + 60_000 }), { messages: ['true'] })
    t.match(await unary(target, 'deadline'), { messages: ['false'] })
  },
  'a deadline that passes ends the call, and the handler hears of it': async (t, target) => {
    const before = await numberOf(target, 'aborted')
    t.match(await unary(target, 'hang', { deadline: Date.now() + 200 }), { code: status.DEADLINE_EXCEEDED })
    await until('the handler to hear of it', async () => (await numberOf(target, 'aborted')) === before + 1)
  },
  'a server ends a call whose deadline has passed by itself': async (t, target) => {
    t.match(await bare(target, PATHS.unary, { 'grpc-timeout': '100m' }, [frame(text('hang'))]), { status: status.DEADLINE_EXCEEDED })
    t.match(await bare(target, PATHS.unary, { 'grpc-timeout': '0n' }, [frame(text('hang'))]), { status: status.DEADLINE_EXCEEDED })
  },
  'a timeout that is none is refused': async (t, target) => {
    const { status: code } = await bare(target, PATHS.unary, { 'grpc-timeout': 'soon' }, [frame(text('hang'))])
    t.equal(code, status.INTERNAL)
  },
  'a client that cancels is told so, and the handler hears of it': async (t, target) => {
    const before = await numberOf(target, 'aborted')
    const call = serverStream(target, 'hang')
    call.once('data', () => call.cancel())
    t.match(await collect(call), { code: status.CANCELLED, messages: ['0'] })
    await until('the handler to hear of it', async () => (await numberOf(target, 'aborted')) === before + 1)
  },
  'a connection that drops ends its calls in the handler': async (_, target) => {
    const before = await numberOf(target, 'aborted')
    const session = connect(`http://127.0.0.1:${target.port}`)
    session.on('error', () => {})
    const stream = session.request({ ':method': 'POST', ':path': PATHS.server, 'content-type': 'application/grpc', te: 'trailers' })
    stream.on('error', () => {})
    stream.end(frame(text('hang')))
    await new Promise((resolve) => stream.once('data', resolve))
    session.destroy()
    await until('the handler to hear of it', async () => (await numberOf(target, 'aborted')) === before + 1)
  },
  'an error in the middle of a stream comes after the messages before it': async (t, target) => {
    t.match(await collect(serverStream(target, 'fail 3')), { code: status.ABORTED, details: 'in the middle', messages: ['0', '1', '2'] })
    t.match(await collect(serverStream(target, 'fail 0')), { code: status.ABORTED, messages: [] })
  },
  'a stream without messages ends with OK': async (t, target) => {
    t.match(await collect(serverStream(target, 'count 0')), { code: status.OK, messages: [] })
  },
  'a long stream arrives whole and in order': async (t, target) => {
    const { code, messages } = await collect(serverStream(target, 'count 5000'))
    t.equal(code, status.OK)
    t.same(
      messages,
      Array.from({ length: 5_000 }, (_, at) => String(at)),
    )
  },
  'a client stream is summed up once the client has half-closed; it may be empty': async (t, target) => {
    const { call, ended } = clientStream(target)
    for (let at = 0; at < 1_000; at++) call.write(Buffer.alloc(10))
    call.end()
    t.match(await ended, { code: status.OK, messages: ['1000 10000'] })
    const none = clientStream(target)
    none.call.end()
    t.match(await none.ended, { code: status.OK, messages: ['0 0'] })
  },
  'a client stream may be answered before the client is done': async (t, target) => {
    const { call, ended } = clientStream(target)
    call.write(text('one'))
    call.write(text('stop'))
    t.match(await ended, { code: status.FAILED_PRECONDITION, details: 'enough' })
  },
  'a bidirectional stream answers each message as it comes, and after the half-close': async (t, target) => {
    const call = bidi(target)
    const ended = collect(call)
    for (const word of ['a', 'b', 'c']) {
      const answer = new Promise((resolve) => call.once('data', resolve))
      call.write(text(word))
      t.equal(String(await answer), word)
    }
    call.end()
    t.match(await ended, { code: status.OK, messages: ['a', 'b', 'c', 'bye'] })
  },
  'many streams at once do not mix': async (t, target) => {
    const all = await Promise.all(Array.from({ length: 60 }, async (_, at) => await collect(serverStream(target, `count ${at}`))))
    t.same(
      all.map(({ messages }) => messages.length),
      Array.from({ length: 60 }, (_, at) => at),
    )
    t.ok(all.every(({ code }) => code === status.OK))
  },
  'a compressed request is read': async (t, target) => {
    const packed = gzipSync(text('echo packed'))
    const { status: code, body } = await bare(target, PATHS.unary, { 'grpc-encoding': 'gzip' }, [frame(packed, true)])
    t.equal(code, status.OK)
    t.equal(body.subarray(5).toString(), 'packed')
    const metadata = new grpc.Metadata()
    const options = { metadata, 'grpc.default_compression_algorithm': 2 }
    t.match(await unary(target, 'echo by a client of its own', options), { messages: ['by a client of its own'] })
  },
  'compressed and plain messages of one stream keep their order': async (t, target) => {
    const pieces = Array.from({ length: 40 }, (_, at) => (at % 3 === 0 ? frame(gzipSync(text(`m${at}`)), true) : frame(text(`m${at}`))))
    const { status: code, body } = await bare(target, PATHS.bidi, { 'grpc-encoding': 'gzip' }, [Buffer.concat(pieces)])
    t.equal(code, status.OK)
    const words: string[] = []
    for (let at = 0; at < body.length; at += 5 + body.readUInt32BE(at + 1)) words.push(body.subarray(at + 5, at + 5 + body.readUInt32BE(at + 1)).toString())
    t.same(words, [...Array.from({ length: 40 }, (_, at) => `m${at}`), 'bye'])
  },
  'an encoding that nobody knows is UNIMPLEMENTED, and the answer says which are known': async (t, target) => {
    const { status: code, response } = await bare(target, PATHS.unary, { 'grpc-encoding': 'snappy' }, [frame(text('x'), true)])
    t.equal(code, status.UNIMPLEMENTED)
    if (target.name === 'offbox') t.match(response['grpc-accept-encoding'], /gzip/)
  },
  'what cannot be decompressed, or becomes too large, is refused': async (t, target) => {
    t.match(await bare(target, PATHS.unary, { 'grpc-encoding': 'gzip' }, [frame(text('not gzip'), true)]), { status: status.INTERNAL })
    const bomb = gzipSync(Buffer.alloc(requestBytesMax * 4))
    t.match(await bare(target, PATHS.unary, { 'grpc-encoding': 'gzip' }, [frame(bomb, true)]), { status: status.RESOURCE_EXHAUSTED })
  },
  'a request up to the bound passes, and one beyond it is RESOURCE_EXHAUSTED': async (t, target) => {
    const request = Buffer.alloc(requestBytesMax, ' ')
    request.write('size')
    t.match(await unary(target, request), { code: status.OK, messages: [String(requestBytesMax)] })
    t.match(await unary(target, Buffer.alloc(requestBytesMax + 1)), { code: status.RESOURCE_EXHAUSTED })
    const announced = Buffer.alloc(5)
    announced.writeUInt32BE(0xffffffff, 1)
    t.match(await bare(target, PATHS.unary, {}, [announced]), { status: status.RESOURCE_EXHAUSTED }, 'refused by its length alone')
  },
  'an answer beyond the bound is RESOURCE_EXHAUSTED': async (t, target) => {
    t.match((await unary(target, `big ${WIRE_LIMITS.messageBytesMax}`)).code, status.OK)
    t.match(await unary(target, `big ${WIRE_LIMITS.messageBytesMax + 1}`), { code: status.RESOURCE_EXHAUSTED })
  },
  'a message in many pieces, and many messages in one piece, are read alike': async (t, target) => {
    const whole = frame(text('echo in pieces'))
    const bytes = Array.from(whole, (one) => Buffer.from([one]))
    t.match((await bare(target, PATHS.unary, {}, bytes)).body.subarray(5).toString(), 'in pieces')
    const { body } = await bare(target, PATHS.client, {}, [Buffer.concat([frame(text('a')), frame(text('bc')), frame(new Uint8Array(0))])])
    t.equal(body.subarray(5).toString(), '3 3')
  },
  'a method that takes one request refuses none and two': async (t, target) => {
    t.match(await bare(target, PATHS.unary, {}, []), { status: status.UNIMPLEMENTED })
    t.match(await bare(target, PATHS.server, {}, [frame(text('count 1')), frame(text('count 1'))]), { status: status.UNIMPLEMENTED })
  },
  'a method that nobody serves is UNIMPLEMENTED': async (t, target) => {
    t.match(await unary(target, '', {}, '/test.Behaviour/Nothing'), { code: status.UNIMPLEMENTED })
    t.match(await unary(target, '', {}, '/test.Other/Unary'), { code: status.UNIMPLEMENTED })
  },
  'what is not gRPC is refused with an HTTP status': async (t, target) => {
    t.equal((await bare(target, PATHS.unary, { 'content-type': 'text/plain' }, [])).response[':status'], 415)
  },
  'a client that does not read stops the handler, and is not lost': async (_, target) => {
    const call = serverStream(target, 'flood')
    call.on('error', () => {})
    call.once('data', () => call.pause())
    let before = -1
    await until('the handler to stand still', async () => {
      const now = await numberOf(target, 'produced')
      const still = now > 0 && now === before
      before = now
      if (!still) await new Promise((resolve) => setTimeout(resolve, 200))
      return still
    })
    let more = 0
    call.on('data', () => {
      more++
    })
    call.resume()
    await until('more messages', async () => more > before && (await numberOf(target, 'produced')) > before)
    call.cancel()
  },
  'a handler faster than its client is not cut off: what was sent arrives before the end': async (t, target) => {
    const call = serverStream(target, 'count 2000')
    await new Promise((resolve) => call.once('readable', resolve))
    t.equal((await collect(call)).messages.length, 2_000)
  },
}
