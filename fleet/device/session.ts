/** The controller's calls to one device. */
import type { Anchors } from '../../core/anchors.ts'
import { OffboxError } from '../../core/errors.ts'
import { deviceDnsName } from '../../core/x509.ts'
import { DeviceMethods, type InfoResponse, type MetricsResponse } from '../../proto/gen/device.ts'
import { type BundleUploadInit, type Change, type InstallOrderInit, LifecycleMethods, type ServiceStatus } from '../../proto/gen/lifecycle.ts'
import { type GetRoutingConfigResponse, type RoutingConfigInit, RoutingMethods, type SetRoutingConfigResponse } from '../../proto/gen/routing.ts'
import { TrustMethods, type TrustStatus, type TrustUpdateInit } from '../../proto/gen/trust.ts'
import type { Identity } from '../home/home.ts'
import { type CallOptions, RpcClient } from '../rpc/client.ts'
import type { DeviceRecord } from './record.ts'

export const SESSION_LIMITS = {
  /** A question to a device that is there is answered within milliseconds; TCG and a busy device need seconds. */
  lookTimeoutMs: 10_000,
  /** Upload, start (30 s), quiesce (10 s) and hand-over. */
  swapTimeoutMs: 120_000,
  /** BIRD checks and applies a large configuration. */
  applyTimeoutMs: 60_000,
  /** Bytes of a bundle a message; the device takes at most 256 KiB. */
  chunkBytes: 128 * 1024,
} as const

/** How to reach devices: who we are and whom we trust. */
export interface Dialer {
  readonly anchors: Anchors
  readonly identity: Identity
}

/** A connection of its own to one device. `close` it. Several calls may run at once. */
export class DeviceSession {
  readonly deviceId: string
  readonly client: RpcClient

  constructor(deviceId: string, client: RpcClient) {
    this.deviceId = deviceId
    this.client = client
  }

  close(): void {
    this.client.close()
  }

  async info(options?: CallOptions): Promise<InfoResponse> {
    return await this.client.unary(DeviceMethods.Info, {}, look(options))
  }

  async metrics(options?: CallOptions): Promise<MetricsResponse> {
    return await this.client.unary(DeviceMethods.Metrics, {}, look(options))
  }

  /** What it believes of the repository. */
  async trustStatus(options?: CallOptions): Promise<TrustStatus> {
    return await this.client.unary(TrustMethods.Status, {}, look(options))
  }

  async updateTrust(update: TrustUpdateInit, options?: CallOptions): Promise<TrustStatus> {
    return await this.client.unary(TrustMethods.Update, update, look(options))
  }

  async services(options?: CallOptions): Promise<ServiceStatus[]> {
    return (await this.client.unary(LifecycleMethods.List, {}, look(options))).services
  }

  /** Null when the device does not run it. */
  async service(service: string, options?: CallOptions): Promise<ServiceStatus | null> {
    try {
      return await this.client.unary(LifecycleMethods.Get, { service }, look(options))
    } catch (error) {
      if (error instanceof OffboxError && error.code === 'SERVICE_NOT_FOUND') return null
      throw error
    }
  }

  /** Sends order and bundle; resolves with the provisional change. */
  async supply(how: 'Install' | 'Upgrade', order: InstallOrderInit, bundle: Uint8Array, options: CallOptions = {}): Promise<Change> {
    const deadlineMs = SESSION_LIMITS.swapTimeoutMs
    return await this.client.clientStream(LifecycleMethods[how], upload(order, bundle), { deadlineMs, ...options })
  }

  async confirm(changeId: string, options?: CallOptions): Promise<Change> {
    return await this.client.unary(LifecycleMethods.Confirm, { changeId }, look(options))
  }

  async revert(changeId: string, reason: string, options: CallOptions = {}): Promise<Change> {
    const deadlineMs = SESSION_LIMITS.applyTimeoutMs
    return await this.client.unary(LifecycleMethods.Revert, { changeId, reason }, { deadlineMs, ...options })
  }

  async remove(service: string, reason: string): Promise<Change> {
    return await this.client.unary(LifecycleMethods.Remove, { service, reason }, { deadlineMs: SESSION_LIMITS.applyTimeoutMs })
  }

  async routing(options?: CallOptions): Promise<GetRoutingConfigResponse> {
    return await this.client.unary(RoutingMethods.GetConfig, {}, look(options))
  }

  async setRouting(config: RoutingConfigInit, input: { confirmTimeoutMs: number; comment: string }): Promise<SetRoutingConfigResponse> {
    const deadlineMs = SESSION_LIMITS.applyTimeoutMs
    return await this.client.unary(RoutingMethods.SetConfig, { config, ...input }, { deadlineMs })
  }
}

/**
 * Opens a connection of its own: nothing is shared with earlier sessions, so a Confirm over it is a fresh one.
 * @throws DEVICE_UNREACHABLE it never enrolled (whether it answers shows at the first call)
 */
export function openSession(dialer: Dialer, record: DeviceRecord): DeviceSession {
  if (!record.address) throw new OffboxError('DEVICE_UNREACHABLE', `${record.deviceId} has never enrolled, so its address is not known`)
  const { fleet, caPem } = dialer.anchors
  const to = { target: `${record.address}:${record.port}`, serverName: deviceDnsName(fleet, record.deviceId), caPem, identity: dialer.identity }
  return new DeviceSession(record.deviceId, new RpcClient(to))
}

/** Runs `use` on a connection of its own and closes it. */
export async function withSession<T>(dialer: Dialer, record: DeviceRecord, use: (session: DeviceSession) => Promise<T>): Promise<T> {
  const session = openSession(dialer, record)
  try {
    return await use(session)
  } finally {
    session.close()
  }
}

function look(options: CallOptions = {}): CallOptions {
  return { deadlineMs: SESSION_LIMITS.lookTimeoutMs, ...options }
}

function* upload(order: InstallOrderInit, bundle: Uint8Array): Generator<BundleUploadInit> {
  yield { order }
  for (let at = 0; at < bundle.length; at += SESSION_LIMITS.chunkBytes) yield { chunk: bundle.subarray(at, at + SESSION_LIMITS.chunkBytes) }
}
