/** The one place where an error becomes a gRPC status. */
import { randomBytes } from 'node:crypto'
import { Metadata, type StatusObject, status } from '@grpc/grpc-js'
import { codeOf, ERROR_TRAILER, ERRORS, type ErrorCode, messageOf } from '../../core/errors.ts'
import { errorTextCharsMax } from '../limits.ts'

export interface ErrorLog {
  error(fields: object, message: string): void
}

/** What the caller sees: the code's status, the trailer `offbox-error`, and "CODE: text". */
export function statusOf(code: ErrorCode, text: string): StatusObject {
  const metadata = new Metadata()
  metadata.set(ERROR_TRAILER, code)
  const details = `${code}: ${text}`.slice(0, errorTextCharsMax)
  return { code: status[ERRORS[code].status], details, metadata }
}

/** Maps whatever a handler threw. What is not ours to tell goes to the log, and only an id goes out. */
export function toStatus(error: unknown, log: ErrorLog): StatusObject & { readonly errorCode: ErrorCode } {
  const code = codeOf(error)
  if (code !== 'INTERNAL') return { ...statusOf(code, messageOf(error)), errorCode: code }
  const id = randomBytes(6).toString('hex')
  log.error({ errorId: id, err: error }, 'internal error')
  return { ...statusOf(code, `report the id ${id}`), errorCode: code }
}
