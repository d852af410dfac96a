/** The lab's main job, in the order in which a user would do it by hand. Every step says what it does. */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { OffboxError } from '../../core/errors.ts'
import { readConfig } from '../config/config.ts'
import { Home } from '../home/home.ts'
import { initHome } from '../home/init.ts'
import { lockHome } from '../home/lock.ts'
import { accelerator } from './accelerator.ts'
import { buildBundles, buildImage, ROLLED, type LabBundles } from './build.ts'
import { ControllerClient, startController } from './controller.ts'
import { createDevices, type LabMachine } from './devices.ts'
import { serveDhcp } from './dhcp.ts'
import { complaints, figuresOf, type Expected, type LabFigures } from './figures.ts'
import { labDevices, meshConfig } from './mesh.ts'
import { createLabNetwork, LAB_ADDRESS } from './network.ts'
import type { Observation } from './observer.ts'
import type { LabOptions } from './options.ts'
import { startObserver, type RunningObserver } from './observing.ts'
import { chooseBoot } from './places.ts'
import type { Undo } from './undo.ts'
import { whatToTryNext } from './whats-next.ts'

export interface LabRun {
  readonly options: LabOptions
  readonly say: (text: string) => void
  readonly undo: Undo
  readonly signal: AbortSignal
  readonly elapsedSeconds: () => number
}

export interface LabVerdict {
  readonly figures: LabFigures
  readonly complaints: readonly string[]
}

/** TCG on two busy cores boots three machines in about two minutes; this is for the worst day. */
const BOOT_TIMEOUT_MS = 8 * 60_000
const MESH_TIMEOUT_MS = 3 * 60_000
const SETTLE_TIMEOUT_MS = 60_000
/** The rollout's bake: long enough to see a version fail, short enough to watch. */
const BAKE_MS = 5_000

/** Resolves once the verdict is there; with `once` false only when `signal` aborts after it. Clean-up is in `undo`. */
export async function runLab(run: LabRun): Promise<LabVerdict> {
  const { options, say, undo, signal } = run
  const home = new Home(options.home)
  const init = await initHome(home.path, { nowMs: Date.now() })
  undo.add('lab lock', await lockHome(join(home.path, 'lab.lock'), 'lab (npm start)'))
  const config = await readConfig(home.config)
  const devices = labDevices(options.devices ?? config.lab.devices)
  say(`fleet ${init.fleet} in ${home.path}${init.made.length > 0 ? ' (new: CA, certificates, signing key)' : ''}`)
  const place = await chooseBoot(options.local)
  if (place.why) say(place.why)
  const bundles = await buildBundles(home, say)
  if (place.boot === 'pxe') await buildImage(home, say, signal)
  signal.throwIfAborted()

  const log = place.log(home)
  const network = await createLabNetwork(place.prefix(home), { signal, log })
  undo.add('lab network', () => network.remove())
  say(`network namespace ${network.namespace} with a bridge, ${LAB_ADDRESS}/24`)
  const controller = await startController({ home, namespace: network.namespace, config, boot: place.boot === 'pxe', signal })
  undo.add('controller', () => controller.stop())
  say(
    `controller on ${LAB_ADDRESS}: API ${config.controller.apiPort}, enrolment ${config.controller.enrolPort}${place.boot === 'pxe' ? `, boot ${config.controller.bootPort}` : ''}`,
  )
  const client = await ControllerClient.connect(home, init.fleet)
  undo.add('controller client', () => client.close())
  await client.abandonRollouts()
  if (place.boot === 'pxe') {
    const bootUrl = `http://${LAB_ADDRESS}:${config.controller.bootPort}/boot.ipxe`
    const dhcp = await serveDhcp({ network, ports: devices.map((one) => one.port), bootUrl, workDir: join(home.path, 'lab'), signal, log })
    undo.add('DHCP', () => dhcp.close())
  }
  for (const device of devices) await client.register(device, bundles.desired, meshConfig(device, devices))
  say(`registered ${devices.map((one) => one.id).join(', ')}: ${bundles.desired.map((one) => `${one.service} ${one.version}`).join(', ')}, full mesh of BGP`)

  const machines = await createDevices({
    devices,
    boot: place.boot,
    accelerator: place.boot === 'pxe' ? await accelerator(home.image, { log, signal }) : null,
    home,
    network,
    config,
    birdCommand: place.birdCommand,
    ipCommand: place.ipCommand,
    signal,
    log,
    say,
  })
  undo.add('devices', async () => void (await Promise.allSettled(machines.map((one) => one.close()))))
  await Promise.all(machines.map((one) => one.powerOn()))
  await bootAll(run, client, machines)

  const observer = await startObserver({ home, namespace: network.namespace, devices })
  undo.add('client', async () => void (await observer.stop()))
  const expected: Expected = {
    devices: devices.length,
    services: bundles.desired.length,
    service: ROLLED,
    fromVersion: bundles.fromVersion,
    toVersion: bundles.toVersion,
  }
  await meshUp(run, observer, expected)
  await upgrade(run, client, bundles, observer)
  const observed = await settle(run, observer, place.boot, expected)
  await observer.stop()
  const figures = figuresOf(place.boot, observed, expected, run.elapsedSeconds())
  const found = complaints(observed, figures, expected)
  summary(say, observed, figures)
  if (options.once || found.length > 0) return { figures, complaints: found }
  whatToTryNext({ say, home, boot: place.boot, devices })
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
  return { figures, complaints: found }
}

