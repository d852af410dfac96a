/**
 * Brings a lab up: keys, bundles, image, network, controller, devices, routes, and a client that keeps calling. The main job, tests
 * and drills all begin here. Whatever comes to be is registered in `undo` before the next step that can fail.
 */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { codeOf, isErrorCode, OffboxError } from '../../core/errors.ts'
import { readConfig } from '../config/config.ts'
import type { Config } from '../config/schema.ts'
import { Home } from '../home/home.ts'
import { initHome } from '../home/init.ts'
import { lockHome } from '../home/lock.ts'
import { accelerator } from './accelerator.ts'
import { buildBundles, buildImage, type LabBundles, ROLLED } from './build.ts'
import { ControllerClient, startController } from './controller.ts'
import { createDevices, type LabMachine } from './devices.ts'
import { serveDhcp } from './dhcp.ts'
import type { Expected } from './figures.ts'
import { type LabDevice, labDevices, meshConfig } from './mesh.ts'
import { createLabNetwork, LAB_ADDRESS, type LabNetwork } from './network.ts'
import type { Observation } from './observer.ts'
import { type RunningObserver, startObserver } from './observing.ts'
import { chooseBoot, type Place } from './places.ts'
import type { Undo } from './undo.ts'
import { LAB_WITNESS, startWitness } from './witness.ts'

export interface LabContext {
  readonly say: (text: string) => void
  readonly undo: Undo
  readonly signal: AbortSignal
}

export interface LabWish {
  /** Absolute path. */
  readonly home: string
  /** Null: what offbox.yaml says. */
  readonly devices: number | null
  /** Agents as processes even where virtual machines are possible. */
  readonly local: boolean
  /** Only the first so many devices are virtual machines, the others processes on the same network; default: all. */
  readonly virtual?: number
  /** A build of the agent for the image, other than dist/agent: a drill's. */
  readonly agentDir?: string
}

export interface Lab {
  readonly home: Home
  readonly fleet: string
  readonly boot: Place['boot']
  readonly config: Config
  readonly bundles: LabBundles
  readonly network: LabNetwork
  readonly client: ControllerClient
  readonly devices: readonly LabDevice[]
  readonly machines: readonly LabMachine[]
  readonly observer: RunningObserver
  readonly expected: Expected
}

/** TCG on two busy cores boots three machines in about two minutes; this is for the worst day. */
const BOOT_TIMEOUT_MS = 8 * 60_000
const MESH_TIMEOUT_MS = 3 * 60_000

/** Resolves when every device is in sync and every session was seen carrying routes (or MESH_TIMEOUT_MS passed without). */
export async function bringUp(wish: LabWish, context: LabContext): Promise<Lab> {
  const { say, undo, signal } = context
  const home = new Home(wish.home)
  const init = await initHome(home.path, { nowMs: Date.now() })
  undo.add('lab lock', await lockHome(join(home.path, 'lab.lock'), 'lab (npm start)'))
  const config = await readConfig(home.config)
  const devices = labDevices(wish.devices ?? config.lab.devices)
  say(`fleet ${init.fleet} in ${home.path}${init.made.length > 0 ? ' (new: CA, certificates, signing key)' : ''}`)
  const place = await chooseBoot(wish.local)
  if (place.why) say(place.why)
  const virtual = place.boot === 'pxe' ? (wish.virtual ?? devices.length) : 0
  const bundles = await buildBundles(home, say)
  if (virtual > 0) await buildImage(home, say, signal, wish.agentDir)
  signal.throwIfAborted()

  const log = place.log(home)
  const network = await createLabNetwork(place.prefix(home), { signal, log })
  undo.add('lab network', () => network.remove())
  say(`network namespace ${network.namespace} with a bridge, ${LAB_ADDRESS}/24`)
  const { namespace } = network
  // What was started and is not awaited yet has to end as well when the other one fails.
  const witness = bundles.labTrust ? startWitness(home, namespace, say, signal) : null
  const witnessed = witness?.catch(() => null)
  undo.add('witness', async () => await (await witnessed)?.stop())
  const controller = await startController({ home, namespace, boot: virtual > 0, witness: witness ? LAB_WITNESS : '', signal, say })
  undo.add('controller', () => controller.stop())
  await witness
  const { apiPort, enrolPort, bootPort } = config.controller
  say(
    `controller on ${LAB_ADDRESS}: API ${apiPort}, enrolment ${enrolPort}${virtual > 0 ? `, boot ${bootPort}` : ''}${witness ? `; witness ${LAB_WITNESS}` : ''}`,
  )
  const client = await ControllerClient.connect(home, init.fleet)
  undo.add('controller client', () => client.close())
  await client.abandonRollouts()
  if (virtual > 0) {
    const bootUrl = `http://${LAB_ADDRESS}:${bootPort}/boot.ipxe`
    const dhcp = await serveDhcp({ network, ports: devices.map((one) => one.port), bootUrl, workDir: join(home.path, 'lab'), signal, log })
    undo.add('DHCP', () => dhcp.close())
  }
  for (const device of devices) await client.register(device, bundles.desired, meshConfig(device, devices))
  const services = bundles.desired.map((one) => `${one.service} ${one.version}`).join(', ')
  say(`registered ${devices.map((one) => one.id).join(', ')}: ${services}, full mesh of BGP`)

  const under = virtual > 0 ? await accelerator(home.image, { log, signal }) : null
  const { birdCommand, ipCommand } = place
  const machines = await createDevices({ devices, virtual, accelerator: under, home, network, config, birdCommand, ipCommand, signal, log, say })
  undo.add('devices', async () => void (await Promise.allSettled(machines.map((one) => one.close()))))
  // While the devices still answer: a rollout that is left running costs the next lab the time-out of each device.
  undo.add('rollout under way', async () => {
    await client.abandonRollouts().catch((error) => {
      // Without a controller nothing is rolled out.
      if (codeOf(error) !== 'CONTROLLER_UNREACHABLE') throw error
    })
  })
  await Promise.all(machines.map((one) => one.powerOn()))
  await inSync(client, machines, context)

  const observer = await startObserver({ home, namespace: network.namespace, devices })
  undo.add('client', async () => void (await observer.stop()))
  const { fromVersion, toVersion } = bundles
  const expected = { devices: devices.length, services: bundles.desired.length, service: ROLLED, fromVersion, toVersion }
  await meshUp(observer, expected, context)
  return { home, fleet: init.fleet, boot: virtual > 0 ? 'pxe' : 'local', config, bundles, network, client, devices, machines, observer, expected }
}

