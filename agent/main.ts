/** The composition root: reads the configuration, builds the parts, wires them, and takes them down again. No decisions. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseAnchors } from '../core/anchors.ts'
import { systemClock as clock } from '../core/clock.ts'
import { codeOf, messageOf } from '../core/errors.ts'
import { CAPABILITIES } from '../core/manifest.ts'
import { serveAudit } from './api/audit.ts'
import { serveAcctz } from './api/audit-acctz.ts'
import { isOwnMethod } from './api/authorize.ts'
import { serveDevice } from './api/device.ts'
import { createFront, type Front } from './api/front.ts'
import { Gate } from './api/gate.ts'
import { serveHealth } from './api/health.ts'
import { serveLifecycle } from './api/lifecycle.ts'
import { serveReflection } from './api/reflection.ts'
import { attachRoutes } from './api/route.ts'
import { Serve } from './api/serve.ts'
import { toStatus } from './api/status.ts'
import { serveTrust } from './api/trust.ts'
import { AuditLog } from './audit/log.ts'
import type { Identity } from './boot/identity.ts'
import { IdentityStore } from './boot/identity.ts'
import { takeLock } from './boot/lock.ts'
import { Membership } from './boot/membership.ts'
import { readStartFacts, uptimeMsOf } from './boot/start-facts.ts'
import { Engine } from './change/engine.ts'
import { Journal } from './change/journal.ts'
import { Receipts } from './change/receipts.ts'
import { ServiceChanges } from './change/service-changes.ts'
import type { ChangeRecord } from './change/types.ts'
import { collector, collectWhenIdle } from './collect.ts'
import { type AgentConfig, readConfig } from './config.ts'
import { createDrivers } from './drivers/drivers.ts'
import { servicesWaitMs } from './limits.ts'
import { createLog, showAudit } from './log.ts'
import { auditFamilies } from './metrics/audit-families.ts'
import { agentFamilies, serviceFamilies } from './metrics/families.ts'
import { trustFamilies } from './metrics/trust-families.ts'
import { Metrics } from './metrics/open-metrics.ts'
import { processNumbers } from './metrics/process.ts'
import { AtomicFiles } from './store/atomic.ts'
import { nodeFileSystem } from './store/file-system.ts'
import { readRoom } from './store/room.ts'
import { createSupervisor } from './supervisor/supervisor.ts'
import { tierOf } from './supervisor/tiers.ts'
import { DeviceTrust } from './trust/device-trust.ts'
import { FloorStore } from './trust/floors.ts'
import { BundleStore } from './trust/store.ts'
import { ThreadExaminer } from './trust/thread-examiner.ts'

/** Starts everything; resolves, once it serves, with the way to stop. What is already up when a step fails is undone. */
async function start(config: AgentConfig, undo: (() => unknown)[]): Promise<void> {
  const { stateDir, runDir, boot } = config
  const agentLog = createLog(config.logLevel)
  const { log, ring, audits } = agentLog
  const files = new AtomicFiles()
  for (const directory of [stateDir, runDir]) await nodeFileSystem.makeDirectory(directory)
  undo.push(await takeLock(stateDir))
  for (const directory of [stateDir, runDir]) await files.sweep(directory)
  const anchors = parseAnchors(await readFile(config.anchorsFile, 'utf8'))
  const facts = { ...(await readStartFacts(files, runDir, boot)), fleet: anchors.fleet }
  const uptimeMs = () => uptimeMsOf(boot)
  log.info({ ...facts, serial: config.serial, mac: config.mac, boot, agentVersion: config.agentVersion }, 'agent starts')

  const floors = new FloorStore(files, stateDir, anchors.bundleKeys)
  await floors.load().catch((error) => log.error({ err: error }, 'the stored floors cannot be used; the controller has to send them again'))
  const examiner = new ThreadExaminer({ clock })
  undo.push(() => examiner.close())
  const trust = await DeviceTrust.open({ anchors, files, stateDir, clock, log, examiner, tierOf: (manifest) => tierOf(manifest, config.tierMin) })
  const bundles = new BundleStore(files, stateDir, (service) => trust.bundles.keysOf(service))
  const audit = await AuditLog.open(
    {
      ...{ directory: join(stateDir, 'audit'), clock, log, bootId: facts.bootId, atomic: files },
      show: (event, body) => showAudit(agentLog, event, body),
      sign: (bytesFor) => drivers.sign(bytesFor),
    },
    { agentVersion: config.agentVersion, agentStarts: facts.agentStarts },
  )
  undo.push(async () => await audit.close())
  const journal = new Journal(files, join(stateDir, 'changes'), (fields, message) => log.error(fields, message))
  const receipts: Receipts = new Receipts({
    ...{ files, clock, log, directory: join(stateDir, 'receipts'), bootId: facts.bootId },
    sign: (bytesFor) => drivers.sign(bytesFor),
  })
  const engine = new Engine({
    journal,
    clock,
    log,
    receipt: async (record) => await receipts.give(record),
    audit: async ({ id, kind, service, from, to, author, reason }) =>
      await audit.intent({ principal: author, method: `change/${kind}`, decision: 'intent', change: id, service, from, to, reason }),
  })
  undo.push(() => engine.close())
  engine.watch((change) => change.settled && audit.record(endOf(change)))

  // The front comes last and the drivers need it first: until it is there, there is nothing to rotate.
  let front: Front | undefined
  let serving: Identity | undefined
  const identities = new IdentityStore(files, stateDir)
  const rotate = (identity: Pick<Identity, 'keyPem' | 'chainPem'>) => {
    front?.rotate(identity)
    if (serving) serving = { ...serving, keyPem: identity.keyPem, chainPem: identity.chainPem }
  }
  const drivers = createDrivers({ config, files, identities, anchors, changes: engine, front: { rotate }, clock, log })
  undo.push(async () => await drivers.close())
  let routes: { update(): void } | undefined
  const supervisor = createSupervisor(
    {
      capability: async (service, capability, operation, input) => await drivers.call(service, capability, operation, input),
      log: (service, level, message, fields) => log[level]({ ...fields, origin: 'service', service }, message),
      methodsChanged: () => routes?.update(),
      mutation: async (about) => await audit.intent({ ...about, decision: 'intent' }),
      serviceCalls: ({ outcome, ...calls }) => audit.record({ ...calls, decision: outcome === 'CAPABILITY_DENIED' ? 'deny' : 'allow', status: outcome }),
    },
    { clock, fleet: anchors.fleet, tiers: { processTier: config.processTier, tierMin: config.tierMin, key: keyOf(stateDir) } },
  )
  undo.push(async () => await supervisor.close())
  const services = new ServiceChanges({
    engine,
    supervisor,
    bundles,
    floors,
    trust: trust.bundles,
    granted: new Set(CAPABILITIES),
    isOwnMethod,
    room: async () => await readRoom(stateDir),
    forgetState: async (service) => await drivers.forget(service),
    clock,
    log,
  })
  undo.push(() => services.close())
  trust.onChange = () => void services.reconsider()
  const collect = collector()
  if (collect) undo.push(collectWhenIdle({ clock, collect }))
  await drivers.start()
  await receipts.load()
  await engine.recover()

  // A service that is slow to start must not keep the device from being reached.
  const started = services.startActive()
  const enough = new Promise<void>((resolve) => undo.push(clock.after(servicesWaitMs, resolve)))
  const { address, port, serial, mac, agentVersion, imageSha256 } = config
  const enrolFacts = { serial, mac, address, port, bootId: facts.bootId, boot, agentVersion }
  const adopt = async (identity: Identity) => await drivers.adoptIdentity(identity)
  const membership = new Membership({ controller: config.controller, anchors, facts: enrolFacts, uptimeMs, clock, log, identities, floors, trust, adopt })
  undo.push(() => membership.close())
  const { identity, enrolled } = await membership.identity()
  serving = identity
  trust.hear(audit.acknowledged, { fleet: anchors.fleet, caPem: anchors.caPem, deviceId: identity.deviceId })
  await Promise.race([started, enough])

  // All of them are one kind to the audit log, which counts them: strangers must not be able to fill it.
  const refused = (fields: object, what: string) => audit.record({ ...fields, principal: '', method: 'connection', decision: 'deny', what })
  front = createFront({ address, port, fleet: anchors.fleet, caPem: anchors.caPem, identity, clock, log, refused })
  const gate = new Gate(front, audit, clock)
  const serve = new Serve({ server: front.server, gate, log })
  const metrics = new Metrics()
  const numbers = { services: () => supervisor.list(), agent: () => processNumbers(facts.agentStarts) }
  metrics.add(...agentFamilies(numbers), ...serviceFamilies(numbers), ...auditFamilies(() => audit.status), ...trustFamilies(() => trust.numbers()))
  serveLifecycle(serve, { engine, services, supervisor, floors, receipts, clock })
  serveTrust(serve, trust)
  serveAudit(serve, { audit, ...anchors, deviceId: () => (serving ?? identity).deviceId })
  serveAcctz(serve, { audit, address, port })
  serveHealth(serve, supervisor)
  serveReflection(serve, supervisor)
  serveDevice(serve, {
    facts: { ...facts, serial, mac, address, boot, agentVersion, imageSha256 },
    identity: () => serving ?? identity,
    floors,
    ring,
    audits,
    metrics,
    clock,
    uptimeMs,
    reboot: boot === 'pxe' ? () => process.kill(1, 'SIGTERM') : null,
    log,
  })
  routes = attachRoutes(front.server, supervisor, {
    admit: (call, path, mutates) => gate.admit(call, path, mutates),
    intent: async (admitted) => await gate.intent(admitted),
    finished: (admitted, status, payload) => gate.finished(admitted, status, payload),
    toStatus: (error) => toStatus(error, log),
  })
  serve.others()
  await front.listen()
  undo.push(async () => await front?.close())
  // What enrolment stored goes through the keystore, which serves it from now on.
  if (enrolled) await drivers.adoptIdentity(identity)
  log.info({ deviceId: identity.deviceId, address, port, sinceStartMs: Math.round(process.uptime() * 1000), uptimeMs: Math.round(uptimeMs()) }, 'serving')
  membership.keep(enrolled)
}

