/**
 * The contract between a service and the agent that runs it. A service's bundle is one script whose exports are a
 * `ServiceModule`; the host (run.ts) creates the service, and the agent decides when its methods are called.
 *
 * Service code finds ECMAScript, timers, text codecs, AbortController, URL, performance and console (endowments.ts); no `process`, `Buffer`,
 * `fetch` or module of Node. An exception that nobody catches ends the worker: a crash, to be restarted or reverted.
 *
 * At a swap the agent holds new calls, waits for unary calls under way, takes streams off (resumable ones go on in the successor, the
 * others end with SWAP_IN_PROGRESS), then asks for `quiesce` and `snapshot`.
 */
import type { Capabilities } from '../../core/capabilities.ts'
import type { Health } from '../../core/health.ts'
import type { Method, Plain } from '../../proto/codec.ts'
import type { Metadata } from './metadata.ts'

export { OffboxError } from '../../core/errors.ts'
export { StatusError, type GrpcStatus } from './status.ts'
export type { Metadata } from './metadata.ts'
export type * from '../../core/capabilities.ts'
export type { Health } from '../../core/health.ts'

/** `export const create` of a service's entry file. Called anew for every start, also within one worker. */
export interface ServiceModule<Config = unknown> {
  create(): Service<Config>
}

export interface Service<Config = unknown> {
  /** Pure. Turns untrusted JSON into a Config or throws CONFIG_INVALID; runs before anything is touched. */
  check(raw: unknown): Config
  /**
   * Resolves once serving. `ctx.signal` aborts on stop. On rejection `stop` still runs.
   * `inherited` is what a predecessor (or, on a revert, a successor) handed over, in a schema that the manifest reads; its checksum
   * was checked. Its bytes are not to be written to: they may be memory that both versions share (`ctx.sharedBytes`).
   */
  start(config: Config, ctx: ServiceContext, inherited?: Snapshot): Promise<void>
  /** Safe after a failed or half-done start, and safe twice. */
  stop(): Promise<void>
  /** Cheap, free of side effects: a status and the numbers it rests on. Gates judge the numbers. */
  health(): Health
  /** What it serves, in the manifest's order; the host checks the two against one another at start. */
  readonly methods: readonly Served[]
  /** Optional: prove that this version can do its work, after `start` and before any call reaches it. */
  selfTest?(): Promise<void>
  /** Optional: finish background work and refuse to begin more, within `ctx.quiesceTimeoutMs`. Calls are held by the agent. */
  quiesce?(): Promise<void>
  /**
   * Optional: state for the successor in the asked schema (one of the manifest's `snapshot.writes`). Called after quiesce, and it may be
   * asked for again until `stop`: in another schema when this version itself reads another one, and in the same when a successor is
   * lost together with what it was given. Above a megabyte or so use `ctx.sharedBytes`: what moves is checked while clients wait.
   */
  snapshot?(schema: number): Snapshot
}

/** State in transit between two versions. */
export interface Snapshot {
  /** Version of the hand-over format. */
  readonly schema: number
  /** Transferred, not copied: the giver must not use it afterwards. Memory from `ctx.sharedBytes` is shared: see there. */
  readonly bytes: Uint8Array
}

export interface ServiceContext {
  readonly service: string
  readonly version: string
  /** Aborts when the service is to stop. */
  readonly signal: AbortSignal
  /** Exactly the capabilities that the manifest names. */
  readonly capabilities: Capabilities
  /** The other services of this device, as far as the manifest's `requires.apis` names them. */
  readonly services: ServiceClient
  /** Time `quiesce` may take, milliseconds. */
  readonly quiesceTimeoutMs: number
  /**
   * Memory for large state, up to 64 MiB, that the next version gets without its being moved, copied or waited for: `snapshot` gives it
   * (whole or a part). From then on no version may write to it before it is asked for a snapshot itself; what changes meanwhile is
   * kept beside it. That is checked: a version that wrote to it, or found it damaged, is reverted with SNAPSHOT_CORRUPT. In the process tier it
   * is ordinary memory. @throws LIMIT_REACHED
   */
  sharedBytes(sizeBytes: number): Uint8Array
  /** Wall time, Unix milliseconds. */
  nowMs(): number
  /** Structured log: a constant message, facts in fields. Rate-limited by the agent. */
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, fields?: Record<string, unknown>): void
}

/**
 * Calls other services of this device, through the agent: a swap of the callee holds the call, a service that fails again and again is
 * not asked for a while. A call made while a handler serves one is part of that: it has no later deadline, ends with it, and names
 * its principal. Every call may throw an OffboxError of the callee, or:
 * CAPABILITY_DENIED the manifest does not require the API; CIRCUIT_OPEN it failed too often of late; SERVICE_DOWN nothing serves it now;
 * DEPENDENCY_UNSATISFIED what serves it is of another version; DEADLINE_PASSED; SWAP_IN_PROGRESS this version hands over, or the
 * callee's stream ended with its version; CALL_DEPTH_EXCEEDED services call one another in a circle; LIMIT_REACHED.
 */
