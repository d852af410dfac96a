/** Starts of a real agent that has trust anchors: on its store, on half of it, on none, and after what was true has changed. */
import { sign } from 'node:crypto'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { chaptersDigest, COLLECTOR_ID, headBody, statementSignedBytes } from '../../../core/audit/statements.ts'
import { joinBundle, splitBundle } from '../../../core/bundle-format.ts'
import { refresh } from '../../../fleet/trust/trust.ts'
import { AuditMethods } from '../../../proto/gen/audit.ts'
import { LifecycleMethods, ServiceState } from '../../../proto/gen/lifecycle.ts'
import { TrustMethods } from '../../../proto/gen/trust.ts'
import { flipBit } from '../../fixtures/bundles.ts'
import { connect, type Lab, send } from '../agent-process.ts'
import type { Carried, TrustLab } from '../trust-lab.ts'
import { orderOf, type OrdersLab, ordersLab } from './orders-lab.ts'

let lab: Lab
let fleet: TrustLab
let bundle: OrdersLab['bundle']
let device: OrdersLab['device']
let confirm: OrdersLab['confirm']
t.setTimeout(290_000)
t.before(async () => {
  const made = await ordersLab()
  ;({ lab, fleet, bundle, device, confirm } = made)
})

t.test('without a store nothing new runs before the witness has answered this very start', async (t) => {
  await fleet.allow('waiting', [])
  const file = await fleet.publish('waiting', bundle('waiting', '1.0.0'))
  const stale = await fleet.carry('waiting')
  await refresh(fleet.repository.context(), [])
  fleet.silent = true
  t.teardown(() => {
    fleet.silent = false
  })
  const { client, agent, close } = await device('waiting')
  t.teardown(close)
  await agent.line(({ msg }) => msg === 'nothing new is taken before the witness has answered')
  t.match(await client.unary(TrustMethods.Status, {}), { needsWitness: true, policyVersion: 0 })
  const order = async (carried: Carried) => await send(client, 'Install', orderOf('waiting', '1.0.0', carried), file)
  await t.rejects(order(await fleet.carry('waiting')), { code: 'TRUST_UNAVAILABLE', message: /witness/ })
  await t.rejects(client.unary(TrustMethods.Update, await fleet.carry()), { code: 'TRUST_UNAVAILABLE' })
  fleet.silent = false
  const recorded = await fleet.attest((await client.unary(TrustMethods.Challenge, {})).nonce)
  const { nonce } = await client.unary(TrustMethods.Challenge, {})
  await t.rejects(client.unary(TrustMethods.Attest, { ...recorded }), { code: 'WITNESS_UNTRUSTED', message: /another question/ })
  const status = await client.unary(TrustMethods.Attest, { ...(await fleet.attest(nonce, await fleet.carry())) })
  t.match(status, { needsWitness: false })
  await t.rejects(order(stale), { code: 'TRUST_ROLLBACK', message: /the witness has seen/ }, 'it knows the newest from the witness alone')
  t.match(await order(await fleet.carry('waiting')), { to: '1.0.0' })
})

t.test('a store that was tampered with or wiped is not believed, and what ran goes on once it is vouched for', async (t) => {
  await fleet.allow('stored', [])
  const file = await fleet.publish('stored', bundle('stored', '1.0.0'))
  const made = await device('stored')
  t.teardown(() => made.close())
  const change = await send(made.client, 'Install', orderOf('stored', '1.0.0', await fleet.carry('stored')), file)
  await confirm(made.agent, change.id)
  const copy = (name: 'a' | 'b') => join(lab.directory, 'stored/state/trust/tuf', name)
  const tamper = async (name: 'a' | 'b') => await writeFile(copy(name), flipBit(new Uint8Array(await readFile(copy(name))), 900))

  lab.withholding = true
  t.teardown(() => {
    lab.withholding = false
  })
  await made.again(async () => await tamper('a'))
  const one = await made.client.unary(TrustMethods.Status, {})
  t.match(one, { needsWitness: false, problems: [/copy a/] }, 'one copy is enough, and the other one is missed')
  t.match(await made.client.unary(LifecycleMethods.Get, { service: 'stored' }), { state: ServiceState.READY })

  fleet.silent = true
  await made.again(async () => await Promise.all([tamper('a'), tamper('b')]))
  t.match(await made.client.unary(TrustMethods.Status, {}), { needsWitness: true, policyVersion: 0, problems: [/copy a/, /copy b/] })
  t.match(
    await made.client.unary(LifecycleMethods.Get, { service: 'stored' }),
    { state: ServiceState.FAILED, health: { reason: /^POLICY_DENIED: .*there is no policy/ } },
    'no policy, no run; and the device can be reached',
  )
  await t.rejects(send(made.client, 'Upgrade', orderOf('stored', '1.0.0', await fleet.carry('stored')), file), { code: 'TRUST_UNAVAILABLE' })

  lab.withholding = false
  fleet.silent = false
  await made.again(async () => await rm(join(lab.directory, 'stored/state/trust'), { recursive: true }))
  await made.agent.line(({ msg, service }) => msg === 'service started' && service === 'stored')
  t.match(await made.client.unary(TrustMethods.Status, {}), { needsWitness: false }, 'witness, metadata and policy came with the enrolment')
})

