/**
 * What the agent and a service's worker say to each other over their MessagePort: raw payload bytes in batches. The only file of
 * the SDK that the agent imports. Each side checks what it receives; for the agent the other side is not trusted.
 */
import { isErrorCode, type ErrorCode } from '../../core/errors.ts'
import type { Health } from '../../core/health.ts'
import type { Manifest } from '../../core/manifest.ts'
import type { MethodKind } from '../../proto/codec.ts'
import { textOfThrown } from './guard.ts'
import { isCallField, isFields, type Fields } from './metadata.ts'
import type { Snapshot } from './service.ts'

export type { Snapshot } from './service.ts'
export { pack, unpack } from './packing.ts'
export type { Fields } from './metadata.ts'

export const WIRE_LIMITS = {
  /** Messages that one stream may have under way in one direction before the receiver grants more. */
  streamWindowMessages: 64,
  /** One reply or stream message. */
  messageBytesMax: 4 * 1024 * 1024,
  /** State handed over at a swap. */
  snapshotBytesMax: 64 * 1024 * 1024,
  /** What a service says about where one of its streams stands. */
  cursorCharsMax: 256,
  errorCharsMax: 2_000,
  /** A google.rpc.Status, in base64. */
  statusDetailsCharsMax: 6_000,
  logMessageCharsMax: 500,
  /** Fields of one log line, as JSON. */
  logFieldsCharsMax: 4_000,
  evidenceMax: 64,
  /** Metadata that a service sends with a call of its own. */
  metadataKeysMax: 32,
  metadataCharsMax: 1_000,
  /** At a swap, for calls that the service makes to finish; clients are being held. */
  channelsFinishMs: 1_000,
  /** Lines a second that a service may log when its manifest says nothing, and how many seconds' worth at once; both sides count. */
  logLinesPerSecondMax: 50,
  logBurstS: 4,
  /** Dropped lines are told together, this long after the first. */
  logsDroppedMs: 1_000,
} as const

/** State on its way. */
export interface SealedSnapshot extends Snapshot {
  /** CRC-32 (zlib's) of the bytes. Left out for shared memory: both sides are asked for it (`checksum`) when no call waits. */
  readonly checksum?: number
}

export interface WireError {
  readonly code: ErrorCode
  readonly message: string
  /** Of SERVICE_STATUS: the gRPC status, 1 to 16, and an encoded google.rpc.Status in base64. */
  readonly status?: number
  readonly details?: string
}

/** What the agent asks of the service itself. One answer (`done`) each. */
export type Control =
  /** Evaluate the payload, create the service, compare its methods with the manifest, check the configuration. */
  | { readonly action: 'load'; readonly config: unknown }
  /** Start, then the service's own test. */
  | { readonly action: 'start'; readonly inherited?: SealedSnapshot }
  | { readonly action: 'health' }
  | { readonly action: 'quiesce' }
  /** Answered with a SealedSnapshot, its bytes transferred or shared. With `quiesce` first, in one go. */
  | { readonly action: 'snapshot'; readonly schema: number; readonly quiesce?: boolean }
  /** Answered with the checksum of the state that was given or taken last. */
  | { readonly action: 'checksum' }
  /** Before calls are held: what a hand-over needs of the host is loaded and compiled. */
  | { readonly action: 'rehearse' }
  /** End the service object; the worker stays. */
  | { readonly action: 'stop' }

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
const METHOD_KINDS: readonly unknown[] = ['unary', 'clientStream', 'serverStream', 'bidi'] satisfies MethodKind[]
const LOG_LEVELS: readonly unknown[] = ['debug', 'info', 'warn', 'error'] satisfies LogLevel[]

