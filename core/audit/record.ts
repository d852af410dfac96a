/**
 * One record of the audit log: a line of printable ASCII, a JSON object that begins with its number and the hash of the line before it. The
 * hash is over the line's exact bytes, without the line feed: nobody ever has to write JSON twice in the same way.
 */
import { hash } from 'node:crypto'
import { OffboxError } from '../errors.ts'

/** Longest line. The longest that the agent writes (a denial with the longest path, a reason of 512 characters) has under 5 kB. */
export const recordBytesMax = 16 * 1024

/** allow: it was let through. deny: it was not. intent: it is about to be carried out. note: the log or the agent about itself. */
export const DECISIONS = ['allow', 'deny', 'intent', 'note'] as const
export type Decision = (typeof DECISIONS)[number]

/** What happened, as whoever saw it tells it. */
export interface AuditEvent {
  /** SPIFFE id; empty where there is none. */
  readonly principal: string
  /** "address:port" */
  readonly peer?: string
  /** "/package.Service/Method" of a call, "change/upgrade" of a change, "agent/start". */
  readonly method: string
  readonly decision: Decision
  /** SHA-256 of the request, hex: of its message, or of a stream's messages, each behind its length in four bytes, big-endian. */
  readonly payload?: string
  /** "OK", "CANCELLED" or a code of docs/errors.md; none for an intent. */
  readonly status?: string
  readonly durationMs?: number
  /** Of a call that changes the device. */
  readonly mutation?: boolean
  /** More of the same since the record before this one of the same kind, which are not recorded one by one. */
  readonly repeated?: number
  readonly [fact: string]: unknown
}

export interface AuditRecord extends AuditEvent {
  /** 1 is the first of a log; without a gap. */
  readonly sequence: number
  /** SHA-256 of the line before, hex; empty for the first. */
  readonly previous: string
  /** Wall time of the device, Unix milliseconds. */
  readonly atMs: number
  /** Milliseconds since the agent's process started. */
  readonly monotonicMs: number
  readonly bootId: string
}

/** What comes before the body of a record, which is JSON without its first brace. */
export function lineOf(sequence: number, previous: string, body: string): string {
  return `{"sequence":${sequence},"previous":"${previous}",${body}`
}

/** SHA-256 of a line without its line feed, hex. */
export function hashOf(line: Uint8Array): string {
  return hash('sha256', line, 'hex')
}

/** JSON of printable ASCII alone: everything else is escaped. */
export function asciiJson(value: object): string {
  return JSON.stringify(value).replace(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

const HASH = /^[0-9a-f]{64}$/

export function isHash(value: unknown): value is string {
  return typeof value === 'string' && HASH.test(value)
}

/** Parses a line. What it says is only as good as the chain and the signatures around it. @throws AUDIT_BROKEN no record of this format */
export function readRecord(line: Uint8Array): AuditRecord {
  if (line.length > recordBytesMax) throw broken(`of more than ${recordBytesMax} bytes`)
  const text = Buffer.from(line.buffer, line.byteOffset, line.length).toString('latin1')
  if (/[^\x20-\x7e]/.test(text)) throw broken('with other characters than printable ASCII')
  let raw: Record<string, unknown> | null
  try {
    raw = JSON.parse(text) as Record<string, unknown> | null
  } catch (error) {
    throw broken('that is not JSON', error)
  }
  const { sequence, previous, atMs, monotonicMs, bootId, principal, method, decision } = raw ?? {}
  if (!Number.isSafeInteger(sequence) || (sequence as number) < 1) throw broken('without a number')
  if (previous !== '' && !isHash(previous)) throw broken('whose previous hash is none')
  if ((sequence === 1) !== (previous === '')) throw broken('that is not the first and has nothing before it, or the other way round')
  if (!Number.isFinite(atMs) || !Number.isFinite(monotonicMs)) throw broken('without its times')
  if (![bootId, principal, method].every((one) => typeof one === 'string')) throw broken('without boot, principal or method')
  if (!DECISIONS.includes(decision as Decision)) throw broken('without a decision')
  return raw as unknown as AuditRecord
}

function broken(what: string, cause?: unknown): OffboxError {
  return new OffboxError('AUDIT_BROKEN', `a record ${what}`, { cause })
}
