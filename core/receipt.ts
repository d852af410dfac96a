/**
 * The receipt of one change of which version of a service runs: what was ordered, how it ended and by which steps, signed by the device.
 * The signature (ECDSA P-256, SHA-256, IEEE P1363: 64 bytes) is over RECEIPT_PREFIX and the exact bytes of the body, so that nobody has to
 * write JSON twice in the same way. Each body names the digest of the one before: a receipt cannot be taken out unseen.
 */
import { OffboxError } from './errors.ts'

export const RECEIPT_FORMAT = 'offbox.receipt.v1'
const RECEIPT_PREFIX = new TextEncoder().encode('offbox.receipt.v1\0')

/** confirmed: permanent. reverted: it was live, and what ran before runs again. rolled back: it never went live. */
export const OUTCOMES = ['confirmed', 'reverted', 'rolled back'] as const
export type Outcome = (typeof OUTCOMES)[number]

export interface ReceiptStep {
  readonly step: string
  /** Milliseconds since the change was proposed. */
  readonly atMs: number
  readonly detail?: string
}

export interface ReceiptBody {
  readonly format: typeof RECEIPT_FORMAT
  readonly deviceId: string
  /** 1 is the first of this device; without a gap. */
  readonly sequence: number
  /** SHA-256 of the body before, hex; empty for the first. */
  readonly previous: string
  readonly changeId: string
  readonly kind: 'install' | 'upgrade' | 'remove'
  readonly service: string
  /** Versions; empty where there was or is none. */
  readonly from: string
  readonly to: string
  /** SHA-256 of their manifests, hex; empty where unknown. */
  readonly manifests: { readonly from: string; readonly to: string }
  readonly outcome: Outcome
  readonly reason: string
  /** Code of docs/errors.md; empty without one. */
  readonly error: string
  /** SPIFFE id of who ordered it. */
  readonly author: string
  readonly heldMs: number
  readonly heldCalls: number
  readonly steps: readonly ReceiptStep[]
  /** Wall time, Unix milliseconds. */
  readonly proposedAtMs: number
  readonly endedAtMs: number
  /** Milliseconds that the agent had run for when it ended; from boot to boot not comparable. */
  readonly endedMonotonicMs: number
  readonly bootId: string
}

/** What the signature is over. */
export function receiptSignedBytes(body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(RECEIPT_PREFIX.length + body.length)
  bytes.set(RECEIPT_PREFIX)
  bytes.set(body, RECEIPT_PREFIX.length)
  return bytes
}

const TEXTS = ['deviceId', 'previous', 'changeId', 'kind', 'service', 'from', 'to', 'outcome', 'reason', 'error', 'author', 'bootId'] as const
const NUMBERS = ['sequence', 'heldMs', 'heldCalls', 'proposedAtMs', 'endedAtMs', 'endedMonotonicMs'] as const

/** Call with bytes whose signature was checked, or that this device wrote. @throws ARGUMENT_INVALID not a receipt of this format */
export function readReceipt(body: Uint8Array): ReceiptBody {
  let raw: Record<string, unknown> | null
  try {
    raw = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body)) as Record<string, unknown> | null
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', 'a receipt that is not JSON', { cause: error })
  }
  const wrong = (what: string) => new OffboxError('ARGUMENT_INVALID', `a receipt whose ${what} cannot be read`)
  if (typeof raw !== 'object' || raw === null || raw['format'] !== RECEIPT_FORMAT) throw wrong('format')
  for (const name of TEXTS) if (typeof raw[name] !== 'string') throw wrong(name)
  for (const name of NUMBERS) if (!Number.isFinite(raw[name])) throw wrong(name)
  if (!OUTCOMES.includes(raw['outcome'] as Outcome)) throw wrong('outcome')
  const { manifests, steps } = raw as { manifests?: { from?: unknown; to?: unknown } | null; steps?: unknown }
  if (typeof manifests?.from !== 'string' || typeof manifests.to !== 'string') throw wrong('manifests')
  if (!Array.isArray(steps) || !steps.every((one) => typeof one?.step === 'string' && Number.isFinite(one.atMs))) throw wrong('steps')
  return raw as unknown as ReceiptBody
}
