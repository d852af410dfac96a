/** What the store holds: metadata and the last statement of the witness, all of it signed. JSON, so that a person can look into it. */
import { OffboxError } from '../../../core/errors.ts'
import { type Documents, NO_DOCUMENTS, packDocuments, parseStored, sizeOf, unpackDocuments } from '../../../core/trust/documents.ts'
import type { SignedStatement } from '../../../core/trust/statement.ts'

/** Metadata kept. A chain of a hundred roots and the roles of fifty services fit; beyond it the roles unused for longest go. */
export const documentsBytesMax = 1024 * 1024
/**
 * Base64 adds a third; the statement and names are small beside it. Roots alone could outgrow it: they are never dropped, since without one
 * of them the newest is not believed.
 */
export const recordBytesMax = 2 * 1024 * 1024

export interface TrustRecord {
  readonly documents: Documents
  /** The last one that answered a question of this device. */
  readonly statement: SignedStatement | null
  /** The policy file that the targets name; absent or null: none. */
  readonly policy?: Uint8Array | null
}

export const EMPTY_RECORD: TrustRecord = { documents: NO_DOCUMENTS, statement: null, policy: null }

/** @throws STORE_FULL it would be longer than what `unpackRecord` takes */
export function packRecord({ documents, statement, policy = null }: TrustRecord): Uint8Array {
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
  const witness = statement && { statement: text(statement.statement), keyId: statement.keyId, signature: text(statement.signature) }
  const bytes = new TextEncoder().encode(JSON.stringify({ schema: 1, documents: packDocuments(documents), witness, policy: policy && text(policy) }))
  if (bytes.length > recordBytesMax) throw new OffboxError('STORE_FULL', `metadata to keep takes ${bytes.length} bytes, more than ${recordBytesMax}`)
  return bytes
}

/** Checks the shape only: nothing of it is verified yet. @throws STORE_CORRUPT */
export function unpackRecord(bytes: Uint8Array): TrustRecord {
  const { schema, documents, witness, policy = null } = parseStored(bytes, recordBytesMax)
  if (schema !== 1) throw new OffboxError('STORE_CORRUPT', 'the store is of another schema')
  if (policy !== null && typeof policy !== 'string') throw new OffboxError('STORE_CORRUPT', 'the stored policy is not in the shape it is stored in')
  return {
    documents: unpackDocuments(documents),
    statement: witness === null ? null : unpackStatement(witness),
    policy: policy === null ? null : new Uint8Array(Buffer.from(policy, 'base64')),
  }
}

/**
 * Without the delegated roles unused for longest, as far as needed. Safe: what the snapshot says of them protects from old versions.
 */
export function pruned(documents: Documents): Documents {
  const targets = new Map(documents.targets)
  for (const role of documents.targets.keys()) {
    if (sizeOf({ ...documents, targets }) <= documentsBytesMax) break
    if (role !== 'targets') targets.delete(role)
  }
  return { ...documents, targets }
}

function unpackStatement(raw: unknown): SignedStatement {
  const { statement, keyId, signature } = (raw ?? {}) as { [key: string]: unknown }
  if (typeof statement !== 'string' || typeof keyId !== 'string' || typeof signature !== 'string') {
    throw new OffboxError('STORE_CORRUPT', 'the stored statement is not in the shape it is stored in')
  }
  const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'base64'))
  return { statement: bytes(statement), keyId, signature: bytes(signature) }
}
