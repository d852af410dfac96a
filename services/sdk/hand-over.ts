/**
 * State between two versions, as the hosts of both see it: the giver's seals it, the taker's checks it. Bytes that move carry their
 * CRC-32, which the taker's host checks before the service sees them. Memory that both share (`ServiceContext.sharedBytes`) is not
 * moved at all: each side takes its checksum in small pieces beside its work, and the agent compares the two once calls flow again.
 */
import { OffboxError } from '../../core/errors.ts'
import { crc32, loadChecksums } from './checksum.ts'
import { exactCopy, WIRE_LIMITS, type SealedSnapshot } from './wire.ts'

// Taken when the module is loaded: a service cannot replace them later, nor hide them behind properties of its own.
const Shared = SharedArrayBuffer
const later = setImmediate
const read = (name: string) => Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), name)?.get as () => unknown
const [bufferOf, offsetOf, lengthOf] = [read('buffer'), read('byteOffset'), read('byteLength')]

/** A piece takes a third of a millisecond at 3 GB/s: no call waits longer for it. */
const PIECE_BYTES = 1024 * 1024

/** Memory for state that two versions share. @throws LIMIT_REACHED */
export function sharedBytes(sizeBytes: number, shares: boolean): Uint8Array {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > WIRE_LIMITS.snapshotBytesMax)
    throw new OffboxError('LIMIT_REACHED', `state may have up to ${WIRE_LIMITS.snapshotBytesMax} bytes`)
  return shares ? new Uint8Array(new Shared(sizeBytes)) : new Uint8Array(sizeBytes)
}

/** What a service gave, made ready to cross. `owned`: bytes to transfer. @throws INTERNAL it gave none, or the same twice */
export function seal(given: unknown, schema: number): { value: SealedSnapshot; owned?: Uint8Array } {
  const bytes = (given as { bytes?: unknown } | null)?.bytes
  if (!(bytes instanceof Uint8Array)) throw new OffboxError('INTERNAL', 'snapshot() gave no bytes')
  const buffer = bufferOf.call(bytes) as ArrayBuffer | SharedArrayBuffer
  const view = new Uint8Array(buffer as ArrayBuffer, offsetOf.call(bytes) as number, lengthOf.call(bytes) as number)
  if (buffer instanceof Shared) return { value: { schema, bytes: view } }
  if (buffer.detached) throw new OffboxError('INTERNAL', 'snapshot() gave the same bytes twice')
  // A view is copied, since its whole buffer would go.
  const owned = view.byteLength === buffer.byteLength ? view : exactCopy(view)
  return { value: { schema, bytes: owned, checksum: crc32(owned) }, owned }
}

/** Before the service sees it. @throws SNAPSHOT_CORRUPT */
export function unseal({ schema, bytes, checksum }: SealedSnapshot): void {
  if (checksum === undefined || crc32(bytes) === checksum) return
  throw new OffboxError('SNAPSHOT_CORRUPT', `${bytes.byteLength} bytes of state in schema ${schema} do not match their checksum`)
}

const turn = async () => await new Promise<void>((resolve) => void later(resolve))

/**
 * CRC-32 of bytes that nobody may write to meanwhile, taken piece by piece so that calls come in between. The first piece is taken at once, before
 * anybody else has the bytes: it holds what a version that breaks the rule mostly writes first.
 */
export async function checksumInPieces(bytes: Uint8Array): Promise<number> {
  let sum = crc32(bytes.subarray(0, PIECE_BYTES))
  for (let at = PIECE_BYTES; at < bytes.byteLength; at += PIECE_BYTES) {
    await turn()
    sum = crc32(bytes.subarray(at, at + PIECE_BYTES), sum)
  }
  return sum
}

/** What moved has its checksum; what is shared gets it now. */
export async function checksumOf({ bytes, checksum }: SealedSnapshot): Promise<number> {
  return checksum ?? (await checksumInPieces(bytes))
}

/** Runs what a swap runs while calls are held, so that it is loaded and compiled by then. */
export function rehearse(): void {
  loadChecksums()
  for (const bytes of [new Uint8Array(64), new Uint8Array(new Shared(64))]) unseal(seal({ bytes }, 1).value)
}
