/**
 * The peer of the call benches: what somebody would write with grpc-js alone. The same methods, messages and codec as the service
 * (meter/service.ts), over the same mutual TLS. PEM files come on stdin.
 */
import { readFileSync } from 'node:fs'
import * as grpc from '@grpc/grpc-js'
import { TelemetryMethods, type GetTelemetryRequest, type StreamTelemetryRequest, type TelemetrySampleInit } from '../proto/gen/telemetry.ts'
import type { Codec } from '../proto/codec.ts'
import { nextSample } from './meter/sample.ts'

const { caPem, keyPem, certificatePem } = JSON.parse(readFileSync(0, 'utf8'))
const pair = { private_key: Buffer.from(keyPem), cert_chain: Buffer.from(certificatePem) }
const server = new grpc.Server()

/** As grpc-js's code generators write it: a Buffer over the encoder's bytes, without another copy. */
function encoder<T>({ encode }: Codec<T>) {
  return (value: T) => {
    const bytes = encode(value)
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
}

const { Get, Stream } = TelemetryMethods
server.register(
  Get.path,
  ((call: grpc.ServerUnaryCall<GetTelemetryRequest, TelemetrySampleInit>, answer: grpc.sendUnaryData<TelemetrySampleInit>) =>
    answer(null, nextSample(call.request.callSequence))) as never,
  encoder(Get.response as Codec<TelemetrySampleInit>) as never,
  Get.request.decode as never,
  'unary',
)
server.register(
  Stream.path,
  ((call: grpc.ServerWritableStream<StreamTelemetryRequest, TelemetrySampleInit>) => {
    let left = call.request.samples
    const write = () => {
      while (left > 0) {
        left--
        if (!call.write(nextSample(0)) && left > 0) {
          call.once('drain', write)
          return
        }
      }
      call.end()
    }
    write()
  }) as never,
  encoder(Stream.response as Codec<TelemetrySampleInit>) as never,
  Stream.request.decode as never,
  'serverStream',
)
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createSsl(Buffer.from(caPem), [pair], true), (error, port) => {
  if (error) throw error
  process.stdout.write(`${port}\n`)
})
