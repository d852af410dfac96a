/** How a thrown error leaves over gRPC: status and text by the error table, the code in a trailer. */
import { randomBytes } from 'node:crypto'
import * as grpc from '@grpc/grpc-js'
import { codeOf, ERROR_TRAILER, ERRORS, type ErrorCode, messageOf } from '../../core/errors.ts'

/** What grpc-js sends for a failed call. */
export interface Failure {
  readonly code: grpc.status
  readonly details: string
  readonly metadata: grpc.Metadata
  /** Code of core/errors.ts, for the log. */
  readonly offboxCode: ErrorCode
}

/** Details longer than this are cut: trailers have to fit one HTTP/2 header block. */
const DETAILS_CHARS_MAX = 2_000

/** @param internal told of an error that is our own bug, with the id that goes out in its stead */
export function statusOf(error: unknown, internal: (id: string) => void): Failure {
  const code = codeOf(error)
  let text = messageOf(error)
  if (code === 'INTERNAL') {
    const id = randomBytes(6).toString('hex')
    internal(id)
    text = `error id ${id}`
  }
  const metadata = new grpc.Metadata()
  metadata.set(ERROR_TRAILER, code)
  return { code: grpc.status[ERRORS[code].status], details: `${code}: ${text}`.slice(0, DETAILS_CHARS_MAX), metadata, offboxCode: code }
}
