/**
 * A collected log as lines, as the collector keeps it and as it is exported: chapters, their records exactly as the device hashed them, the
 * device's checkpoints behind the records that they are about; an export has a line of its own before them, and the collector's head at its end.
 */
import { messageOf, OffboxError } from '../errors.ts'
import type { Chapter, Signed } from './statements.ts'
import { readChapter } from './statements.ts'

const EXPORT_FORMAT = 'offbox.audit.export.v1'

/** Longest line: a checkpoint or head with its certificate. */
export const entryBytesMax = 64 * 1024

export type Entry =
  | { readonly kind: 'export'; readonly fleet: string; readonly deviceId: string }
  | { readonly kind: 'chapter'; readonly chapter: Chapter }
  | { readonly kind: 'record'; readonly line: Uint8Array }
  | { readonly kind: 'checkpoint' | 'head'; readonly signed: Signed }

const RECORD = Buffer.from('{"sequence":')

export function exportLine(fleet: string, deviceId: string): string {
  return JSON.stringify({ export: EXPORT_FORMAT, fleet, deviceId })
}

/** A chapter as it begins; how far it goes shows. */
export function chapterLine({ chain, reason, after }: Pick<Chapter, 'chain' | 'reason' | 'after'>): string {
  return JSON.stringify({ chapter: { chain, reason, after: { sequence: after.sequence, hash: after.hash } } })
}

export function signedLine(kind: 'checkpoint' | 'head', { body, signature, chainPem }: Signed): string {
  return JSON.stringify({ [kind]: Buffer.from(body).toString('utf8'), signature: Buffer.from(signature).toString('base64'), chainPem })
}

/** @param line without its line feed. @throws AUDIT_BROKEN none of these */
export function readEntry(line: Uint8Array): Entry {
  if (line.length > entryBytesMax) throw new OffboxError('AUDIT_BROKEN', `a line of more than ${entryBytesMax} bytes`)
  if (Buffer.compare(line.subarray(0, RECORD.length), RECORD) === 0) return { kind: 'record', line }
  let raw: Record<string, unknown> | null
  try {
    raw = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(line)) as Record<string, unknown> | null
  } catch (error) {
    throw new OffboxError('AUDIT_BROKEN', `a line that is neither record nor statement: ${messageOf(error)}`)
  }
  const { export: format, fleet, deviceId, chapter, signature, chainPem } = raw ?? {}
  if (format === EXPORT_FORMAT && typeof fleet === 'string' && typeof deviceId === 'string') return { kind: 'export', fleet, deviceId }
  if (typeof chapter === 'object' && chapter !== null) {
    // It begins with nothing but what it follows.
    const { after } = chapter as { after?: { sequence?: unknown; hash?: unknown } }
    return { kind: 'chapter', chapter: readChapter({ ...chapter, sequence: after?.sequence, hash: after?.hash }) }
  }
  for (const kind of ['checkpoint', 'head'] as const) {
    const body = raw?.[kind]
    if (typeof body !== 'string' || typeof signature !== 'string' || typeof chainPem !== 'string') continue
    return { kind, signed: { body: Buffer.from(body, 'utf8'), signature: Buffer.from(signature, 'base64'), chainPem } }
  }
  throw new OffboxError('AUDIT_BROKEN', 'a line that is neither record nor statement')
}