t.test('what only the key of its service signed starts once the repository that delegates to that key is known again', async (t) => {
  const both = splitBundle(await fleet.publish('owned', bundle('owned', '1.0.0'), { sign: true }))
  const signatures = both.signatures.filter(({ keyId }) => keyId !== lab.key.keyId)
  const file = await fleet.publish('owned', joinBundle({ ...both, signatures }), { replace: true })
  const keys = signatures.map(({ keyId }) => keyId)
  await fleet.policy((before) => ({ ...before, owned: { keys, capabilities: [], tiers: ['worker'] } }))
  const made = await device('owned')
  t.teardown(() => made.close())
  const change = await send(made.client, 'Install', orderOf('owned', '1.0.0', await fleet.carry('owned')), file)
  await confirm(made.agent, change.id)
  lab.withholding = true
  t.teardown(() => {
    lab.withholding = false
  })
  await made.again()
  t.match(await made.client.unary(LifecycleMethods.Get, { service: 'owned' }), { state: ServiceState.READY }, 'the store remembers the key')
  await made.again(async () => await rm(join(lab.directory, 'owned/state/trust'), { recursive: true }))
  const down = await made.client.unary(LifecycleMethods.Get, { service: 'owned' })
  t.match(down, { state: ServiceState.FAILED, health: { reason: /^BUNDLE_UNTRUSTED: / } })
  await made.client.unary(TrustMethods.Update, await fleet.carry())
  await made.agent.line(({ msg, service }) => msg === 'service started' && service === 'owned')
})

t.test('a service whose policy is withdrawn does not start again, until the policy lets it', async (t) => {
  await fleet.allow('withdrawn', [])
  const file = await fleet.publish('withdrawn', bundle('withdrawn', '1.0.0'))
  const made = await device('withdrawn')
  t.teardown(() => made.close())
  const change = await send(made.client, 'Install', orderOf('withdrawn', '1.0.0', await fleet.carry('withdrawn')), file)
  await confirm(made.agent, change.id)
  await fleet.policy(({ withdrawn: _, ...others }) => others)
  const policyVersion = (await made.client.unary(TrustMethods.Update, await fleet.carry())).policyVersion
  t.match(await made.client.unary(LifecycleMethods.Get, { service: 'withdrawn' }), { state: ServiceState.READY }, 'what runs is not torn down')
  lab.withholding = true
  t.teardown(() => {
    lab.withholding = false
  })
  await made.again()
  const down = await made.client.unary(LifecycleMethods.Get, { service: 'withdrawn' })
  t.match(down, { version: '1.0.0', state: ServiceState.FAILED, health: { reason: /^POLICY_DENIED: .*does not name withdrawn/ } })
  t.equal((await made.client.unary(TrustMethods.Status, {})).policyVersion, policyVersion, 'remembered over a restart, unasked')
  await fleet.allow('withdrawn', [])
  await made.client.unary(TrustMethods.Update, await fleet.carry())
  await made.agent.line(({ msg, service }) => msg === 'service started' && service === 'withdrawn')
})

t.test('what a collector of the audit log signed moves the time forward, also over a restart', async (t) => {
  const made = await device('collected')
  t.teardown(() => made.close())
  // Its first records are on their way to the disk for up to a second.
  let { chain, sequence, hash } = await made.client.unary(AuditMethods.Status, {})
  while (sequence === 0) ({ chain, sequence, hash } = await made.client.unary(AuditMethods.Status, {}))
  const collector = await lab.identity('service', COLLECTOR_ID)
  const laterMs = Date.now() + 7_200_000
  const chapter = { chain, sequence, hash, reason: 'first', after: { sequence: 0, hash: '' } } as const
  const body = headBody({ fleet: 'lab', deviceId: 'sw1', chapter, earlier: { count: 0, digest: chaptersDigest([]) }, atMs: laterMs })
  const signature = sign('sha256', statementSignedBytes('head', body), { key: collector.keyPem, dsaEncoding: 'ieee-p1363' })
  const controller = await connect(lab, made.agent.port, await lab.identity('controller', 'one'))
  await controller.unary(AuditMethods.Acknowledge, { head: { body, signature, chainPem: collector.certificatePem } })
  controller.close()
  const told = async () => (await made.client.unary(TrustMethods.Status, {})).timeMs
  t.ok((await told()) >= laterMs)
  lab.withholding = true
  t.teardown(() => {
    lab.withholding = false
  })
  await made.again()
  t.ok((await told()) >= laterMs, 'verified anew at the start')
})
