/** Between the controller's records and the messages of fleet.proto. */
import { OffboxError } from '../../core/errors.ts'
import { isServiceName } from '../../core/manifest.ts'
import semver from 'semver'
import type { BundleInfoInit, DesiredState, FleetDeviceInit, RolloutInit } from '../../proto/gen/fleet.ts'
import { RoutingConfig } from '../../proto/gen/routing.ts'
import type { DeviceRecord } from '../device/record.ts'
import type { BundleFacts } from '../registry/registry.ts'
import type { Rollout } from '../rollout/state.ts'

/** Services a device can be wanted to run. */
export const desiredServicesMax = 64
/** A full table of static routes (routing.proto) stays below this. */
export const routingConfigBytesMax = 768 * 1024

export function deviceMessage(record: DeviceRecord): FleetDeviceInit {
  const { schema: _, desired, dismissed: __, failures: ___, desiredBy = {}, routingDesiredBy = null, ...facts } = record
  return {
    ...facts,
    desiredBy: Object.fromEntries(Object.entries(desiredBy).map(([service, who]) => [service, { ...who }])),
    routingDesiredBy: routingDesiredBy && { ...routingDesiredBy },
    desired: { services: desired.services.map((one) => ({ ...one })), routingConfig: new Uint8Array(Buffer.from(desired.routingConfig, 'base64')) },
  }
}

/** A device whose record cannot be read: listed, so that nobody believes it was never there. */
export function brokenMessage(deviceId: string, why: string): FleetDeviceInit {
  return { deviceId, phase: 'failed', reason: `STORE_CORRUPT: ${why}; register it again with offbox device add` }
}

export function rolloutMessage(rollout: Rollout): RolloutInit {
  const { schema: _, devices, ...facts } = rollout
  return { ...facts, devices: devices.map(({ healthBefore: _before, liveAtMs: _live, evidence, ...device }) => ({ ...device, evidence: evidence ?? null })) }
}

export function bundleMessage(facts: BundleFacts): BundleInfoInit {
  const { service, version, sha256, sizeBytes, keyIds } = facts
  return { service, version, sha256, sizeBytes, keyIds: [...keyIds] }
}

/**
 * Checks a desired state before it is kept; whether its bundles exist is for the caller.
 * @throws ARGUMENT_INVALID, CONFIG_INVALID the routing configuration cannot be read
 */
export function desiredOf(message: DesiredState | null): DeviceRecord['desired'] {
  if (!message) throw new OffboxError('ARGUMENT_INVALID', 'desired is missing')
  const { services, routingConfig } = message
  if (services.length > desiredServicesMax) throw new OffboxError('ARGUMENT_INVALID', `at most ${desiredServicesMax} services`)
  for (const { service, version } of services) {
    const quoted = JSON.stringify(service.slice(0, 64))
    if (!isServiceName(service)) throw new OffboxError('ARGUMENT_INVALID', `desired.services: ${quoted} is no service name`)
    if (semver.valid(version) !== version)
      throw new OffboxError('ARGUMENT_INVALID', `desired.services: ${JSON.stringify(version.slice(0, 64))} is no SemVer version`)
  }
  if (new Set(services.map(({ service }) => service)).size !== services.length)
    throw new OffboxError('ARGUMENT_INVALID', 'desired.services names a service twice')
  checkRouting(routingConfig)
  return { services: services.map(({ service, version }) => ({ service, version })), routingConfig: Buffer.from(routingConfig).toString('base64') }
}

/** What can be told without the device; `routing` there has the last word. */
function checkRouting(bytes: Uint8Array): void {
  if (bytes.length === 0) return
  const invalid = (why: string, cause?: unknown) => new OffboxError('CONFIG_INVALID', `routing configuration: ${why}`, { cause })
  if (bytes.length > routingConfigBytesMax) throw invalid(`${bytes.length} bytes, more than ${routingConfigBytesMax}`)
  let config: ReturnType<typeof RoutingConfig.decode>
  try {
    config = RoutingConfig.decode(bytes)
  } catch (error) {
    throw invalid('it is no RoutingConfig message', error)
  }
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(config.routerId)) throw invalid(`router_id must be an IPv4 address, got ${JSON.stringify(config.routerId.slice(0, 40))}`)
  if (config.localAs === 0) throw invalid('local_as must be 1 to 4294967295')
}
