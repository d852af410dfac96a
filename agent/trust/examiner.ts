/** What verifying takes: signatures, 16 ms each in pure JavaScript. Functions of their arguments and nothing else, so that they may run anywhere. */
import type { ErrorCode } from '../../core/errors.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { DEVICE_RULES, remembering } from '../../core/trust/rules.ts'
import type { VerifiedBundle } from '../supervisor/types.ts'
import { examineMetadata, type MetadataFindings, type MetadataRequest } from './tuf/examine.ts'
import { verifyBundle } from './verify.ts'

export interface Examiner {
  /** @throws as examineMetadata */
  metadata(request: MetadataRequest): Promise<MetadataFindings>
  /** @throws as verifyBundle */
  bundle(file: Uint8Array, trusted: TrustedKeys): Promise<VerifiedBundle>
}

/** To the thread of thread-examiner.ts, and back. */
export type Question = { readonly id: number } & (
  | { readonly kind: 'metadata'; readonly request: MetadataRequest }
  | { readonly kind: 'bundle'; readonly file: Uint8Array; readonly trusted: TrustedKeys }
)
/** `verdicts`: on signatures of metadata, for the thread that follows (core/trust/rules.ts). */
export type Answer = { readonly id: number } & (
  | { readonly value: MetadataFindings | VerifiedBundle; readonly error?: undefined; readonly verdicts?: readonly string[] }
  | { readonly error: { readonly code: ErrorCode; readonly message: string } }
)

/** @param verdicts on signatures that were found good before; new ones are added to it */
export function inThisThread(verdicts: Set<string> = new Set()): Examiner {
  const rules = remembering(DEVICE_RULES, verdicts)
  return {
    metadata: async (request) => await examineMetadata(request, rules),
    bundle: async (file, trusted) => verifyBundle(file, trusted),
  }
}
