/** Orders to a real agent that has trust anchors: what it runs, and what it refuses without touching anything. */
import t from 'tap'
import { splitBundle } from '../../../core/bundle-format.ts'
import { publish } from '../../../fleet/trust/publish.ts'
import { refresh, revoke, rotate } from '../../../fleet/trust/trust.ts'
import { DeviceMethods } from '../../../proto/gen/device.ts'
import { LifecycleMethods, ServiceState } from '../../../proto/gen/lifecycle.ts'
import { TrustMethods } from '../../../proto/gen/trust.ts'
import { flipBit, makeKey, trust as trusted } from '../../fixtures/bundles.ts'
import { type Lab, send } from '../agent-process.ts'
import type { Carried, TrustLab } from '../trust-lab.ts'
import { orderOf, type OrdersLab, ordersLab } from './orders-lab.ts'

const DAY_MS = 86_400_000

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

t.test('an honest order runs, and the device says what it rests on', async (t) => {
  await fleet.allow('honest', [])
  const file = await fleet.publish('honest', bundle('honest', '1.0.0'))
  const { client, agent, close } = await device('honest')
  t.teardown(close)
  t.match(lab.enrolments.at(-1), { rootVersion: 1, challenge: { length: 32 } })
  const before = await client.unary(TrustMethods.Status, {})
  t.match(before, { enforced: true, rootVersion: 1, needsWitness: false, witnessNeed: 'without-store', problems: [] })
  t.equal(before.policyVersion, 1, 'enrolment brought the policy')
  t.ok(Math.abs(before.timeMs - Date.now()) < 120_000 && before.timeSources['witness'])
  const change = await send(client, 'Install', orderOf('honest', '1.0.0', await fleet.carry('honest')), file)
  await confirm(agent, change.id)
  t.match(await client.unary(LifecycleMethods.Get, { service: 'honest' }), { version: '1.0.0', state: ServiceState.READY })
  const after = await client.unary(TrustMethods.Status, {})
  t.ok((after.heights['service-honest'] ?? 0) > 0 && after.expiresMs > Date.now())
  const { text } = await client.unary(DeviceMethods.Metrics, {})
  t.match(text, /^offbox_trust_expires_seconds [1-9]\d{5}/m)
  t.match(text, /^offbox_trust_needs_witness 0$/m)
  t.match(text, /^offbox_trust_policy_version [1-9]/m)
  const again = await send(client, 'Install', orderOf('honest', '1.0.0', { metadata: [] }), file)
  t.equal(again.id, change.id, 'what is stored vouches for it as well, as long as it has not expired')
})

t.test('what the repository or the policy does not let run is refused by name, and nothing changes', async (t) => {
  const { client, close } = await device('refusing')
  t.teardown(close)
  const untouched = async () => {
    t.same((await client.unary(LifecycleMethods.List, {})).services, [], 'nothing runs or is stored')
  }
  const refused = async (what: string, code: string, message: RegExp, file: Uint8Array, more: Carried, of: readonly [string, string]) => {
    await t.rejects(send(client, 'Install', orderOf(...of, more), file), { code, message }, what)
    await untouched()
  }
  await fleet.allow('plain', [])
  const stale = await fleet.carry('plain')
  const plain = await fleet.publish('plain', bundle('plain', '1.0.0'))
  const now = await fleet.carry('plain')

  await refused('a bundle that is signed and not listed', 'TRUST_UNLISTED', /plain\/2\.0\.0/, bundle('plain', '2.0.0'), now, ['plain', '2.0.0'])
  await refused('another file than the listed one', 'BUNDLE_CORRUPT', /service-plain/, bundle('plain', '1.0.0', { heapMbMax: 48 }), now, ['plain', '1.0.0'])
  await refused('a flipped bit', 'BUNDLE_CORRUPT', /service-plain/, flipBit(plain, -3), now, ['plain', '1.0.0'])
  await refused('an older repository than it has seen', 'TRUST_ROLLBACK', /version \d+ is less than current version \d+/, plain, stale, ['plain', '1.0.0'])
  await refused('metadata with a flipped bit', 'TRUST_MALFORMED', /timestamp|JSON|keyid|sig/, plain, broken(now), ['plain', '1.0.0'])

  const rogue = makeKey()
  const foreign = bundle('plain', '1.1.0', {}, rogue)
  await publish(fleet.repository.context(), [foreign], { anchors: trusted(rogue) })
  await refused('a listed bundle that no trusted key signed', 'BUNDLE_UNTRUSTED', /no trusted key/, foreign, await fleet.carry('plain'), ['plain', '1.1.0'])

  const unnamed = await fleet.publish('unnamed', bundle('unnamed', '1.0.0'))
  await refused('a service without a rule', 'POLICY_DENIED', /does not name unnamed/, unnamed, await fleet.carry('unnamed'), ['unnamed', '1.0.0'])
  const greedy = await fleet.publish('plain', bundle('plain', '1.2.0', { capabilities: ['keystore'] }))
  await refused('a capability', 'POLICY_DENIED', /plain\.capabilities: "keystore"/, greedy, await fleet.carry('plain'), ['plain', '1.2.0'])
  const apart = await fleet.publish('plain', bundle('plain', '1.3.0', { tier: 'process' }))
  await refused('a tier', 'POLICY_DENIED', /plain\.tiers: "process"/, apart, await fleet.carry('plain'), ['plain', '1.3.0'])
  await fleet.policy((before) => ({ ...before, plain: { keys: [rogue.keyId], capabilities: [], tiers: ['worker'] } }))
  const keyless = await fleet.carry('plain')
  await refused('a policy that is named and not there', 'TRUST_UNAVAILABLE', /policy\/device\.json/, plain, { ...keyless, policy: new Uint8Array() }, [
    'plain',
    '1.0.0',
  ])
  await refused('another policy than the one named', 'TRUST_MISMATCH', /policy/, plain, { ...keyless, policy: now.policy }, ['plain', '1.0.0'])
  await refused('a key', 'POLICY_DENIED', /plain\.keys: none of them signed it/, plain, keyless, ['plain', '1.0.0'])
  t.equal((await client.unary(TrustMethods.Status, {})).problems.length, 0)

  await fleet.allow('plain', [])
  const change = await send(client, 'Install', orderOf('plain', '1.0.0', await fleet.carry('plain')), plain)
  t.match(change, { to: '1.0.0' }, 'and the honest order goes through after all of them')
})