/** Agent to worker. `call` and `id` are numbers that the sender of the first message with it chose, never used again. */
export type ToWorker =
  /** `bytes` is the request of a method that takes exactly one. */
  | {
      readonly type: 'open'
      readonly call: number
      readonly method: string
      readonly principal: string
      readonly deadlineMs: number | undefined
      readonly metadata: Readonly<Record<string, string>>
      /** When another service calls: the principal that it serves with this. */
      readonly onBehalfOf?: string
      readonly bytes?: Uint8Array
      /** The client has the stream's messages up to here from the version before. */
      readonly cursor?: string
    }
  | { readonly type: 'data'; readonly call: number; readonly bytes: Uint8Array }
  | { readonly type: 'halfClose'; readonly call: number }
  /** Answered with `cancelled` at once: nothing of this call follows. */
  | { readonly type: 'cancel'; readonly call: number }
  /** The worker may send `count` more messages on this stream. */
  | { readonly type: 'credit'; readonly call: number; readonly count: number }
  | ({ readonly type: 'control'; readonly id: number } & Control)
  /** It has worked and is idle: its garbage is to be collected. No answer. */
  | { readonly type: 'collect' }
  | { readonly type: 'capabilityResult'; readonly id: number; readonly value?: unknown; readonly error?: WireError }
  /** Of a call that the service itself makes: a message, the end (`bytes` where the method answers once), room for `count` more. */
  | { readonly type: 'channelData'; readonly channel: number; readonly bytes: Uint8Array }
  | { readonly type: 'channelEnd'; readonly channel: number; readonly bytes?: Uint8Array; readonly error?: WireError }
  | { readonly type: 'channelCredit'; readonly channel: number; readonly count: number }

/** Worker to agent. */
export type FromWorker =
  | { readonly type: 'data'; readonly call: number; readonly bytes: Uint8Array }
  /** The last of a call; `bytes` is the answer of a method that gives exactly one. */
  | { readonly type: 'end'; readonly call: number; readonly bytes?: Uint8Array; readonly error?: WireError; readonly trailers?: Fields }
  /** Initial metadata of an answer. */
  | { readonly type: 'metadata'; readonly call: number; readonly fields: Fields }
  /** `cursor`: where the stream stands, if the service said so. */
  | { readonly type: 'cancelled'; readonly call: number; readonly cursor?: string }
  | { readonly type: 'credit'; readonly call: number; readonly count: number }
  | { readonly type: 'done'; readonly id: number; readonly value?: unknown; readonly error?: WireError }
  | { readonly type: 'capability'; readonly id: number; readonly capability: string; readonly operation: string; readonly input: unknown }
  /** The service calls another. `channel` numbers are the worker's own; `bytes` where the method takes exactly one request. */
  | {
      readonly type: 'channelOpen'
      readonly channel: number
      readonly method: string
      readonly kind: MethodKind
      /** It ends after this long. */
      readonly timeoutMs?: number
      /** The call that is being served and for which this one is made: its deadline, its end and its principal count. */
      readonly under?: number
      readonly metadata: Readonly<Record<string, string>>
      readonly bytes?: Uint8Array
    }
  | { readonly type: 'channelData'; readonly channel: number; readonly bytes: Uint8Array }
  | { readonly type: 'channelHalfClose'; readonly channel: number }
  /** The service wants no more of it; nothing of this channel follows. */
  | { readonly type: 'channelCancel'; readonly channel: number }
  /** The agent may send `count` more messages. */
  | { readonly type: 'channelCredit'; readonly channel: number; readonly count: number }
  | { readonly type: 'log'; readonly level: LogLevel; readonly message: string; readonly fields: Record<string, unknown> }
  /** So many lines were over the limit since the last such message. */
  | { readonly type: 'logsDropped'; readonly count: number }

/** What the worker is started with; `port` is transferred. */
export interface WorkerStart {
  readonly port: unknown
  /** Text of the payload. */
  readonly code: string
  readonly manifest: Manifest
  readonly quiesceTimeoutMs: number
}

/**
 * Sends the messages of one turn of the event loop together, when the turn ends: to wake the other thread costs more than the rest of
 * a message's way, and a turn ends at once when there is nothing else to do. Order is kept.
 */
export class Outbox<Message> {
  readonly #post: (batch: Message[], transfer: ArrayBuffer[]) => void
  // Taken when the module is loaded: a service cannot replace it later.
  readonly #later = setImmediate
  readonly #flush = () => {
    if (this.#batch.length === 0) return
    const batch = this.#batch
    const transfer = this.#transfer
    this.#batch = []
    this.#transfer = []
    this.#post(batch, transfer)
  }
  #batch: Message[] = []
  #transfer: ArrayBuffer[] = []

  constructor(post: (batch: Message[], transfer: ArrayBuffer[]) => void) {
    this.#post = post
  }

