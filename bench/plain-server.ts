/** The peer of the calls bench: a plain grpc-js server with the same method, over the same mutual TLS. PEM files come on stdin. */
import { readFileSync } from 'node:fs'
import * as grpc from '@grpc/grpc-js'

const { caPem, keyPem, certificatePem } = JSON.parse(readFileSync(0, 'utf8'))
const pair = { private_key: Buffer.from(keyPem), cert_chain: Buffer.from(certificatePem) }
const server = new grpc.Server()
let count = 0
const same = (bytes: Buffer) => bytes
server.register(
  '/test.Counter/Next',
  ((_call: unknown, answer: grpc.sendUnaryData<Buffer>) => answer(null, Buffer.from(`plain ${++count}`))) as never,
  same,
  same,
  'unary',
)
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createSsl(Buffer.from(caPem), [pair], true), (error, port) => {
  if (error) throw error
  process.stdout.write(`${port}\n`)
})
