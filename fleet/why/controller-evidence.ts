/** Evidence about a running device, asked for through its controller. What the device signed is checked here; the controller cannot change it. */
import { bundleBytesMax } from '../../core/bundle-format.ts'
import type { Anchors } from '../../core/anchors.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { FleetMethods } from '../../proto/gen/fleet.ts'
import { collectReceipts } from '../device/receipts.ts'
import type { Home } from '../home/home.ts'
import type { RpcClient } from '../rpc/client.ts'
import type { Evidence } from './evidence.ts'
import { imageIn, once, repositoryIn, seek } from './home-evidence.ts'
import { linesOf } from './lines.ts'
import type { Found } from './statement.ts'
import { type Trail, TrailReader } from './trail.ts'

export interface ControllerEvidenceOptions {
  readonly home: Home
  readonly anchors: Anchors
  readonly client: RpcClient
  readonly deviceId: string
  /** Ends the reading of a long log. */
  readonly signal: AbortSignal
}

/** A log of some hundred megabytes is read within it. */
const logTimeoutMs = 300_000

/** @throws from `services` alone: DEVICE_NOT_FOUND, DEVICE_UNREACHABLE, CONTROLLER_UNREACHABLE. Whatever else cannot be had is missing, with the reason. */
export function controllerEvidence(options: ControllerEvidenceOptions): Evidence {
  const { home, anchors, client, deviceId } = options
  const ask = <T>(act: () => Promise<T>) => once(async () => await seek(act))
  return {
    deviceId,
    anchors,
    source: `${deviceId}, asked through the controller`,
    services: once(async () => ({ value: (await client.unary(FleetMethods.ListDeviceServices, { deviceId })).services })),
    info: ask(async () => {
      const { info } = await client.unary(FleetMethods.GetDevice, { deviceId })
      if (!info) throw new OffboxError('DEVICE_UNREACHABLE', `${deviceId} did not answer`)
      return info
    }),
    routing: ask(async () => await client.unary(FleetMethods.GetDeviceRouting, { deviceId })),
    receipts: ask(
      async () =>
        await collectReceipts(
          async (before) => (await client.unary(FleetMethods.ListDeviceReceipts, { deviceId, receipts: { service: '', changeId: '', before } })).receipts,
        ),
    ),
    trail: async (service) => await seek(async () => await readTrail(options, service)),
    rollouts: ask(async () => (await client.unary(FleetMethods.ListRollouts, {})).rollouts),
    device: ask(async () => {
      const { desired, desiredBy, routingDesiredBy } = await client.unary(FleetMethods.GetDevice, { deviceId })
      return { routingConfig: desired?.routingConfig ?? new Uint8Array(), desiredBy, routingDesiredBy }
    }),
    believed: ask(async () => await client.unary(FleetMethods.DeviceTrust, { deviceId })),
    bundle: async (service, version) => await seek(async () => await readBundle(client, service, version)),
    image: imageIn(home),
    repository: repositoryIn(home),
  }
}

async function readBundle(client: RpcClient, service: string, version: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let sizeBytes = 0
  for await (const { chunk } of client.serverStream(FleetMethods.GetBundle, { service, version }, { deadlineMs: 60_000 })) {
    sizeBytes += chunk.length
    if (sizeBytes > bundleBytesMax) throw new OffboxError('BUNDLE_MALFORMED', `the controller sent more than ${bundleBytesMax} bytes`)
    parts.push(chunk)
  }
  return new Uint8Array(Buffer.concat(parts))
}

/** What the collector holds and has signed for, then what the device has written since. */
async function readTrail({ client, anchors, deviceId, signal }: ControllerEvidenceOptions, service: string): Promise<Trail> {
  const reader = new TrailReader({ fleet: anchors.fleet, caPem: anchors.caPem, deviceId }, service)
  const held: Found<void> = await seek(async () => {
    const chunks = client.serverStream(FleetMethods.ExportDeviceAudit, { deviceId }, { signal, deadlineMs: logTimeoutMs })
    for await (const line of linesOf(contentsOf(chunks))) reader.take(line)
  })
  if ('missing' in held) reader.missed(held.missing)
  const from = reader.ended()
  try {
    const tail = { chain: from?.chain ?? '', from: (from?.after.sequence ?? -1) + 1, follow: false }
    for await (const { records, checkpoint } of client.serverStream(FleetMethods.TailDeviceAudit, { deviceId, tail }, { signal, deadlineMs: logTimeoutMs })) {
      if (!checkpoint) throw new OffboxError('AUDIT_BROKEN', 'a batch without a checkpoint')
      reader.follow(records, checkpoint)
    }
  } catch (error) {
    if (!(error instanceof OffboxError)) throw error
    // Another log, or none yet, is no contradiction: a device that lost its disk begins anew.
    if (['AUDIT_BROKEN', 'CERTIFICATE_INVALID'].includes(error.code)) reader.broken(messageOf(error))
    else reader.missed(messageOf(error))
  }
  return reader.trail()
}

async function* contentsOf(chunks: AsyncIterable<{ content: Uint8Array }>): AsyncGenerator<Uint8Array> {
  for await (const { content } of chunks) yield content
}