t.test("a service's own key is enough where the policy names it", async (t) => {
  const file = await fleet.publish('teams', bundle('teams', '1.0.0'), { sign: true })
  const own = splitBundle(file).signatures.find(({ keyId }) => keyId !== lab.key.keyId)?.keyId ?? ''
  await fleet.policy((before) => ({ ...before, teams: { keys: [own], capabilities: [], tiers: ['worker'] } }))
  const made = await device('teams')
  t.teardown(() => made.close())
  const change = await send(made.client, 'Install', orderOf('teams', '1.0.0', await fleet.carry('teams')), file)
  await confirm(made.agent, change.id)
  await made.again()
  await made.agent.line(({ msg, service }) => msg === 'service started' && service === 'teams')
})

t.test('an order recorded at one device is worth nothing at another that knows better', async (t) => {
  await fleet.allow('replayed', [])
  const file = await fleet.publish('replayed', bundle('replayed', '1.0.0'))
  const recorded = await fleet.carry('replayed')
  const [one, other] = [await device('replay-one'), await device('replay-other')]
  t.teardown(one.close)
  t.teardown(other.close)
  await send(one.client, 'Install', orderOf('replayed', '1.0.0', recorded), file)
  await revoke(fleet.repository.context(), 'services/replayed/1.0.0.offbox')
  await other.client.unary(TrustMethods.Update, await fleet.carry())
  await t.rejects(send(other.client, 'Install', orderOf('replayed', '1.0.0', recorded), file), { code: 'TRUST_ROLLBACK' })
  await t.rejects(send(other.client, 'Install', orderOf('replayed', '1.0.0', await fleet.carry('replayed')), file), { code: 'TRUST_UNLISTED' })
  t.same((await other.client.unary(LifecycleMethods.List, {})).services, [])
})

t.test('on expired metadata nothing new runs, and what ran starts again', async (t) => {
  await fleet.allow('aging', [])
  const [old, next] = [await fleet.publish('aging', bundle('aging', '1.0.0')), await fleet.publish('aging', bundle('aging', '1.1.0'))]
  const made = await device('aging')
  t.teardown(() => made.close())
  const change = await send(made.client, 'Install', orderOf('aging', '1.0.0', await fleet.carry('aging')), old)
  await confirm(made.agent, change.id)
  await refresh(fleet.repository.context({ nowMs: Date.now() - 8 * DAY_MS }), [])
  await t.rejects(send(made.client, 'Upgrade', orderOf('aging', '1.1.0', await fleet.carry('aging')), next), { code: 'TRUST_EXPIRED' })
  lab.withholding = true
  t.teardown(() => {
    lab.withholding = false
  })
  await made.again()
  lab.withholding = false
  await made.agent.line(({ msg, service }) => msg === 'service started' && service === 'aging')
  await t.rejects(send(made.client, 'Upgrade', orderOf('aging', '1.1.0', await fleet.carry('aging')), next), { code: 'TRUST_EXPIRED' })
  await refresh(fleet.repository.context(), [])
  t.match(await send(made.client, 'Upgrade', orderOf('aging', '1.1.0', await fleet.carry('aging')), next), { to: '1.1.0' })
})

t.test('a device far behind follows the roots, also without an order', async (t) => {
  const made = await device('far')
  t.teardown(() => made.close())
  await rotate(fleet.repository.context(), 'targets')
  await rotate(fleet.repository.context(), 'timestamp')
  const { rootVersion } = await made.client.unary(TrustMethods.Status, {})
  const carried = await fleet.carry(undefined, rootVersion)
  const roots = carried.metadata.filter(({ name }) => name?.endsWith('.root.json'))
  const status = await made.client.unary(TrustMethods.Update, { metadata: roots })
  t.equal(status.rootVersion, rootVersion + 2)
  t.equal((await made.client.unary(TrustMethods.Update, await fleet.carry(undefined, status.rootVersion))).rootVersion, rootVersion + 2)
})

/** The timestamp with a bit of its JSON flipped. */
function broken({ metadata, policy }: Carried): Carried {
  const flipped = metadata.map(({ name, content }) => (name === 'timestamp.json' && content ? { name, content: flipBit(content, 2) } : { name, content }))
  return { metadata: flipped as Carried['metadata'], policy }
}
