/** What an answer is made from: what was asked for and what came back, before any of it is believed. */
import type { Anchors } from '../../core/anchors.ts'
import type { InfoResponse } from '../../proto/gen/device.ts'
import type { ServiceStatus } from '../../proto/gen/lifecycle.ts'
import type { GetRoutingConfigResponse } from '../../proto/gen/routing.ts'
import type { TrustStatus } from '../../proto/gen/trust.ts'
import type { Desirer } from '../device/record.ts'
import type { SignedReceipt } from '../device/receipts.ts'
import type { PublishedPolicy } from '../trust/policy.ts'
import type { Repository } from '../trust/repository.ts'
import type { Found } from './statement.ts'
import type { Trail } from './trail.ts'

/** A rollout as its controller told it, or as its record has it. */
export interface RolloutFacts {
  readonly rolloutId: string
  readonly service: string
  readonly version: string
  readonly state: string
  readonly startedAtMs: number
  readonly endedAtMs: number
  readonly bakeMs: number
  readonly author: string
  readonly devices: readonly RolloutDeviceFacts[]
}

export interface RolloutDeviceFacts {
  readonly deviceId: string
  readonly state: string
  readonly reason: string
  readonly attempt: number
  readonly changeId: string
  readonly canary: boolean
  readonly evidence?: {
    readonly atMs: number
    readonly liveMs: number
    readonly healthBefore: string
    readonly health: string
    readonly numbers: Readonly<Record<string, number>>
  } | null
}

/** What is wanted of a device, and by whom. */
export interface DeviceFacts {
  /** RoutingConfig, encoded; empty: none is wanted. */
  readonly routingConfig: Uint8Array
  readonly desiredBy: Readonly<Record<string, Desirer | null>>
  readonly routingDesiredBy: Desirer | null
}

/** Each is asked for when it is needed, once. */
export interface Evidence {
  readonly deviceId: string
  readonly anchors: Anchors
  /** Where the answers came from, in words: "the device, asked through the controller". */
  readonly source: string
  /** Every service of the device. */
  services(): Promise<Found<readonly ServiceStatus[]>>
  info(): Promise<Found<InfoResponse>>
  routing(): Promise<Found<GetRoutingConfigResponse>>
  receipts(): Promise<Found<readonly SignedReceipt[]>>
  trail(service: string): Promise<Found<Trail>>
  rollouts(): Promise<Found<readonly RolloutFacts[]>>
  /** What the controller has on record of the device. */
  device(): Promise<Found<DeviceFacts>>
  /** What the device believes of the repository. */
  believed(): Promise<Found<TrustStatus>>
  bundle(service: string, version: string): Promise<Found<Uint8Array>>
  /** image.json of the image that this home has built last. */
  image(): Promise<Found<Uint8Array>>
  /** Null: the fleet has none. */
  repository(): Promise<Found<{ readonly repository: Repository; readonly policy: PublishedPolicy | null } | null>>
}
