/** What the supervisor offers the rest of the agent: it runs verified bundles, and swaps one for another. */
import type { Health } from '../../core/health.ts'
import type { Manifest, Tier } from '../../core/manifest.ts'
import type { ErrorCode } from '../../core/errors.ts'
import type { CircuitState } from './breaker.ts'
import type { ServiceUse } from './account.ts'
import type { Track } from '../change/types.ts'
import type { Fields, WireError } from '../../services/sdk/wire.ts'
import type { State } from './lifecycle.ts'

/** A bundle that has passed trust/verify.ts. Only that module makes one. */
export interface VerifiedBundle {
  readonly manifest: Manifest
  /** SHA-256 of the manifest's bytes, hex. */
  readonly manifestSha256: string
  /** Trusted keys that signed it, hex. */
  readonly keyIds: readonly string[]
  /** The service's code, its digest checked against the manifest. */
  readonly payload: Uint8Array
}

export interface Transition {
  readonly atMs: number
  readonly from: State
  readonly to: State
  readonly event: string
  readonly version: string
  readonly reason: string
}

export interface RunningService {
  readonly service: string
  readonly version: string
  /** Version kept warm during a provisional change; empty otherwise. */
  readonly previousVersion: string
  readonly state: State
  readonly health: Health | null
  readonly manifest: Manifest
  readonly manifestSha256: string
  readonly starts: number
  /** The newest 64, oldest first. */
  readonly history: readonly Transition[]
  /** Of the APIs that its manifest requires. */
  readonly circuits: readonly CircuitStatus[]
  /** Of `previousVersion`. */
  readonly previousManifest: Manifest | undefined
  /** Of the version that serves. */
  readonly use: ServiceUse
  readonly tier: Tier
  /** What confines the version that serves, and what should but cannot here; empty while it is down. */
  readonly confinement: readonly string[]
}

export interface SwapReport {
  /** From holding the first call to releasing the last one held, milliseconds; 0 for an install. */
  readonly heldMs: number
  readonly heldCalls: number
}

/** The breaker between a service and an API that it calls. */
export interface CircuitStatus {
  /** gRPC service name. */
  readonly api: string
  /** What serves it now; empty when nothing does. */
  readonly service: string
  readonly state: CircuitState
  /** In a row. */
  readonly failures: number
  /** Wall time at which an open circuit lets a call try, Unix milliseconds; 0 unless open. */
  readonly retryAtMs: number
}

/** Calls of one service to a method of another within a while, of one outcome. */
export interface ServiceCalls {
  /** SPIFFE id of the caller. */
  readonly principal: string
  readonly method: string
  readonly outcome: ErrorCode | 'OK' | 'CANCELLED'
  readonly calls: number
  readonly overMs: number
}

/** One client call as the router hands it over; the supervisor finds, holds and delivers it. */
export interface ClientCall {
  readonly method: string
  readonly kind: Manifest['methods'][number]['kind']
  readonly principal: string
  readonly deadlineMs: number | undefined
  readonly metadata: Readonly<Record<string, string>>
  /** When a service calls: the principal whose call it serves with this one; and the services it has come through, the caller last. */
  readonly onBehalfOf?: string
  readonly chain?: readonly string[]
  /** To the client. Returns false when the client's buffer is full: stop until `onDrain`. */
  send(message: Uint8Array): boolean
  /** Initial metadata of the answer. A caller that has no use for it leaves this out. */
  sendMetadata?(fields: Fields): void
  /** Ends the call: OK without an error. Once only. */
  end(error?: WireError, trailers?: Fields): void
}

/** The client's side of a call, driven by the router. */
export interface CallHandle {
  /** Next message from the client. Returns false when the service has no credit left: stop until `onCredit`. */
  message(bytes: Uint8Array): boolean
  /** The client sends no more. */
  halfClose(): void
  /** The client is gone or its deadline has passed. */
  cancel(): void
  /** The client's buffer has drained. */
  drained(): void
  /** Set by the router: called when `message` may be called again. */
  onCredit: () => void
}

/** `track`, where it is given, is told of every step (swap.ts, SWAP_STEPS). */
export interface Supervisor {
  /** Whether it can run here, in the tier that it asks for or that the device wants. Touches nothing. @throws TIER_UNAVAILABLE */
  checkTier(manifest: Manifest): void
  /** Runs a service that is not running: resolves once it is ready and has passed its self-test. @throws SWAP_ROLLED_BACK (nothing of it is left), SERVICE_EXISTS, METHOD_CONFLICT */
  install(bundle: VerifiedBundle, config: unknown, track?: Track): Promise<SwapReport>
  /** Starts `bundle` beside what runs, moves state and calls over; what ran before stays warm. @throws SWAP_ROLLED_BACK (what ran before serves), SNAPSHOT_CORRUPT (likewise; or it serves already with damaged memory and is to be reverted), SERVICE_NOT_FOUND, METHOD_CONFLICT */
  swap(bundle: VerifiedBundle, config: unknown, track?: Track): Promise<SwapReport>
  /** Ends the version kept warm. Safe when there is none. */
  commit(service: string, track?: Track): Promise<void>
  /** Back to the version kept warm; after an install: stops and forgets the service. Safe when there is nothing to revert. */
  revert(service: string, reason: string, track?: Track): Promise<void>
  /** Stops and forgets. Safe when there is none. */
  remove(service: string, track?: Track): Promise<void>
  /** Stops everything in reverse order of start. */
  close(): Promise<void>
  list(): RunningService[]
  get(service: string): RunningService | undefined
  /** Every transition, change of a circuit, and every change of health or removal (neither is set). Returns the way to stop listening. */
  watch(listener: (event: { service: string; transition?: Transition; circuit?: CircuitStatus; removed?: boolean }) => void): () => void
  /**
   * While a version is kept warm (or an install is uncommitted): called once when the new version is unhealthy, crashes or
   * stops answering its heartbeat. The change engine reverts.
   */
  onProvisionalFailure: (service: string, reason: string) => void
  /** Called when a version that is not provisional has crashed too often and stays down. */
  onSpent: (service: string, reason: string) => void
  /** Begins a client call. @throws METHOD_NOT_FOUND, SERVICE_DOWN, LIMIT_REACHED, STREAMS_EXCEEDED */
  call(client: ClientCall): CallHandle
  /** Encoded google.protobuf.FileDescriptorProtos of what is served at present; core/descriptors.ts. Not checked: a bundle may say anything. */
  descriptors(): readonly Uint8Array[]
  /** Methods served at present, for the router's registration. */
  methods(): readonly { path: string; kind: Manifest['methods'][number]['kind']; mutates: boolean; service: string }[]
}

/** What the supervisor needs of the agent. */
export interface SupervisorHost {
  /** Carries out one capability operation for a service. Called only for capabilities its manifest names. */
  capability(service: string, capability: string, operation: string, input: unknown): Promise<unknown>
  log(service: string, level: 'debug' | 'info' | 'warn' | 'error', message: string, fields: Record<string, unknown>): void
  /** Records durably that a service is about to change the device through another. A rejection refuses the call. */
  mutation?(about: { principal: string; onBehalfOf?: string; method: string }): Promise<void>
  /** For the audit log: calls between services, counted. */
  serviceCalls?(calls: ServiceCalls): void
  /** Called when the set of served methods may have changed. */
  methodsChanged(): void
}