const EXIT_FAILED = 1

/** What became of a change, for the audit log: its intent is there already. */
function endOf({ id, kind, service, from, to, state, reason, error, author, receipt }: ChangeRecord) {
  const status = state === 'confirmed' ? 'OK' : error || 'CANCELLED'
  return {
    principal: author,
    method: `change/${kind}`,
    decision: 'allow',
    status,
    mutation: true,
    change: id,
    service,
    from,
    to,
    state,
    reason,
    receipt,
  } as const
}

/** One agent at a time has a state directory. */
function keyOf(stateDir: string): string {
  return createHash('sha256').update(stateDir).digest('hex').slice(0, 12)
}

/** In reverse order of start; one part that fails to end does not keep the others from it. */
async function stop(undo: (() => unknown)[]): Promise<void> {
  for (const end of undo.reverse()) {
    try {
      await end()
    } catch (error) {
      process.stderr.write(`offbox agent: stopping: ${codeOf(error)}: ${messageOf(error)}\n`)
    }
  }
}

// What Device.Info names as the owner of the port.
process.title = 'offbox-agent'
const undo: (() => unknown)[] = []
let stopping = false
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    if (stopping) return
    stopping = true
    void stop(undo).then(() => process.exit(0))
  })
}
try {
  await start(await readConfig(process.argv.slice(2)), undo)
} catch (error) {
  if (!stopping) {
    process.stderr.write(`offbox agent: ${codeOf(error)}: ${messageOf(error)}\n`)
    if (codeOf(error) === 'INTERNAL' && error instanceof Error) process.stderr.write(`${error.stack}\n`)
    await stop(undo)
    process.exit(EXIT_FAILED)
  }
}
