/** A fleet for tests: a home of its own, a controller on free ports, fake devices, and an operator's client. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Anchors } from '../../core/anchors.ts'
import { joinBundle } from '../../core/bundle-format.ts'
import { systemClock } from '../../core/clock.ts'
import { type Controller, startController } from '../../fleet/controller/controller.ts'
import type { Log } from '../../fleet/controller/log.ts'
import { Home, readAnchors, readIdentity } from '../../fleet/home/home.ts'
import { initHome } from '../../fleet/home/init.ts'
import { readSigningKey, sha256Hex, type SigningKey } from '../../fleet/home/keys.ts'
import { signBundle } from '../../fleet/registry/make.ts'
import { RpcClient } from '../../fleet/rpc/client.ts'
import { type FleetDevice, FleetMethods, type Rollout } from '../../proto/gen/fleet.ts'
import { FakeDevice } from '../fakes/device.ts'

/** Long enough for a busy machine; a test that needs it has failed anyway. */
const DEADLINE_MS = 30_000

export interface TestFleet {
  readonly home: Home
  readonly anchors: Anchors
  readonly key: SigningKey
  /** Log lines of the controllers, as objects. */
  readonly lines: Record<string, unknown>[]
  readonly devices: FakeDevice[]
  controller: Controller
  client: RpcClient
  /** Stops the controller and starts another one on the same ports. */
  restart(): Promise<void>
  /** Registers, powers on and returns a device. */
  device(id: string): Promise<FakeDevice>
  push(service: string, version: string): Promise<void>
  desire(id: string, services: Record<string, string>, routingConfig?: Uint8Array): Promise<void>
  get(id: string): Promise<FleetDevice>
  /** Waits until a device is in a phase. */
  phase(id: string, phase: string): Promise<FleetDevice>
  rollout(order: { version: string; service?: string; deviceIds?: string[]; canary?: string; bakeMs?: number; confirmTimeoutMs?: number }): Promise<Rollout>
  ended(id: string): Promise<Rollout>
  close(): Promise<void>
}

export async function testFleet(): Promise<TestFleet> {
  const directory = await mkdtemp(join(tmpdir(), 'offbox-fleet-'))
  const home = new Home(join(directory, 'home'))
  await initHome(home.path, { fleet: 'lab', nowMs: Date.now() })
  const anchors = await readAnchors(home)
  const key = await readSigningKey(home)
  const lines: Record<string, unknown>[] = []
  const log = memoryLog(lines)
  const start = async (ports: { apiPort: number; enrolPort: number }) =>
    await startController({ home: home.path, clock: systemClock, log, address: '127.0.0.1', ...ports })
  const controller = await start({ apiPort: 0, enrolPort: 0 })
  const fleet: TestFleet = {
    home,
    anchors,
    key,
    lines,
    devices: [],
    controller,
    client: await operator(home, anchors, controller.apiPort),
    restart: async () => {
      const { apiPort, enrolPort } = fleet.controller
      fleet.client.close()
      await fleet.controller.close()
      fleet.controller = await start({ apiPort, enrolPort })
      fleet.client = await operator(home, anchors, apiPort)
    },
    device: async (id) => {
      const number = fleet.devices.length + 1
      const serial = `SN-${number}`
      const mac = `52:54:00:00:00:0${number}`
      await fleet.client.unary(FleetMethods.AddDevice, { deviceId: id, serial, mac })
      const device = new FakeDevice({ serial, mac, anchors, enrolPort: fleet.controller.enrolPort })
      fleet.devices.push(device)
      await device.powerOn()
      return device
    },
    push: async (service, version) => {
      await fleet.client.clientStream(FleetMethods.PutBundle, [{ chunk: testBundle(key, service, version) }])
    },
    desire: async (deviceId, services, routingConfig = new Uint8Array()) => {
      const list = Object.entries(services).map(([service, version]) => ({ service, version }))
      await fleet.client.unary(FleetMethods.SetDesired, { deviceId, desired: { services: list, routingConfig } })
    },
    get: async (deviceId) => await fleet.client.unary(FleetMethods.GetDevice, { deviceId }),
    phase: async (id, phase) =>
      await until(
        `${id} is ${phase}`,
        async () => fleet.get(id),
        (device) => device.phase === phase,
      ),
    rollout: async (order) => await fleet.client.unary(FleetMethods.StartRollout, { service: 'telemetry', bakeMs: 200, confirmTimeoutMs: 10_000, ...order }),
    ended: async (rolloutId) =>
      await until(
        `${rolloutId} has ended`,
        async () => await fleet.client.unary(FleetMethods.GetRollout, { rolloutId }),
        (rollout) => rollout.endedAtMs > 0,
      ),
    close: async () => {
      fleet.client.close()
      await fleet.controller.close()
      await Promise.all(fleet.devices.map(async (device) => await device.powerOff()))
      await rm(directory, { recursive: true, force: true })
    },
  }
  return fleet
}

/** Polls until `holds`; the error shows what was seen last. */
export async function until<T>(what: string, look: () => Promise<T>, holds: (value: T) => boolean): Promise<T> {
  const untilMs = performance.now() + DEADLINE_MS
  for (;;) {
    const value = await look()
    if (holds(value)) return value
    if (performance.now() > untilMs) throw new Error(`not seen: ${what}; last: ${JSON.stringify(value)?.slice(0, 600)}`)
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}

/** A signed bundle whose payload does nothing. */
export function testBundle(key: SigningKey, name: string, version: string, payloadText = `// ${name} ${version}`): Uint8Array {
  const payload = new TextEncoder().encode(payloadText)
  const digest = { sha256: sha256Hex(payload), sizeBytes: payload.length }
  const manifest = { schema: 1, name, version, methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32, payload: digest }
  return signBundle(joinBundle({ manifest: new TextEncoder().encode(JSON.stringify(manifest)), signatures: [], payload }), key)
}

export async function operator(home: Home, anchors: Anchors, apiPort: number): Promise<RpcClient> {
  const identity = await readIdentity(home, 'operator')
  return new RpcClient(
    { target: `127.0.0.1:${apiPort}`, serverName: `controller.${anchors.fleet}.offbox`, caPem: anchors.caPem, identity },
    'CONTROLLER_UNREACHABLE',
  )
}

export function memoryLog(lines: Record<string, unknown>[]): Log {
  const put = (level: string) => (fields: object, message: string) => void lines.push({ level, message, ...fields })
  return { debug: put('debug'), info: put('info'), warn: put('warn'), error: put('error') }
}
