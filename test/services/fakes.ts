/** Working stand-ins for the capabilities, kept in memory. Every operation can be made to fail through `fails`. */
import type { BirdCapability, BirdProtocol, Capabilities, KeystoreCapability } from '../../core/capabilities.ts'
import { OffboxError } from '../../core/errors.ts'

export interface Fakes {
  readonly capabilities: Required<Capabilities>
  /** E.g. "bird.protocols": throws DRIVER_FAILED while it is in here. */
  readonly fails: Set<string>
  /** Operations carried out, in order. */
  readonly calls: { operation: string; input: unknown }[]
  readonly state: Map<string, Uint8Array>
  protocols: BirdProtocol[]
  live: Awaited<ReturnType<BirdCapability['current']>>
  identity: Awaited<ReturnType<KeystoreCapability['status']>>
}

export const session = (name: string, info: string, routesImported = 0): BirdProtocol => ({
  ...{ name, type: 'BGP', state: info === 'Established' ? 'up' : 'start', since: '00:00:01', info },
  ...{ neighborAddress: '10.77.0.12', neighborAs: 65_002, routesImported, routesExported: 1 },
})

export function fakes(state = new Map<string, Uint8Array>()): Fakes {
  let drained = false
  let requests = 0
  const self: Fakes = {
    fails: new Set(),
    calls: [],
    state,
    protocols: [session('bgp_sw2', 'Established', 3)],
    live: { text: '', document: new Uint8Array(), revision: '', provisional: false, changeId: '' },
    identity: { serial: '01', spiffeId: 'spiffe://lab/device/sw1', notBeforeMs: 1, notAfterMs: 2, provisional: false, changeId: '', rotations: 0 },
    capabilities: {
      bird: {
        check: async () => ({ revision: 'checked' }),
        apply: async ({ text, document }) => {
          self.live = { text, document, revision: 'r1', provisional: true, changeId: 'c-1' }
          return { changeId: 'c-1', revision: 'r1' }
        },
        current: async () => self.live,
        protocols: async () => ({ version: '2.0.12', routerId: '10.77.0.11', protocols: self.protocols }),
        routes: async ({ max }) => [{ prefix: '192.0.2.2/32', via: '10.77.0.12', protocol: 'bgp_sw2', best: true }].slice(0, max),
        setDrained: async (input) => {
          drained = input.drained
        },
        drained: async () => drained,
      },
      link: {
        interfaces: async () => [
          {
            ...{ name: 'eth0', operStatus: 'up', mac: '52:54:00:00:00:01', mtu: 1500, inOctets: 1, outOctets: 2, inPackets: 3, outPackets: 4 },
            ...{ inErrors: 5, outErrors: 6, inDiscards: 7, outDiscards: 8 },
          },
        ],
      },
      proc: { read: async () => ({ cpuBusyMs: 10, cpuIdleMs: 20, memoryTotalBytes: 30, memoryAvailableBytes: 15, load1: 0.5 }) },
      keystore: {
        request: async () => ({ requestId: `q${++requests}`, csrPem: 'CSR' }),
        install: async ({ requestId }) => {
          self.identity = { ...self.identity, serial: '02', provisional: true, changeId: `c-${requestId}` }
          return { changeId: `c-${requestId}`, serial: '02', notAfterMs: 99 }
        },
        status: async () => self.identity,
      },
      state: {
        get: async ({ key }) => self.state.get(key)?.slice() ?? null,
        set: async ({ key, value }) => {
          self.state.set(key, value.slice())
        },
        delete: async ({ key }) => {
          self.state.delete(key)
        },
      },
    },
  }
  for (const [capability, operations] of Object.entries(self.capabilities)) {
    for (const [name, run] of Object.entries(operations as unknown as Record<string, (input: unknown) => Promise<unknown>>)) {
      const operation = `${capability}.${name}`
      Object.assign(operations, {
        [name]: async (input: unknown) => {
          self.calls.push({ operation, input })
          if (self.fails.has(operation)) throw new OffboxError('DRIVER_FAILED', `${operation} failed`)
          return await run(input)
        },
      })
    }
  }
  return self
}
