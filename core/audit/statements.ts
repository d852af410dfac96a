/**
 * What is signed about a log. A checkpoint: the device says how far its log goes. A head: the collector says how far it holds a device's logs,
 * one chapter after another. Both ECDSA P-256 with SHA-256 (IEEE P1363, 64 bytes) over a prefix and the exact bytes of the body, by a key
 * for which the fleet CA issued a certificate, as receipts are (core/receipt.ts).
 */
import { hash } from 'node:crypto'
import { messageOf, OffboxError } from '../errors.ts'
import { requireSigned } from '../signed-by.ts'
import { type readLeaf, spiffeId } from '../x509.ts'
import type { Head } from './chain.ts'
import { isHash } from './record.ts'

const CHECKPOINT_FORMAT = 'offbox.audit.checkpoint.v1'
const HEAD_FORMAT = 'offbox.audit.head.v1'
/** The id under which the collector of a fleet signs: spiffe://FLEET/service/audit-collector */
export const COLLECTOR_ID = 'audit-collector'
export const statementBytesMax = 8 * 1024

export interface Signed {
  readonly body: Uint8Array
  /** 64 bytes. */
  readonly signature: Uint8Array
  /** Of the key that signed. */
  readonly chainPem: string
}

export interface Checkpoint extends Head {
  readonly deviceId: string
  /** The log's name: the hash of its first record. */
  readonly chain: string
  readonly bootId: string
  /** The device's clock, Unix milliseconds. */
  readonly atMs: number
}

/** first: nothing was collected before. new log: the device began anew. missed: it had dropped what lay between. forked: it shows another past. */
export const CHAPTER_REASONS = ['first', 'new log', 'missed', 'forked'] as const
export type ChapterReason = (typeof CHAPTER_REASONS)[number]

/** A stretch of one log without a gap, as the collector holds it. */
export interface Chapter extends Head {
  readonly chain: string
  readonly reason: ChapterReason
  /** What the chapter's first record follows. */
  readonly after: Head
}

export interface CollectedHead {
  readonly fleet: string
  readonly deviceId: string
  /** The newest one, which goes on; it ends with the record that this is about. */
  readonly chapter: Chapter
  /** How many chapters came before, and their digest (chaptersDigest). */
  readonly earlier: { readonly count: number; readonly digest: string }
  /** The collector's clock, Unix milliseconds. */
  readonly atMs: number
}

export function checkpointBody(content: Checkpoint): Uint8Array {
  const { deviceId, chain, sequence, hash: digest, bootId, atMs } = content
  return encode({ format: CHECKPOINT_FORMAT, deviceId, chain, sequence, hash: digest, bootId, atMs })
}

export function headBody({ fleet, deviceId, chapter, earlier, atMs }: CollectedHead): Uint8Array {
  return encode({ format: HEAD_FORMAT, fleet, deviceId, chapter: chapterFields(chapter), earlier, atMs })
}

/** What a signature is over: the body behind its format and a zero byte. */
export function statementSignedBytes(kind: 'checkpoint' | 'head', body: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.from(`${kind === 'head' ? HEAD_FORMAT : CHECKPOINT_FORMAT}\0`), body])
}

/** Of chapters in their order, hex. */
export function chaptersDigest(chapters: readonly Chapter[]): string {
  return hash('sha256', chapters.map((one) => `${JSON.stringify(chapterFields(one))}\n`).join(''), 'hex')
}

/** Verifies, then parses. @throws CERTIFICATE_INVALID it proves nothing, and why; AUDIT_BROKEN signed nonsense */
export function readCheckpoint(signed: Signed, trust: { fleet: string; caPem: string; deviceId: string }): Checkpoint {
  checkSigned('checkpoint', signed, trust.caPem, spiffeId(trust.fleet, 'device', trust.deviceId))
  const raw = decode(signed.body, CHECKPOINT_FORMAT)
  const { deviceId, chain, bootId, atMs } = raw as unknown as Checkpoint
  if (deviceId !== trust.deviceId) throw refuse('checkpoint', `it is about ${String(deviceId)}, not ${trust.deviceId}`)
  if (!isHash(chain) || typeof bootId !== 'string' || !Number.isFinite(atMs)) throw nonsense('checkpoint')
  // Whether the certificate was in force is not asked: by whose clock? A device without one has its log collected all the same, over a
  // connection whose certificate is; and what the collector signed for has its own time.
  return { ...headOf(raw, 'checkpoint'), deviceId, chain, bootId, atMs }
}

