/** The controller: puts its parts together on one home directory and serves until it is closed. */
import { join } from 'node:path'
import type { Anchors } from '../../core/anchors.ts'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import { serviceDnsName } from '../../core/x509.ts'
import { Collector } from '../audit/collector.ts'
import { collectorIdentity, headSigner } from '../audit/identity.ts'
import type { Config } from '../config/schema.ts'
import { readConfig } from '../config/config.ts'
import { Inventory } from '../device/inventory.ts'
import type { Dialer } from '../device/session.ts'
import { Enrolment } from '../enrol/enrol.ts'
import { checkHome, cleanHome, Home, readAnchors, readCa, readIdentity, socketPathBytesMax } from '../home/home.ts'
import { lockHome } from '../home/lock.ts'
import { readFloorsFile } from '../registry/floors.ts'
import { Registry } from '../registry/registry.ts'
import { Rollouts } from '../rollout/run.ts'
import { RolloutStore } from '../rollout/state.ts'
import { type Caller, type Route, RpcServer } from '../rpc/server.ts'
import { fleetRoutes } from './api.ts'
import { Carrier } from './carrier.ts'
import type { Log } from './log.ts'
import { Reconciler } from './reconcile.ts'

export interface ControllerOptions {
  readonly home: string
  readonly clock: Clock
  readonly log: Log
  /** In place of HOME/offbox.yaml. */
  readonly configFile?: string
  /** In place of the configured address; tests and the lab. */
  readonly address?: string
  readonly apiPort?: number
  readonly enrolPort?: number
  /** ADDRESS:PORT in place of the configured one. */
  readonly witness?: string
}

export interface Controller {
  readonly fleet: string
  readonly address: string
  readonly apiPort: number
  readonly enrolPort: number
  /** Path of the unix socket; empty when the home's path is too long for one. */
  readonly socket: string
  readonly config: Config
  /** Ends connections, lets what is being written be written, releases the home. Safe to call twice. */
  close(): Promise<void>
}

/**
 * Starts a controller.
 * @throws HOME_INVALID, HOME_IN_USE, CONFIG_INVALID, PORT_TAKEN; nothing of it runs then
 */
export async function startController(options: ControllerOptions): Promise<Controller> {
  const { log } = options
  const home = new Home(options.home)
  await checkHome(home)
  const anchors = await readAnchors(home)
  const config = await readConfig(options.configFile ?? home.config)
  if (config.fleet !== anchors.fleet) {
    throw new OffboxError('CONFIG_INVALID', `${options.configFile ?? home.config}: fleet is ${config.fleet}, but this home belongs to ${anchors.fleet}`)
  }
  const undo: (() => Promise<void>)[] = [await lockHome(home.lock, 'controller')]
  let closing: Promise<void> | null = null
  // Whatever was started last ends first.
  const close = async () => {
    closing ??= (async () => {
      for (const step of undo.reverse()) await step()
    })()
    await closing
  }
  try {
    await cleanHome(home)
    return { fleet: anchors.fleet, config, ...(await assemble({ ...options, home, anchors, config, undo })), close }
  } catch (error) {
    await close().catch((failure) => log.error({ err: failure }, 'clean-up after a failed start failed'))
    throw error
  }
}

type Assembly = Omit<ControllerOptions, 'home'> & {
  readonly home: Home
  readonly anchors: Anchors
  readonly config: Config
  readonly undo: (() => Promise<void>)[]
}