/** Waits until every device is in sync with its desired state, saying every step on the way. */
export async function inSync(client: ControllerClient, machines: readonly LabMachine[], { say, signal }: Omit<LabContext, 'undo'>): Promise<void> {
  const deadlineMs = performance.now() + BOOT_TIMEOUT_MS
  const seen = new Map<string, string>()
  for (;;) {
    signal.throwIfAborted()
    const devices = await client.devices()
    for (const machine of machines) {
      const device = devices.find((one) => one.deviceId === machine.device.id)
      // A record of an earlier run says in-sync until the device has enrolled again.
      const phase = device && machine.enrolledSincePowerOn(device.enrolledAtMs) ? `${device.phase}${device.reason ? `: ${device.reason}` : ''}` : 'booting'
      if (seen.get(machine.device.id) === phase) continue
      seen.set(machine.device.id, phase)
      // This phase means that waiting does not help.
      if (phase.startsWith('failed')) {
        const code = /^failed: ([A-Z_]+):/.exec(phase)?.[1]
        throw new OffboxError(isErrorCode(code) ? code : 'STATE_REFUSED', `${machine.device.id} ${phase}; its console is in ${machine.consoleFile}`)
      }
      say(`${machine.device.id} ${phase}${phase === 'in-sync' ? ` ${machine.secondsSincePowerOn().toFixed(1)} s after power-on` : ''}`)
    }
    if ([...seen.values()].every((phase) => phase.startsWith('in-sync'))) return
    if (performance.now() > deadlineMs) {
      const late = machines.filter((one) => !seen.get(one.device.id)?.startsWith('in-sync'))
      const consoles = late.map((one) => `--- ${one.device.id}: ${seen.get(one.device.id)}; its last words:\n${one.lastWords()}`)
      throw new OffboxError('DEVICE_UNREACHABLE', `${late.length} devices were not ready within ${BOOT_TIMEOUT_MS / 1000} s\n${consoles.join('\n')}`)
    }
    await delay(300)
  }
}

/** Waits until every session is established and has carried a route; complaints after the time-out are the verdict's business. */
export async function meshUp(observer: RunningObserver, expected: Expected, { say, signal }: Omit<LabContext, 'undo'>): Promise<void> {
  const ends = expected.devices * (expected.devices - 1)
  const up = (seen: Observation) =>
    Object.values(seen.devices).flatMap((device) => Object.values(device.look?.sessions ?? {}).filter((routes) => routes > 0)).length
  let shown = -1
  await observer.until(
    (seen) => {
      const now = up(seen)
      if (now !== shown) say(`BGP: ${now} of ${ends} session ends established and carrying routes`)
      shown = now
      return shown === ends && Object.values(seen.devices).every((device) => device.calls > 0)
    },
    MESH_TIMEOUT_MS,
    signal,
  )
}
