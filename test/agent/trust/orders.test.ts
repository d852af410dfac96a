/** Orders to a real agent that has trust anchors: what it runs, and what it refuses without touching anything. */
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { splitBundle } from '../../../core/bundle-format.ts'
import { publish } from '../../../fleet/trust/publish.ts'
import { refresh, revoke, rotate } from '../../../fleet/trust/trust.ts'
import type { RpcClient } from '../../../fleet/rpc/client.ts'
import { LifecycleMethods, ServiceState } from '../../../proto/gen/lifecycle.ts'
import { TrustMethods } from '../../../proto/gen/trust.ts'
import { flipBit, makeBundle, makeKey, type ManifestParts, type SigningKey, trust as trusted } from '../../fixtures/bundles.ts'
import { type AgentProcess, connect, freePort, isServing, type Lab, makeLab, send, startAgent } from '../agent-process.ts'
import type { Carried, TrustLab } from '../trust-lab.ts'

const SERVICE = `{ methods: [], check: (raw) => raw, start: async () => {}, stop: async () => {}, health: () => ({ status: 'healthy', evidence: {} }) }`
const CODE = `var offboxService = { create: () => (${SERVICE}) }`
const DAY_MS = 86_400_000

let lab: Lab
let fleet: TrustLab
const agents: AgentProcess[] = []
t.setTimeout(240_000)
t.before(async () => {
  lab = await makeLab([], { trust: true })
  fleet = lab.trust as TrustLab
})
t.teardown(async () => {
  for (const agent of agents) await agent.kill()
  await lab?.close()
})

const bundle = (name: string, version: string, over: Partial<ManifestParts> = {}, key: SigningKey = lab.key) =>
  makeBundle(key, { name, version, heapMbMax: 32, ...over }, CODE)
const orderOf = (service: string, version: string, more: object = {}) => ({ service, version, bakeMs: 0, confirmTimeoutMs: 60_000, ...more })

/** A device of its own: nothing that one test does to a store is left for the next. */
async function device(name: string): Promise<{ client: RpcClient; agent: AgentProcess; again(before?: () => Promise<unknown>): Promise<void>; close(): void }> {
  const port = await freePort()
  const up = async () => {
    made.client?.close()
    made.agent = await startAgent(lab, name, port)
    agents.push(made.agent)
    await made.agent.line(isServing)
    if (!fleet.silent && !lab.withholding) await made.agent.line(({ msg }) => msg === 'the repository is known as it is now')
    made.client = await connect(lab, port)
  }
  const made = {
    client: undefined as unknown as RpcClient,
    agent: undefined as unknown as AgentProcess,
    again: async (before = async (): Promise<unknown> => undefined) => {
      await made.agent.kill()
      await before()
      await up()
    },
    close: () => made.client.close(),
  }
  await up()
  return made
}

async function confirm(agent: AgentProcess, changeId: string): Promise<void> {
  const fresh = await connect(lab, agent.port)
  await fresh.unary(LifecycleMethods.Confirm, { changeId })
  fresh.close()
}

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
