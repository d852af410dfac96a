import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { type RoutingConfigInit, RoutingMethods } from '../../../proto/gen/routing.ts'
import { failuresTolerated, judge } from '../../../services/routing/health.ts'
import { create } from '../../../services/routing/service.ts'
import { conformance, runService, type ServiceManifest } from '../../../services/sdk/testing.ts'
import { fakes, session } from '../fakes.ts'

const manifest: ServiceManifest = JSON.parse(readFileSync(join(import.meta.dirname, '../../../services/routing/manifest.json'), 'utf8'))
const { SetConfig, GetConfig, State, Drain, Undrain } = RoutingMethods
const config: RoutingConfigInit = { routerId: '10.77.0.11', localAs: 65_001, neighbors: [{ name: 'sw2', address: '10.77.0.12', peerAs: 65_002 }] }

const run = async () => {
  const machine = fakes()
  return { machine, one: await runService({ create }, { manifest, config: {}, capabilities: machine.capabilities }) }
}

t.test('routing is a service', async (t) => {
  conformance(t, { create }, { manifest, config: {}, capabilities: () => fakes().capabilities })
})

t.test('a configuration is applied as a change of its author, and read back as it was given', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  t.match(await one.unary(GetConfig, {}), { config: null, revision: '', provisional: false })
  const answer = await one.unary(SetConfig, { config, comment: 'test' })
  t.match(answer, { changeId: 'c-1', revision: 'r1' })
  t.match(answer.rendered, 'protocol bgp bgp_sw2')
  t.match(machine.calls.find(({ operation }) => operation === 'bird.apply')?.input, {
    ...{ text: answer.rendered, confirmTimeoutMs: 60_000, comment: 'test', author: 'spiffe://lab/operator/test' },
  })
  t.match(await one.unary(GetConfig, {}), {
    config: { routerId: '10.77.0.11', neighbors: [{ name: 'sw2' }] },
    revision: 'r1',
    provisional: true,
    changeId: 'c-1',
  })
})

t.test('while one is unconfirmed another is refused; once confirmed, the same again changes nothing', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  await one.unary(SetConfig, { config })
  await t.rejects(one.unary(SetConfig, { config: { ...config, localAs: 65_009 } }), { code: 'SWAP_IN_PROGRESS' })
  machine.live = { ...machine.live, provisional: false, changeId: '' }
  const again = await one.unary(SetConfig, { config })
  t.match(again, { changeId: '', revision: 'r1' })
  t.equal(machine.calls.filter(({ operation }) => operation === 'bird.apply').length, 1)
})

t.test('a dry run answers the text and its revision and applies nothing', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  t.match(await one.unary(SetConfig, { config, dryRun: true }), { changeId: '', revision: 'checked', rendered: /bgp_sw2/ })
  t.notOk(machine.calls.some(({ operation }) => operation === 'bird.apply'))
})

t.test('bad requests are refused before BIRD hears of them', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  await t.rejects(one.unary(SetConfig, {}), { code: 'ARGUMENT_INVALID' })
  await t.rejects(one.unary(SetConfig, { config, confirmTimeoutMs: 4_999 }), { code: 'ARGUMENT_INVALID' })
  await t.rejects(one.unary(SetConfig, { config, comment: 'x'.repeat(1025) }), { code: 'ARGUMENT_INVALID' })
  await t.rejects(one.unary(SetConfig, { config: { ...config, routerId: 'x' } }), { code: 'CONFIG_INVALID', message: /router_id/ })
  await t.rejects(one.unary(State, { routesMax: 100_001 }), { code: 'ARGUMENT_INVALID' })
  t.notOk(machine.calls.some(({ operation }) => operation === 'bird.apply' || operation === 'bird.check'))
})

t.test('state counts sessions and routes, and lists routes only when asked', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  machine.protocols = [session('bgp_sw2', 'Established', 3), session('bgp_sw3', 'Active')]
  t.match(await one.unary(State, {}), { birdVersion: '2.0.12', routerId: '10.77.0.11', sessionsEstablished: 1, routesLearned: 3, routes: [], drained: false })
  t.match(await one.unary(State, { routesMax: 5 }), { routes: [{ prefix: '192.0.2.2/32', best: true }], protocols: [{ name: 'bgp_sw2' }, { info: 'Active' }] })
  machine.fails.add('bird.protocols')
  await t.rejects(one.unary(State, {}), { code: 'DRIVER_FAILED' })
})

t.test('drain and undrain answer the state after the call', async (t) => {
  const { one } = await run()
  t.teardown(one.stop)
  t.match(await one.unary(Drain, { reason: 'maintenance' }), { drained: true })
  t.match(await one.unary(State, {}), { drained: true })
  t.match(await one.unary(Undrain, {}), { drained: false })
})

t.test('health: every session up, some down, BIRD away', async (t) => {
  const up = session('bgp_sw2', 'Established', 3)
  t.match(judge({ protocols: [], failure: '', failures: 0 }), { status: 'healthy', evidence: { sessionsConfigured: 0 } })
  t.match(judge({ protocols: [up], failure: '', failures: 0 }), {
    status: 'healthy',
    evidence: { sessionsConfigured: 1, sessionsEstablished: 1, routesLearned: 3 },
  })
  t.match(judge({ protocols: [up, session('bgp_sw3', 'Active')], failure: '', failures: 0 }), {
    ...{ status: 'degraded', reason: /1 of 2 sessions are down: bgp_sw3 \(Active\)/, evidence: { sessionsConfigured: 2, sessionsEstablished: 1 } },
  })
  t.match(judge({ protocols: [up], failure: 'gone', failures: 1 }), { status: 'degraded', reason: /gone/ })
  t.match(judge({ protocols: [up], failure: 'gone', failures: failuresTolerated + 1 }), { status: 'unhealthy' })
})
