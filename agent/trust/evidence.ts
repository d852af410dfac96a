/** What comes with an order, an update or an enrolment, for the device to judge by. */
import type { MetadataPush } from '../../core/tuf/push.ts'
import type { RepositoryFile } from '../../proto/gen/witness.ts'

export interface Evidence {
  /** Unverified, as all of it is. */
  readonly metadata: MetadataPush
  /** Empty: the one at hand is meant. */
  readonly policy: Uint8Array
}

export const NO_EVIDENCE: Evidence = { metadata: { files: [] }, policy: new Uint8Array() }

/** Bytes are copied out of the message that they came in. */
export function evidenceOf({ metadata, policy }: { metadata: readonly RepositoryFile[]; policy: Uint8Array }): Evidence {
  const files = metadata.map(({ name, content }) => ({ name, bytes: new Uint8Array(content) }))
  return { metadata: { files }, policy: new Uint8Array(policy) }
}
