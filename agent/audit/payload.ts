/** The hash that a record names a request by. */
import { createHash, hash, type Hash } from 'node:crypto'

/** Of the one message of a request: SHA-256, hex. */
export function payloadOf(message: Uint8Array): string {
  return hash('sha256', message, 'hex')
}

/** Of a stream of messages: SHA-256, hex, over each of them behind its length in four bytes, big-endian. */
export class StreamPayload {
  #hash: Hash | undefined

  add(message: Uint8Array): void {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(message.length)
    this.#hash ??= createHash('sha256')
    this.#hash.update(length).update(message)
  }

  /** Of what came so far; empty before the first message. */
  get hex(): string {
    return this.#hash?.copy().digest('hex') ?? ''
  }
}
