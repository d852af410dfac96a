import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { birdCommand as ask } from '../../../agent/drivers/bird-client.ts'
import type { RoutingConfigInit } from '../../../proto/gen/routing.ts'
import { applying, birdMissing, pair, type Router, text, until } from './bird-lab.ts'

const left = (extra: Partial<RoutingConfigInit> = {}): RoutingConfigInit => ({
  routerId: '10.9.0.1',
  localAs: 65_001,
  neighbors: [{ name: 'right', address: '10.9.0.2', peerAs: 65_002 }],
  staticRoutes: [{ prefix: '192.0.2.1/32', blackhole: true }],
  ...extra,
})
const right: RoutingConfigInit = {
  routerId: '10.9.0.2',
  localAs: 65_002,
  neighbors: [{ name: 'left', address: '10.9.0.1', peerAs: 65_001 }],
  staticRoutes: [{ prefix: '192.0.2.2/32', blackhole: true }],
}

const established = async ({ bird }: Router) => (await bird.protocols()).protocols.some(({ type, info }) => type === 'BGP' && info === 'Established')
const learned = async ({ bird }: Router, prefix: string) => (await bird.routes({ max: 100 })).find((route) => route.prefix === prefix)
const kernelRoutes = ({ namespace }: Router) => execFileSync('ip', ['-n', namespace, 'route', 'show', 'proto', 'bird'], { encoding: 'utf8' })
/** BIRD's own words about one route, communities included. */
const attributes = async ({ runDir }: Router, prefix: string) =>
  (await ask(join(runDir, 'bird.sock'), `show route all table master4 for ${prefix}`)).lines.map((line) => line.text).join('\n')

// BIRD's own timer, which one test waits for, runs 20 s.
t.setTimeout(280_000)