async function assemble(input: Assembly): Promise<Pick<Controller, 'address' | 'apiPort' | 'enrolPort' | 'socket'>> {
  const { home, anchors, config, clock, log, undo } = input
  const ca = await readCa(home)
  const identity = await readIdentity(home, 'controller')
  const dialer: Dialer = { anchors, identity }
  const inventory = await Inventory.open(home.devices)
  const store = await RolloutStore.open(home.rollouts)
  for (const [deviceId, reason] of inventory.broken()) log.error({ deviceId, reason }, 'device record cannot be used')
  for (const [rollout, reason] of store.broken()) log.error({ rollout, reason }, 'rollout record cannot be used')

  const floors = async () => await readFloorsFile(home.floors)
  const { bakeSeconds, confirmSeconds } = config.rollout
  const defaults = { bakeMs: bakeSeconds * 1000, confirmTimeoutMs: confirmSeconds * 1000 }
  const witness = (input.witness ?? config.controller.witness) || null
  const serverName = serviceDnsName(anchors.fleet, 'witness')
  const carrier = new Carrier({ trust: home.trust, witness: witness === null ? null : { target: witness, serverName, caPem: anchors.caPem, identity }, log })
  const registry = new Registry(home.registry, async () => await carrier.bundleKeys(anchors.bundleKeys))
  const shared = { dialer, inventory, registry, clock, log, floors, carrier }
  const rollouts: Rollouts = new Rollouts({ ...shared, store, desiredChanged: (deviceId) => reconciler.poke(deviceId) })
  const reconciler: Reconciler = new Reconciler({ ...shared, bakeMs: defaults.bakeMs, inRollout: (deviceId) => rollouts.inRollout(deviceId) })
  const sign = headSigner(await collectorIdentity(home, ca, anchors.fleet, clock.nowMs()))
  const collector = new Collector({ ...shared, sign, directoryOf: (deviceId) => join(home.audit, deviceId) })
  const enrolment = new Enrolment({
    ...shared,
    anchors,
    ca,
    log: (level, message, fields) => log[level](fields, message),
    enrolled: ({ deviceId }) => {
      reconciler.poke(deviceId)
      collector.poke(deviceId)
    },
  })
  const api = fleetRoutes({ ...shared, ca, reconciler, rollouts, store, collector, defaults })

  const address = input.address ?? config.controller.address
  const apiServer = server({ ...identity, clientCaPem: anchors.caPem }, api, log, (caller) => admitOperator(anchors.fleet, caller))
  undo.push(async () => await apiServer.close())
  const enrolServer = server({ ...identity, clientCaPem: null }, enrolment.routes, log, () => {})
  undo.push(async () => await enrolServer.close())
  const apiPort = await apiServer.listen(address, input.apiPort ?? config.controller.apiPort)
  const enrolPort = await enrolServer.listen(address, input.enrolPort ?? config.controller.enrolPort)
  const socket = Buffer.byteLength(home.socket) < socketPathBytesMax ? home.socket : ''
  if (socket) await apiServer.listenUnix(socket)
  undo.push(async () => await carrier.close())
  undo.push(async () => await collector.close())
  undo.push(async () => await reconciler.close())
  undo.push(async () => await rollouts.close())
  // Rollouts first: the reconciler leaves alone what they hold.
  rollouts.resume()
  reconciler.start()
  collector.start()
  log.info({ fleet: anchors.fleet, address, apiPort, enrolPort, socket, devices: inventory.list().length }, 'controller serving')
  return { address, apiPort, enrolPort, socket }
}

function server(
  tls: { keyPem: string; certificatePem: string; clientCaPem: string | null },
  routes: readonly Route[],
  log: Log,
  admit: (caller: Caller) => void,
): RpcServer {
  return new RpcServer({
    ...tls,
    routes,
    admit,
    finished: (call) => log[call.outcome === 'OK' ? 'debug' : 'info']({ ...call, durationMs: Math.round(call.durationMs) }, 'call'),
    internal: (error, id, path) => log.error({ err: error, id, path }, 'internal error'),
    refused: (reason, peer) => log.warn({ reason, peer }, 'connection refused'),
  })
}

/** Operators and controllers of this fleet; a device must not command the fleet. */
export function admitOperator(fleet: string, { principal }: Pick<Caller, 'principal'>): void {
  const [, name, role, id, ...rest] = /^spiffe:\/\/([^/]+)\/([^/]+)\/([^/]+)(\/.*)?$/.exec(principal) ?? []
  const known = name === fleet && (role === 'operator' || role === 'controller') && id !== undefined && rest.every((part) => part === undefined)
  if (!known) throw new OffboxError('ROLE_DENIED', `${principal || 'a certificate without one SPIFFE id'} is no operator of ${fleet}`)
}
