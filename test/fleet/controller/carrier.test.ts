/** The controller's carrier between a real repository, a real witness and the trust of a real device, over real connections. */
import { mkdtempSync, readlinkSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import type { Serve } from '../../../agent/api/serve.ts'
import { serveTrust } from '../../../agent/api/trust.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { DeviceTrust } from '../../../agent/trust/device-trust.ts'
import { evidenceOf } from '../../../agent/trust/evidence.ts'
import { systemClock } from '../../../core/clock.ts'
import { makeCa, makeIdentity, type Role } from '../../../core/x509.ts'
import { Carrier, type CarrierOptions } from '../../../fleet/controller/carrier.ts'
import { DeviceSession } from '../../../fleet/device/session.ts'
import { RpcClient } from '../../../fleet/rpc/client.ts'
import { type Route, RpcServer, unary } from '../../../fleet/rpc/server.ts'
import { refresh } from '../../../fleet/trust/trust.ts'
import type { RepositoryFile } from '../../../proto/gen/witness.ts'
import { WitnessMethods } from '../../../proto/gen/witness.ts'
import { makeTrustLab, type TrustLab } from '../../agent/trust-lab.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { makeBundle, makeKey, trust as trusted } from '../../fixtures/bundles.ts'
import { memoryLog } from '../harness.ts'

const DAY_MS = 86_400_000
t.setTimeout(240_000)

const directory = mkdtempSync(join(tmpdir(), 'offbox-carrier-'))
t.teardown(() => rmSync(directory, { recursive: true, force: true }))
const ca = await makeCa('lab', { nowMs: Date.now(), validMs: DAY_MS })
const identity = async (role: Role, id: string) => await makeIdentity(ca, { fleet: 'lab', role, id, nowMs: Date.now(), validMs: DAY_MS })
const own = await identity('controller', 'main')
const key = makeKey()
let number = 0

interface Scene {
  readonly fleet: TrustLab
  readonly carrier: Carrier
  readonly lines: Record<string, unknown>[]
  /** Answers of the witness so far. */
  asked: number
  /** A device at power-on; `calls` are those of its Trust service. */
  device(): Promise<{ trust: DeviceTrust; session: DeviceSession; calls: string[] }>
}

async function scene(t: Test, more: Partial<CarrierOptions> = {}): Promise<Scene> {
  const place = join(directory, String(++number))
  const fleet = await makeTrustLab(place, key, 'lab')
  t.teardown(() => fleet.remove())
  const attest = unary(WitnessMethods.Attest, async ({ nonce, files }) => {
    if (fleet.silent) throw new Error('silent')
    made.asked += 1
    return await fleet.witness.attest(nonce, { files: files.map(({ name, content }: RepositoryFile) => ({ name, bytes: content })) })
  })
  const port = await serve(t, await identity('service', 'witness'), [attest])
  const lines: Record<string, unknown>[] = []
  const witness = { target: `127.0.0.1:${port}`, serverName: 'witness.service.lab.offbox', caPem: ca.certificatePem, identity: own }
  const carrier = new Carrier({ trust: fleet.repository.path, witness, log: memoryLog(lines), ...more })
  t.teardown(async () => await carrier.close())
  const made: Scene = { fleet, carrier, lines, asked: 0, device: async () => await device(t, fleet) }
  return made
}

async function device(t: Test, fleet: TrustLab) {
  const anchors = { fleet: 'lab', caPem: ca.certificatePem, bundleKeys: trusted(key), trust: fleet.anchors }
  const quiet = { info() {}, warn() {}, error: (fields: object, message: string) => t.comment(message, JSON.stringify(fields)) }
  const files = new AtomicFiles(new FakeFileSystem())
  const trust = await DeviceTrust.open({ anchors, files, stateDir: '/state', clock: systemClock, tierOf: () => 'worker', log: quiet })
  const routes: Route[] = []
  const calls: string[] = []
  const served = {
    unary: (method: { path: string }, handler: (request: unknown) => unknown) =>
      routes.push(
        unary(method as never, async (request) => {
          calls.push(basename(method.path))
          return (await handler(request)) as never
        }),
      ),
  } as unknown as Serve
  serveTrust(served, trust)
  return { trust, session: await session(t, routes), calls }
}

async function session(t: Test, routes: readonly Route[]): Promise<DeviceSession> {
  const port = await serve(t, await identity('device', 'sw1'), routes)
  const client = new RpcClient({ target: `127.0.0.1:${port}`, serverName: 'sw1.lab.offbox', caPem: ca.certificatePem, identity: own })
  t.teardown(() => client.close())
  return new DeviceSession('sw1', client)
}

async function serve(t: Test, tls: { keyPem: string; certificatePem: string }, routes: readonly Route[]): Promise<number> {
  const quiet = { admit: () => {}, finished: () => {}, internal: () => {}, refused: () => {} }
  const server = new RpcServer({ ...tls, clientCaPem: ca.certificatePem, routes, ...quiet })
  t.teardown(async () => await server.close())
  return await server.listen('127.0.0.1', 0)
}

t.test('an enrolment brings metadata, policy and the witness along; an order what vouches for its bundle', async (t) => {
  const { fleet, carrier, device } = await scene(t)
  await fleet.allow('probes')
  const file = await fleet.publish('probes', makeBundle(key, { name: 'probes', version: '1.0.0' }))
  t.same(await carrier.enrolment({ challenge: new Uint8Array(), rootVersion: 0 }, 'sw1'), {}, 'nothing for a device without trust anchors')

  const { trust, session } = await device()
  const brought = await carrier.enrolment(trust.question(), 'sw1')
  await trust.learn({ witness: brought.witness as never, evidence: evidenceOf(brought as never) })
  t.equal(trust.needsWitness, false)
  // The metadata is verified after the enrolment has ended.
  while ((await session.trustStatus()).policyVersion === 0) await new Promise((resolve) => setTimeout(resolve, 20))
  t.match(await session.trustStatus(), { policyVersion: 1, rootVersion: 1, needsWitness: false })
  const { metadata, policy } = await carrier.order(session, 'probes')
  t.equal(policy?.length, 0, 'the device has the policy')
  const order = { service: 'probes', version: '1.0.0' }
  t.match(await trust.bundles.ordered(order, file, evidenceOf({ metadata: metadata as never, policy: policy as never })), { manifest: { name: 'probes' } })
})

t.test('a device that has not heard the witness hears it before an order, and is told what is new without one', async (t) => {
  const { fleet, carrier, device } = await scene(t)
  await fleet.allow('probes')
  const { trust, session, calls } = await device()
  t.equal(trust.needsWitness, true)
  await carrier.refresh(session)
  t.same(calls, ['Status', 'Challenge', 'Attest', 'Update'])
  t.equal((await session.trustStatus()).policyVersion, 1)
  calls.length = 0
  await carrier.refresh(session)
  t.same(calls, ['Status'], 'what it knows it is not told again')
  await fleet.policy(() => ({}))
  t.match(await carrier.refresh(session), { policyVersion: 2 })
  await refresh(fleet.repository.context())
  const { heights } = (await carrier.refresh(session)) ?? {}
  t.equal(heights?.['timestamp'], (await fleet.repository.read()).timestamp.signed.version)
})

t.test('what is published is shown to the witness without anybody asking; a repository set back it refuses', async (t) => {
  const seen = await scene(t)
  const { fleet, carrier, device, lines } = seen
  await fleet.allow('probes')
  await carrier.bundleKeys(new Map())
  while (fleet.witness.heights === null) await new Promise((resolve) => setTimeout(resolve, 20))
  const link = join(fleet.repository.path, 'repository')
  symlinkSync(join('generations', String(Number(basename(readlinkSync(link))) - 1)), `${link}.turn`)
  renameSync(`${link}.turn`, link)
  const { session, trust } = await device()
  await t.rejects(carrier.refresh(session), { code: 'TRUST_ROLLBACK', message: /the witness says/ })
  const brought = await carrier.enrolment(trust.question(), 'sw1')
  t.equal(brought.witness, undefined, 'an enrolment stands all the same')
  t.match(
    lines.find((line) => line['message'] === 'a device enrols without an answer of the witness'),
    { code: 'TRUST_ROLLBACK' },
  )
})

t.test('a witness that is not there keeps orders from a device that needs it, and enrolments from nobody', async (t) => {
  const { fleet, carrier, device, lines } = await scene(t, { witness: null })
  await fleet.allow('probes')
  const { session, trust } = await device()
  await t.rejects(carrier.order(session, 'probes'), { code: 'WITNESS_UNREACHABLE', message: /controller\.witness/ })
  const brought = await carrier.enrolment(trust.question(), 'sw1')
  t.ok(brought.metadata && brought.metadata.length >= 3)
  t.equal(brought.witness, undefined)
  t.equal(lines.filter((line) => line['code'] === 'WITNESS_UNREACHABLE').length, 1)
  const gone = await scene(t, { witness: { target: '127.0.0.1:1', serverName: 'x', caPem: ca.certificatePem, identity: own } })
  await t.rejects(gone.carrier.refresh((await gone.device()).session), { code: 'WITNESS_UNREACHABLE' })
})

t.test('a device far behind gets roots alone, push by push, before the rest', async (t) => {
  const { fleet, carrier, device } = await scene(t)
  await fleet.allow('probes')
  for (let version = 2; version <= 19; version++) await refresh(fleet.repository.context(), ['root'])
  const { session, calls } = await device()
  t.match(await carrier.refresh(session), { rootVersion: 19, policyVersion: 1 })
  t.same(calls, ['Status', 'Challenge', 'Attest', 'Update', 'Update'])
})

t.test('a fleet without a repository, and devices that know nothing of it, go on as before', async (t) => {
  const bare = await scene(t, { trust: join(directory, 'none') })
  const { session: known } = await bare.device()
  for (let order = 0; order < 3; order++) t.same(await bare.carrier.order(known, 'probes'), { metadata: [], policy: new Uint8Array() })
  t.equal(bare.lines.filter((line) => /no trust repository/.test(String(line['message']))).length, 1, 'said once')
  const { carrier, fleet } = await scene(t)
  await fleet.allow('probes')
  const old = await session(t, []) // it serves no Trust
  t.same(await carrier.order(old, 'probes'), { metadata: [], policy: new Uint8Array() })
  t.equal(await carrier.refresh(old), null)
})