/** Verifies, then parses. @throws CERTIFICATE_INVALID, AUDIT_BROKEN */
export function readHead(signed: Signed, trust: { fleet: string; caPem: string; deviceId: string }): CollectedHead {
  const leaf = checkSigned('head', signed, trust.caPem, spiffeId(trust.fleet, 'service', COLLECTOR_ID))
  const raw = decode(signed.body, HEAD_FORMAT)
  const { fleet, deviceId, earlier, atMs } = raw as unknown as CollectedHead
  if (fleet !== trust.fleet || deviceId !== trust.deviceId) throw refuse('head', `it is about ${String(deviceId)} of ${String(fleet)}, not ${trust.deviceId}`)
  if (!Number.isSafeInteger(earlier?.count) || earlier.count < 0 || !isHash(earlier.digest) || !Number.isFinite(atMs)) throw nonsense('head')
  if (atMs < leaf.notBeforeMs || atMs > leaf.notAfterMs) throw refuse('head', 'the certificate was not in force when it was made')
  return { fleet, deviceId, chapter: readChapter(raw['chapter']), earlier: { count: earlier.count, digest: earlier.digest }, atMs }
}

/** @throws AUDIT_BROKEN */
export function readChapter(raw: unknown): Chapter {
  const { chain, reason, after } = (raw ?? {}) as Chapter
  if (!isHash(chain) || !CHAPTER_REASONS.includes(reason)) throw nonsense('chapter')
  const chapter = { ...headOf(raw, 'chapter'), chain, reason, after: headOf(after, 'chapter') }
  if (chapter.sequence < chapter.after.sequence) throw nonsense('chapter')
  return chapter
}

function chapterFields({ chain, reason, after, sequence, hash: digest }: Chapter): object {
  return { chain, reason, after: { sequence: after.sequence, hash: after.hash }, sequence, hash: digest }
}

function headOf(raw: unknown, what: string): Head {
  const { sequence, hash: digest } = (raw ?? {}) as Head
  const fits = sequence === 0 ? digest === '' : isHash(digest)
  if (!Number.isSafeInteger(sequence) || sequence < 0 || !fits) throw nonsense(what)
  return { sequence, hash: digest }
}

function checkSigned(kind: 'checkpoint' | 'head', { body, signature, chainPem }: Signed, caPem: string, signer: string): ReturnType<typeof readLeaf> {
  if (body.length > statementBytesMax) throw refuse(kind, `it has more than ${statementBytesMax} bytes`)
  const refused = (why: string) => refuse(kind, why)
  return requireSigned(statementSignedBytes(kind, body), { signature, chainPem }, caPem, (leaf) => leaf.spiffeId === signer, signer, refused)
}

function encode(value: object): Uint8Array {
  return new Uint8Array(Buffer.from(JSON.stringify(value)))
}

function decode(body: Uint8Array, format: string): Record<string, unknown> {
  try {
    const raw = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body)) as Record<string, unknown> | null
    if (raw?.['format'] === format) return raw
  } catch (error) {
    throw new OffboxError('AUDIT_BROKEN', `a signed statement that cannot be read: ${messageOf(error)}`)
  }
  throw new OffboxError('AUDIT_BROKEN', `a signed statement of another format than ${format}`)
}

function refuse(kind: string, why: string): OffboxError {
  return new OffboxError('CERTIFICATE_INVALID', `this ${kind} proves nothing: ${why}`)
}

function nonsense(what: string): OffboxError {
  return new OffboxError('AUDIT_BROKEN', `a signed ${what} that cannot be read`)
}