  /**
   * What has `bytes` gives them away: the sender does not use them again. `owned`: further bytes in it that are to be transferred,
   * exact-size, such as a snapshot's. `now`: somebody waits for just this; it leaves at once, with all before it.
   */
  send(message: Message, owned?: Uint8Array, now = false): void {
    const first = this.#batch.push(message) === 1
    // A view does not own what it is part of.
    if (owned && owned.byteLength === owned.buffer.byteLength) this.#transfer.push(owned.buffer as ArrayBuffer)
    if (now) this.#flush()
    else if (first) this.#later(this.#flush)
  }
}

/** A token bucket: a burst, then so many lines per second. Pure but for its own count. */
export class LogLimit {
  readonly #perSecond: number
  readonly #later: (delayMs: number, callback: () => void) => void
  readonly #tell: (count: number) => void
  #tokens: number
  #lastMs = 0
  #dropped = 0

  /** @param options `tell`: how many lines were dropped, `logsDroppedMs` after the first; `later`: how to wait for that */
  constructor(options: { perSecond?: number | undefined; later: (delayMs: number, callback: () => void) => void; tell: (count: number) => void }) {
    this.#perSecond = options.perSecond ?? WIRE_LIMITS.logLinesPerSecondMax
    this.#later = options.later
    this.#tell = options.tell
    this.#tokens = this.#perSecond * WIRE_LIMITS.logBurstS
  }

  /** False: drop this line. `nowMs` is monotonic. */
  admit(nowMs: number): boolean {
    this.#tokens = Math.min(this.#perSecond * WIRE_LIMITS.logBurstS, this.#tokens + ((nowMs - this.#lastMs) / 1_000) * this.#perSecond)
    this.#lastMs = nowMs
    if (this.#tokens < 1) {
      this.dropped(1)
      return false
    }
    this.#tokens--
    return true
  }

  /** So many lines more are lost, here or before they came here. */
  dropped(count: number): void {
    if (this.#dropped === 0)
      this.#later(WIRE_LIMITS.logsDroppedMs, () => {
        const dropped = this.#dropped
        this.#dropped = 0
        this.#tell(dropped)
      })
    this.#dropped += count
  }
}

/** A copy with a buffer of its own: a view may show its whole pool to the other side, and a transferred one is lost to its owner. */
export function exactCopy(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

/** Fields of a log line as plain JSON of bounded length. Both sides see to it: a service may have got hold of the port. */
export function plainFields(fields: Record<string, unknown>): Record<string, unknown> {
  try {
    const text = JSON.stringify(fields) ?? '{}'
    return text.length <= WIRE_LIMITS.logFieldsCharsMax ? JSON.parse(text) : { truncated: text.slice(0, WIRE_LIMITS.logFieldsCharsMax) }
  } catch (error) {
    return { unprintable: textOfThrown(error).slice(0, 200) }
  }
}

/** Whatever was thrown, as it crosses. A bundle brings its own copy of OffboxError, so the class cannot be asked. */
export function toWireError(error: unknown): WireError {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown }
  const text = typeof message === 'string' ? message : textOfThrown(error)
  return { code: isErrorCode(code) ? code : 'INTERNAL', message: text.slice(0, WIRE_LIMITS.errorCharsMax) }
}

/**
 * Checks a batch from a worker. Unknown call numbers are the reader's business: a cancelled call may still have an answer under way.
 * @throws Error naming what is wrong; the worker is then ended
 */
export function readFromWorker(raw: unknown): FromWorker[] {
  if (!Array.isArray(raw)) throw new Error('not a batch')
  for (const message of raw as Record<string, unknown>[]) {
    need(typeof message === 'object' && message !== null && isFromWorker(message), 'message')
  }
  return raw as FromWorker[]
}

function isFromWorker(message: Record<string, unknown>): boolean {
  const { type, call, id, bytes, error } = message
  if (type === 'data') return isNumber(call) && isMessageBytes(bytes)
  if (type === 'end') {
    const { trailers } = message
    return isNumber(call) && (bytes === undefined || isMessageBytes(bytes)) && isMaybeError(error) && (trailers === undefined || isFields(trailers))
  }
  if (type === 'metadata') return isNumber(call) && isFields(message['fields'])
  if (type === 'cancelled') return isNumber(call) && (message['cursor'] === undefined || isText(message['cursor'], WIRE_LIMITS.cursorCharsMax))
  if (type === 'credit') return isNumber(call) && isNumber(message['count']) && message['count'] <= WIRE_LIMITS.streamWindowMessages
  if (type === 'done') return isNumber(id) && isMaybeError(error)
  if (type === 'capability') return isNumber(id) && isText(message['capability'], 64) && isText(message['operation'], 64)
  if (typeof type === 'string' && type.startsWith('channel')) return isNumber(message['channel']) && isChannelMessage(message)
  if (type === 'logsDropped') return isNumber(message['count'])
  const { level, message: text, fields } = message
  return type === 'log' && LOG_LEVELS.includes(level) && isText(text, WIRE_LIMITS.logMessageCharsMax) && typeof fields === 'object' && fields !== null
}

