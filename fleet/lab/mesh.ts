/** The lab's addresses and its full mesh of BGP, computed from the number of devices. Pure. */
import type { RoutingConfigInit } from '../../proto/gen/routing.ts'
import { portOf, type Port } from './network.ts'

export const LAB = {
  devicesMin: 1,
  /** Eight TCG machines are more than two cores can boot in reasonable time. */
  devicesMax: 8,
} as const

export interface LabDevice {
  /** E.g. "sw1". */
  readonly id: string
  /** SMBIOS serial number. */
  readonly serial: string
  /** Where it is plugged in: address and MAC. */
  readonly port: Port
  readonly localAs: number
  /** The prefix it originates. */
  readonly prefix: string
}

/** Devices 1..count, in order. */
export function labDevices(count: number): LabDevice[] {
  return Array.from({ length: count }, (_, index) => {
    const number = index + 1
    return {
      id: `sw${number}`,
      serial: `OBX-LAB-${String(number).padStart(4, '0')}`,
      port: portOf(number),
      localAs: 65_000 + number,
      prefix: `10.78.${number}.0/24`,
    }
  })
}

/** What `device` must route so that every device speaks eBGP with every other one and originates one prefix. */
export function meshConfig(device: LabDevice, all: readonly LabDevice[]): RoutingConfigInit {
  return {
    routerId: device.port.address,
    localAs: device.localAs,
    neighbors: all.filter((other) => other.id !== device.id).map((other) => ({ name: other.id, address: other.port.address, peerAs: other.localAs })),
    staticRoutes: [{ prefix: device.prefix, blackhole: true }],
  }
}