export interface ServiceClient {
  unary<Req, Res>(method: Method<Req, Res>, request: Req, options?: CallOptions): Promise<Plain<Res>>
  /** Leaving the loop cancels the call. */
  serverStream<Req, Res>(method: Method<Req, Res>, request: Req, options?: CallOptions): AsyncGenerator<Plain<Res>>
  clientStream<Req, Res>(method: Method<Req, Res>, requests: AsyncIterable<Req> | Iterable<Req>, options?: CallOptions): Promise<Plain<Res>>
  bidi<Req, Res>(method: Method<Req, Res>, requests: AsyncIterable<Req> | Iterable<Req>, options?: CallOptions): AsyncGenerator<Plain<Res>>
}

export interface CallOptions {
  /** The call ends after this long, milliseconds; default 30,000 for unary and client-stream calls, none for the others. */
  readonly timeoutMs?: number
  /** Cancels the call. */
  readonly signal?: AbortSignal
  /** ASCII; keys in lower case, none that begins with "offbox-". */
  readonly metadata?: Readonly<Record<string, string>>
}

/** What a handler learns about the call it serves. */
export interface Call {
  /** SPIFFE id of the caller; of a service of this device, spiffe://FLEET/service/NAME. */
  readonly principal: string
  /** When a service calls: the principal whose call it serves with this one, if there is one. */
  readonly onBehalfOf?: string
  /** Aborts when the caller cancels, its deadline passes or the service must stop. */
  readonly signal: AbortSignal
  /** Wall time by which the caller wants the answer, Unix milliseconds; undefined without a deadline. */
  readonly deadlineMs?: number
  /** Request metadata with ASCII values, keys in lower case. What came several times is joined by ", ". */
  readonly metadata: Readonly<Record<string, string>>
  /** Request metadata with binary values: keys end in "-bin". */
  readonly binaryMetadata: Readonly<Record<string, readonly Uint8Array[]>>
  /** Sends initial metadata now; before the first message, once. @throws TypeError it may not be sent, or it is too late */
  sendMetadata(metadata: Metadata): void
  /** What goes out with the status when the call ends; replaces what was set before. @throws TypeError it may not be sent */
  setTrailers(metadata: Metadata): void
  /**
   * A resumable stream that the version before began: the cursor up to which the client has it. The handler goes on behind it.
   */
  readonly resumeAfter?: string
  /** Streams: where this one stands once the next message that is given has gone out, e.g. the number of that message; up to 256 characters. */
  mark(cursor: string): void
  /** Streams: where this one stands before any further message, e.g. the number after which it begins. */
  begin(cursor: string): void
}

/** One served method over raw bytes; made by the four functions below. What a handler answers is copied: it may keep its bytes. */
export type Served =
  | { readonly path: string; readonly kind: 'unary'; handle(request: Uint8Array, call: Call): Promise<Uint8Array> }
  | { readonly path: string; readonly kind: 'serverStream'; handle(request: Uint8Array, call: Call): AsyncIterable<Uint8Array> }
  | { readonly path: string; readonly kind: 'clientStream'; handle(requests: AsyncIterable<Uint8Array>, call: Call): Promise<Uint8Array> }
  | { readonly path: string; readonly kind: 'bidi'; handle(requests: AsyncIterable<Uint8Array>, call: Call): AsyncIterable<Uint8Array> }

/** Serves a unary method. A thrown OffboxError reaches the caller with its code; anything else is INTERNAL. */
export function unary<Req, Res>(method: Method<Req, Res>, handle: (request: Plain<Req>, call: Call) => Promise<Res>): Served {
  return {
    path: method.path,
    kind: 'unary',
    handle: async (bytes, call) => method.response.encode(await handle(method.request.decode(bytes), call)),
  }
}

/** Serves a server stream: the handler is an async generator; it is ended through `call.signal`. */
export function serverStream<Req, Res>(method: Method<Req, Res>, handle: (request: Plain<Req>, call: Call) => AsyncIterable<Res>): Served {
  return {
    path: method.path,
    kind: 'serverStream',
    handle: (bytes, call) => encodeAll(method, handle(method.request.decode(bytes), call)),
  }
}

/** Serves a bidirectional stream. */
export function bidi<Req, Res>(method: Method<Req, Res>, handle: (requests: AsyncIterable<Plain<Req>>, call: Call) => AsyncIterable<Res>): Served {
  return {
    path: method.path,
    kind: 'bidi',
    handle: (requests, call) => encodeAll(method, handle(decodeAll(method, requests), call)),
  }
}

/** Serves a client stream. */
export function clientStream<Req, Res>(method: Method<Req, Res>, handle: (requests: AsyncIterable<Plain<Req>>, call: Call) => Promise<Res>): Served {
  return {
    path: method.path,
    kind: 'clientStream',
    handle: async (requests, call) => method.response.encode((await handle(decodeAll(method, requests), call)) as Res),
  }
}

async function* encodeAll<Req, Res>(method: Method<Req, Res>, items: AsyncIterable<unknown>): AsyncIterable<Uint8Array> {
  for await (const item of items) yield method.response.encode(item as Res)
}

async function* decodeAll<Req, Res>(method: Method<Req, Res>, items: AsyncIterable<Uint8Array>): AsyncIterable<Plain<Req>> {
  for await (const bytes of items) yield method.request.decode(bytes)
}