/** Waits until every device is in sync with its desired state, saying every step on the way. */
async function bootAll({ say, signal }: LabRun, client: ControllerClient, machines: readonly LabMachine[]): Promise<void> {
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
async function meshUp({ say, signal }: LabRun, observer: RunningObserver, expected: Expected): Promise<void> {
  const ends = expected.devices * (expected.devices - 1)
  const up = (seen: Observation) =>
    Object.values(seen.devices).flatMap((device) => Object.values(device.look?.sessions ?? {}).filter((routes) => routes > 0)).length
  let shown = -1
  await observer.until(
    (seen) => {
      if (up(seen) !== shown) say(`BGP: ${(shown = up(seen))} of ${ends} session ends established and carrying routes`)
      return shown === ends && Object.values(seen.devices).every((device) => device.calls > 0)
    },
    MESH_TIMEOUT_MS,
    signal,
  )
}

async function upgrade({ say, signal }: LabRun, client: ControllerClient, bundles: LabBundles, observer: RunningObserver): Promise<void> {
  const before = Object.values(observer.last.devices).reduce((sum, device) => sum + device.calls, 0)
  say(`rolling ${ROLLED} ${bundles.fromVersion} → ${bundles.toVersion} out, canary first; the client has made ${before} calls and goes on`)
  const shown = new Map<string, string>()
  for await (const rollout of client.rollOut({ service: ROLLED, version: bundles.toVersion, bakeMs: BAKE_MS }, signal)) {
    for (const device of rollout.devices) {
      if (shown.get(device.deviceId) === device.state || device.state === 'pending') continue
      shown.set(device.deviceId, device.state)
      const held = device.state === 'baking' ? ` (calls held for ${device.heldMs.toFixed(1)} ms)` : ''
      say(`  ${device.deviceId}${device.canary ? ' (canary)' : ''} ${device.state}${held}${device.error ? `: ${device.error}: ${device.reason}` : ''}`)
    }
    if (rollout.state !== 'running') say(`rollout ${rollout.rolloutId} ${rollout.state}${rollout.reason ? `: ${rollout.reason}` : ''}`)
  }
}

/** Lets the client go on until nothing is left to complain of, or time is up. Answers its last words. */
async function settle({ signal }: LabRun, observer: RunningObserver, boot: string, expected: Expected): Promise<Observation> {
  await observer.until((seen) => complaints(seen, figuresOf(boot, seen, expected, 0), expected).length === 0, SETTLE_TIMEOUT_MS, signal)
  return await observer.stop()
}

function summary(say: (text: string) => void, observed: Observation, figures: LabFigures): void {
  for (const [id, device] of Object.entries(observed.devices)) {
    const versions = Object.entries(device.byVersion).map(([version, calls]) => `${calls} by ${version}`)
    say(
      `  ${id}: ${device.calls} calls (${versions.join(', ')}), ${device.failed} failed, ${device.duplicates} duplicates; ${Object.keys(device.look?.sessions ?? {}).length} sessions, ${device.look?.routesLearned ?? 0} routes learned`,
    )
  }
  say(
    `${figures.upgraded} of ${figures.devices} devices upgraded, ${figures.calls} calls, ${figures.failedCalls} failed, ${figures.duplicates} duplicates, in ${figures.seconds} s`,
  )
}
