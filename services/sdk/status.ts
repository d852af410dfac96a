/** A gRPC status of a service's own, for standard APIs that demand one. */
import type { Metadata } from './metadata.ts'

/** google.rpc.Code, as gRPC numbers it; without OK. */
export const GRPC_STATUS = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const

export type GrpcStatus = keyof typeof GRPC_STATUS

/**
 * Thrown by a handler: the caller gets exactly this status and message, and the trailer `offbox-error: SERVICE_STATUS`. Where no standard
 * asks for a status, an OffboxError says more.
 */
export class StatusError extends Error {
  readonly code = 'SERVICE_STATUS'
  readonly status: GrpcStatus
  /** An encoded google.rpc.Status, for `grpc-status-details-bin`; at most 4 KiB. */
  readonly details: Uint8Array | undefined
  readonly trailers: Metadata | undefined

  constructor(status: GrpcStatus, message: string, more: { readonly details?: Uint8Array; readonly trailers?: Metadata } = {}) {
    super(message)
    this.name = 'StatusError'
    this.status = status
    this.details = more.details
    this.trailers = more.trailers
  }
}
