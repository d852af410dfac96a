/** Where signatures are verified. tweetnacl takes 16 ms for each: calls must not wait for that. */
import type { TrustedKeys } from '../../core/signing.ts'
import { DEVICE_RULES, remembering } from '../../core/trust/rules.ts'
import type { VerifiedBundle } from '../supervisor/types.ts'
import { examineMetadata, type MetadataFindings, type MetadataRequest } from './tuf/examine.ts'
import { verifyBundle } from './verify.ts'

/** Functions of their arguments and nothing else; they may run anywhere. */
export interface Examiner {
  /** @throws as examineMetadata */
  metadata(request: MetadataRequest): Promise<MetadataFindings>
  /** @throws as verifyBundle */
  bundle(file: Uint8Array, trusted: TrustedKeys): Promise<VerifiedBundle>
}

export function inThisThread(): Examiner {
  const rules = remembering(DEVICE_RULES)
  return {
    metadata: async (request) => await examineMetadata(request, rules),
    bundle: async (file, trusted) => verifyBundle(file, trusted),
  }
}