t.test('BIRD, for real', { skip: birdMissing }, async (t) => {
  const { a, b, close } = await pair()
  t.teardown(close)

  await t.test('before the first apply BIRD runs without routing protocols', async (t) => {
    const { version, routerId, protocols } = await a.bird.protocols()
    t.match(version, /^2\./)
    t.equal(routerId, '10.9.0.1', 'the router id is the management address')
    t.same(
      protocols.map(({ type }) => type),
      ['Device'],
    )
    t.match(await a.bird.current(), { text: '', revision: '', provisional: false, changeId: '' })
  })

  await t.test('a configuration is live once applied, provisional until confirmed, and then lasts', async (t) => {
    const { changeId, revision } = await a.bird.apply(applying(left()))
    t.match(await a.bird.current(), { revision, provisional: true, changeId })
    t.equal((await a.bird.check({ text: text(left()).text })).revision, revision)
    t.ok((await a.bird.protocols()).protocols.some(({ name }) => name === 'bgp_right'))
    await a.confirm(changeId)
    const now = await a.bird.current()
    t.match(now, { revision, provisional: false, changeId: '' })
    t.same(now.document, text(left()).document, 'the document moves with the text')
  })

  await t.test("two devices hold a session and learn one another's routes", async (t) => {
    await b.configure(right)
    await until('both sessions', async () => (await established(a)) && (await established(b)))
    const route = await until('the route of b at a', async () => await learned(a, '192.0.2.2/32'))
    t.same(route, { prefix: '192.0.2.2/32', via: '10.9.0.2', protocol: 'bgp_right', best: true })
    const session = (await a.bird.protocols()).protocols.find(({ type }) => type === 'BGP')
    t.match(session, { name: 'bgp_right', state: 'up', neighborAddress: '10.9.0.2', neighborAs: 65_002, routesImported: 1, routesExported: Number })
    await until('the route in the kernel', () => kernelRoutes(a).includes('192.0.2.2'))
  })

  await t.test('a configuration that BIRD refuses leaves the old one, and says where', async (t) => {
    const before = await a.bird.current()
    await t.rejects(a.bird.apply({ ...applying(left()), text: 'router id 10.9.0.1;\nprotocol device {}\nprotocol nonsense {}\n' }), {
      code: 'CONFIG_INVALID',
      message: /line 3/,
    })
    t.same(await a.bird.current(), before)
    t.ok(await established(a))
    t.match(a.engine.current('routing'), undefined, 'nothing is left unsettled')
  })

  await t.test('while one change is unconfirmed another apply and a drain are refused', async (t) => {
    const { changeId } = await a.bird.apply(applying(left({ staticRoutes: [] })))
    await t.rejects(a.bird.apply(applying(left())), { code: 'SWAP_IN_PROGRESS' })
    await t.rejects(a.bird.setDrained({ drained: true }), { code: 'SWAP_IN_PROGRESS' })
    t.equal((await a.bird.current()).changeId, changeId, 'the one that was first is still live')
    await until('the withdrawal at b', async () => !(await learned(b, '192.0.2.1/32')))
    await a.engine.revert(changeId, 'test')
    await until('the route at b again', async () => await learned(b, '192.0.2.1/32'))
    t.ok(await established(a), 'the session never went down')
  })

  await t.test('silence undoes a configuration', async (t) => {
    const before = await a.bird.current()
    const { changeId } = await a.bird.apply(applying(left({ staticRoutes: [] }), 5_000))
    await until('the revert', () => a.engine.get(changeId)?.settled)
    t.match(a.engine.get(changeId), { state: 'reverted', error: 'DEADLINE_PASSED' })
    t.same(await a.bird.current(), before)
    await until('the route at b again', async () => await learned(b, '192.0.2.1/32'))
  })

  await t.test('an agent killed while a configuration is provisional comes back to the confirmed one, with BIRD running on', async (t) => {
    const pid = a.birdPid()
    const before = await a.bird.current()
    await a.bird.apply(applying(left({ staticRoutes: [{ prefix: '192.0.2.77/32', blackhole: true }] })))
    await until('the provisional route at b', async () => await learned(b, '192.0.2.77/32'))
    await a.restartAgent()
    t.same(await a.bird.current(), before)
    await until('the confirmed route at b', async () => (await learned(b, '192.0.2.1/32')) && !(await learned(b, '192.0.2.77/32')))
    t.equal(a.birdPid(), pid, 'the same BIRD')
    t.ok(await established(a))
  })

  await t.test('a drain is seen by the neighbour as GRACEFUL_SHUTDOWN, outlives the agent, and ends', async (t) => {
    await a.bird.setDrained({ drained: true })
    await until('the community at b', async () => (await attributes(b, '192.0.2.1/32')).includes('(65535,0)'))
    t.match(await attributes(b, '192.0.2.1/32'), /local_pref: 0\b/, 'the neighbour prefers any other path')
    await a.restartAgent()
    t.equal(await a.bird.drained(), true)
    t.match(await attributes(b, '192.0.2.1/32'), /\(65535,0\)/)
    await a.bird.setDrained({ drained: false })
    await until('no community at b', async () => !(await attributes(b, '192.0.2.1/32')).includes('(65535,0)'))
    t.equal(await a.bird.drained(), false)
    t.ok(await established(a))
  })

  await t.test('a killed BIRD is started again with its configuration, and the kernel keeps its routes meanwhile', async (t) => {
    const pid = a.birdPid()
    process.kill(pid, 'SIGKILL')
    t.match(kernelRoutes(a), /192\.0\.2\.2/)
    await until('another BIRD', () => {
      try {
        return a.birdPid() !== pid
      } catch {
        return false
      }
    })
    await until('the session again', async () => await established(a).catch(() => false))
    await until('the route again', async () => await learned(a, '192.0.2.2/32'))
    t.match(kernelRoutes(a), /192\.0\.2\.2/)
  })

  await t.test('a BIRD that a former agent left is healed as well', async (t) => {
    await a.restartAgent()
    const pid = a.birdPid()
    process.kill(pid, 'SIGKILL')
    await until('the session again', async () => await established(a).catch(() => false))
    t.not(a.birdPid(), pid)
  })

  await t.test('a BIRD that dies under an unconfirmed configuration gets the confirmed one back', async (t) => {
    const before = await a.bird.current()
    const { changeId } = await a.bird.apply(applying(left({ staticRoutes: [] })))
    process.kill(a.birdPid(), 'SIGKILL')
    await until('the revert', () => a.engine.get(changeId)?.settled)
    t.match(a.engine.get(changeId), { state: 'reverted', error: 'DRIVER_FAILED' })
    t.same(await a.bird.current(), before)
    await until('the session again', async () => await established(a).catch(() => false))
    await until('the route at b again', async () => await learned(b, '192.0.2.1/32'))
  })
  await t.test('with the agent gone for good, BIRD itself undoes an unconfirmed configuration', async (t) => {
    await a.bird.apply(applying(left({ staticRoutes: [] }), 5_000))
    a.engine.close()
    await a.driver.close()
    await until('the withdrawal at b', async () => !(await learned(b, '192.0.2.1/32')))
    await until('the route at b again', async () => await learned(b, '192.0.2.1/32'))
    await a.restartAgent()
    t.match(await a.bird.current(), { provisional: false })
  })
})