function isChannelMessage({ type, bytes, count, method, kind, timeoutMs, under, metadata }: Record<string, unknown>): boolean {
  if (type === 'channelData') return isMessageBytes(bytes)
  if (type === 'channelHalfClose' || type === 'channelCancel') return true
  if (type === 'channelCredit') return isNumber(count) && count <= WIRE_LIMITS.streamWindowMessages
  if (type !== 'channelOpen' || !isText(method, 256) || !METHOD_KINDS.includes(kind)) return false
  const bounds = (timeoutMs === undefined || isNumber(timeoutMs)) && (under === undefined || isNumber(under))
  return bounds && (bytes === undefined || isMessageBytes(bytes)) && isMetadata(metadata)
}

function isMetadata(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const entries = Object.entries(value)
  return entries.length <= WIRE_LIMITS.metadataKeysMax && entries.every(([key, text]) => isCallField(key, text, WIRE_LIMITS.metadataCharsMax))
}

/** @throws Error */
export function readHealth(raw: unknown): Health {
  const { status, reason, evidence } = (raw ?? {}) as { status?: unknown; reason?: unknown; evidence?: unknown }
  need(status === 'healthy' || status === 'degraded' || status === 'unhealthy', 'health status')
  need(reason === undefined || typeof reason === 'string', 'health reason')
  need(typeof evidence === 'object' && evidence !== null, 'health evidence')
  const entries = Object.entries(evidence as Record<string, unknown>)
  need(entries.length <= WIRE_LIMITS.evidenceMax && entries.every(([key, value]) => key.length <= 64 && typeof value === 'number'), 'health evidence')
  const numbers = Object.fromEntries(entries) as Record<string, number>
  return typeof reason === 'string'
    ? { status: status as Health['status'], reason: reason.slice(0, 500), evidence: numbers }
    : { status: status as Health['status'], evidence: numbers }
}

/** @throws Error */
export function readSnapshot(raw: unknown, schema: number): SealedSnapshot {
  const snapshot = (raw ?? {}) as { schema?: unknown; bytes?: unknown; checksum?: unknown }
  need(snapshot.schema === schema && snapshot.bytes instanceof Uint8Array, `snapshot in schema ${schema}`)
  const bytes = snapshot.bytes as Uint8Array
  need(bytes.byteLength <= WIRE_LIMITS.snapshotBytesMax, `snapshot of at most ${WIRE_LIMITS.snapshotBytesMax} bytes`)
  const { checksum } = snapshot
  if (bytes.buffer instanceof SharedArrayBuffer) return { schema, bytes }
  need(isNumber(checksum) && checksum <= 0xffffffff, 'snapshot checksum')
  return { schema, bytes, checksum: checksum as number }
}

/** @throws Error */
export function readChecksum(raw: unknown): number {
  need(isNumber(raw) && raw <= 0xffffffff, 'checksum')
  return raw as number
}

function need(holds: boolean, what: string): void {
  if (!holds) throw new Error(`malformed ${what}`)
}
const isNumber = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0
const isText = (value: unknown, charsMax: number) => typeof value === 'string' && value.length <= charsMax
const isMessageBytes = (value: unknown) => value instanceof Uint8Array && value.byteLength <= WIRE_LIMITS.messageBytesMax
const isMaybeError = (value: unknown) => {
  if (value === undefined) return true
  const { code, message, status, details } = (value ?? {}) as Record<string, unknown>
  const ownStatus = status === undefined || (isNumber(status) && status >= 1 && status <= 16)
  const ownDetails = details === undefined || (isText(details, WIRE_LIMITS.statusDetailsCharsMax) && /^[A-Za-z0-9+/=]*$/.test(details as string))
  return isErrorCode(code) && isText(message, WIRE_LIMITS.errorCharsMax) && ownStatus && ownDetails
}
