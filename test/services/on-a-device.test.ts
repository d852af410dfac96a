import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { buildAll } from '../../build.mjs'
import { signCsr } from '../../core/x509.ts'
import type { RpcClient } from '../../fleet/rpc/client.ts'
import { DeviceMethods } from '../../proto/gen/device.ts'
import { ChangeState, LifecycleMethods, type Change } from '../../proto/gen/lifecycle.ts'
import { RoutingMethods } from '../../proto/gen/routing.ts'
import { SecretsMethods } from '../../proto/gen/secrets.ts'
import { TelemetryMethods } from '../../proto/gen/telemetry.ts'
import { type AgentProcess, connect, freePort, isServing, type Lab, makeLab, send, startAgent } from '../agent/agent-process.ts'
import { birdCommand, birdMissing, until } from '../agent/drivers/bird-lab.ts'
import { makeBundle } from '../fixtures/bundles.ts'
import { payloadOf } from '../fixtures/services/counter/bundle.ts'

// BIRD writes kernel routes, so everything runs in a network namespace of its own: this file starts itself there.
const INSIDE = 'OBX_TEST_NAMESPACE'
const root = join(import.meta.dirname, '../..')
t.setTimeout(280_000)

if (birdMissing) {
  t.test('the three services on a device', { skip: birdMissing }, async () => {})
} else if (!process.env[INSIDE]) {
  const namespace = `obxsvc${process.pid}`
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'inherit', 'inherit'] })
  t.teardown(() => ip('netns', 'del', namespace))
  ip('netns', 'add', namespace)
  ip('-n', namespace, 'link', 'set', 'lo', 'up')
  ip('-n', namespace, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth1')
  ip('-n', namespace, 'addr', 'add', '10.9.8.1/24', 'dev', 'eth0')
  for (const link of ['eth0', 'eth1']) ip('-n', namespace, 'link', 'set', link, 'up')
  await t.spawn('ip', ['netns', 'exec', namespace, process.execPath, import.meta.filename], {
    name: 'inside a network namespace',
    env: { ...process.env, [INSIDE]: namespace, TAP_TIMEOUT: '270' },
    timeout: 270_000,
  })
} else {
  await story()
}

async function story(): Promise<void> {
  await buildAll()
  const lab = await makeLab([], { trust: true })
  const runDir = join(lab.directory, 'sw1/run')
  const port = await freePort()
  let agent: AgentProcess | undefined
  t.teardown(async () => {
    await agent?.kill()
    const bird = spawnSync('cat', [join(runDir, 'bird.pid')], { encoding: 'utf8' }).stdout.trim()
    if (bird) process.kill(Number(bird), 'SIGTERM')
    await lab.close()
  })
  const start = async () => {
    agent = await startAgent(lab, 'sw1', port, { birdCommand })
    await agent.line(isServing)
    return agent
  }
  await start()
  const client = await connect(lab, port)
  t.teardown(() => client.close())

  await t.test('they install, prove themselves and are confirmed', async (t) => {
    for (const [folder, capability] of [
      ['routing', 'SetConfig'],
      ['telemetry/releases/1.0.0', 'Get'],
      ['secrets', 'Status'],
    ] as const) {
      const installed = await put(client, lab, 'Install', `services/${folder}`)
      t.match(installed, { state: ChangeState.PROVISIONAL }, capability)
      t.match(await confirmed(lab, port, installed.id), { state: ChangeState.CONFIRMED })
    }
    const { services } = await client.unary(LifecycleMethods.List, {})
    t.same(services.map(({ service, version }) => `${service} ${version}`).sort(), ['routing 1.0.0', 'secrets 1.0.0', 'telemetry 1.0.0'])
    t.same(services.map(({ service, tier }) => `${service} ${tier}`).sort(), ['routing worker', 'secrets process', 'telemetry worker'])
    for (const { service, confinement } of services) t.ok(confinement.includes('ses'), `${service}: ${confinement.join(', ')}`)
  })

  await t.test('routing configures BIRD, and only what a fresh connection confirms stays', async (t) => {
    const config = {
      ...{ routerId: '10.9.8.1', localAs: 65_001, neighbors: [{ name: 'nobody', address: '10.9.8.2', peerAs: 65_002 }] },
      staticRoutes: [{ prefix: '192.0.2.0/24', blackhole: true }],
    }
    const { changeId, revision } = await client.unary(RoutingMethods.SetConfig, { config })
    await t.rejects(client.unary(LifecycleMethods.Confirm, { changeId }), { code: 'CONFIRM_NOT_FRESH' })
    await confirmed(lab, port, changeId)
    t.match(await client.unary(RoutingMethods.GetConfig, {}), { revision, provisional: false, config: { routerId: '10.9.8.1' } })
    const state = await client.unary(RoutingMethods.State, { routesMax: 10 })
    t.match(state, { routerId: '10.9.8.1', sessionsEstablished: 0, drained: false })
    t.ok(state.routes.some(({ prefix, best }) => prefix === '192.0.2.0/24' && best))
    t.match(await client.unary(RoutingMethods.SetConfig, { config }), { changeId: '', revision }, 'the same again changes nothing')
    await t.rejects(client.unary(RoutingMethods.SetConfig, { config: { ...config, routerId: '1;' } }), { code: 'CONFIG_INVALID', status: 3 })
  })

  await t.test('telemetry is upgraded under calls and a stream: each number once, none missing, answers from both versions', async (t) => {
    const { seen, versions, failed } = await calling(client, async () => {
      const upgraded = await put(client, lab, 'Upgrade', 'services/telemetry')
      await confirmed(lab, port, upgraded.id)
    })
    t.same(failed, [])
    t.same([...versions].sort(), ['1.0.0', '1.1.0'])
    t.same(
      seen.toSorted((a, b) => a - b),
      Array.from({ length: seen.length }, (_, index) => index + (Math.min(...seen) || 0)),
    )
    t.match(await client.unary(TelemetryMethods.Get, { callSequence: 7 }), {
      ...{ serviceVersion: '1.1.0', callSequence: 7, interfaces: [{ name: 'eth0' }], bgpSessions: [{ name: 'bgp_nobody', neighborAddress: '10.9.8.2' }] },
    })
  })

  await t.test('a telemetry that cannot start is refused with no call lost; one that turns unhealthy is reverted by the device alone', async (t) => {
    const { seen, versions, failed } = await calling(client, async () => {
      await t.rejects(put(client, lab, 'Upgrade', 'test/fixtures/services/telemetry-throws-at-start', '1.2.0'), { code: 'SWAP_ROLLED_BACK' })
    })
    t.same(failed, [])
    t.same([...versions], ['1.1.0'])
    t.equal(new Set(seen).size, seen.length)
    const change = await put(client, lab, 'Upgrade', 'test/fixtures/services/telemetry-unhealthy-after-3s', '1.2.0')
    t.equal((await client.unary(TelemetryMethods.Get, {})).serviceVersion, '1.2.0')
    await agent?.line((line) => line['msg'] === 'change' && line['change'] === change.id && line['state'] === 'reverted')
    const { sequence, serviceVersion } = await until('1.1.0 again', async () => await client.unary(TelemetryMethods.Get, {}).catch(() => undefined))
    t.equal(serviceVersion, '1.1.0')
    t.ok(sequence > Math.max(...seen) + 1, 'it goes on where the reverted one stopped')
  })

  await t.test('secrets rotates the certificate: new connections see it, the old one goes on', async (t) => {
    const before = (await client.unary(SecretsMethods.Status, {})).serial
    const call = client.bidi(SecretsMethods.RotateIdentity, { deadlineMs: 60_000 })
    const answers = call.responses[Symbol.asyncIterator]()
    await call.send({ begin: { reason: 'test' } })
    const csrPem = (await answers.next()).value?.csrPem ?? ''
    await call.send({ certificateChainPem: await signCsr(lab.ca, csrPem, { fleet: 'lab', role: 'device', id: 'sw1', nowMs: Date.now(), validMs: 3_600_000 }) })
    const installed = (await answers.next()).value?.installed
    t.ok(installed && installed.serial !== before)
    const fresh = await connect(lab, port)
    t.teardown(() => fresh.close())
    t.equal((await fresh.unary(DeviceMethods.Info, {})).certificateSerial, installed?.serial)
    await fresh.unary(LifecycleMethods.Confirm, { changeId: installed?.changeId ?? '' })
    t.match(await client.unary(SecretsMethods.Status, {}), { serial: installed?.serial, provisional: false, rotations: 1 }, 'over the connection from before')
  })

  await t.test('an agent killed and started again has its services, its configuration, the same BIRD and no number twice', async (t) => {
    const bird = readFileSync(join(runDir, 'bird.pid'), 'utf8')
    const { sequence } = await client.unary(TelemetryMethods.Get, {})
    await agent?.kill('SIGKILL')
    await start()
    const again = await connect(lab, port)
    t.teardown(() => again.close())
    const next = await until('telemetry', async () => await again.unary(TelemetryMethods.Get, {}).catch(() => undefined))
    t.ok(next.sequence > sequence)
    t.equal(readFileSync(join(runDir, 'bird.pid'), 'utf8'), bird)
    const state = await until('routing', async () => await again.unary(RoutingMethods.State, { routesMax: 10 }).catch(() => undefined))
    t.ok(state.routes.some(({ prefix }) => prefix === '192.0.2.0/24'))
    t.match(await again.unary(RoutingMethods.GetConfig, {}), { provisional: false, config: { routerId: '10.9.8.1' } })
  })
}

/** Installs or upgrades from a service folder, built as `offbox bundle build` does. */
async function put(client: RpcClient, lab: Lab, kind: 'Install' | 'Upgrade', folder: string, version?: string): Promise<Change> {
  const manifest = JSON.parse(readFileSync(join(root, folder, 'manifest.json'), 'utf8'))
  const code = Buffer.from(await payloadOf(`${folder}/service.ts`)).toString()
  const parts = { ...manifest, version: version ?? manifest.version }
  const order = { service: parts.name, version: parts.version, bakeMs: 0, confirmTimeoutMs: 60_000, reason: 'test' }
  return await send(client, kind, order, makeBundle(lab.key, parts, code))
}

async function confirmed(lab: Lab, port: number, changeId: string): Promise<Change> {
  const fresh = await connect(lab, port)
  try {
    return await fresh.unary(LifecycleMethods.Confirm, { changeId })
  } finally {
    fresh.close()
  }
}

/** Calls and streams all the while that `act` takes, and a little before and after. */
async function calling(client: RpcClient, act: () => Promise<void>): Promise<{ seen: number[]; versions: Set<string>; failed: unknown[] }> {
  const seen: number[] = []
  const versions = new Set<string>()
  const failed: unknown[] = []
  let ending = false
  const take = ({ sequence, serviceVersion }: { sequence: number; serviceVersion: string }) => {
    seen.push(sequence)
    versions.add(serviceVersion)
  }
  const callers = Array.from({ length: 4 }, async () => {
    while (!ending) await client.unary(TelemetryMethods.Get, {}).then(take, (error) => failed.push(error))
  })
  const stop = new AbortController()
  const streaming = (async () => {
    try {
      for await (const sample of client.serverStream(TelemetryMethods.Stream, { intervalMs: 100 }, { signal: stop.signal })) take(sample)
    } catch (error) {
      if (!stop.signal.aborted) failed.push(error)
    }
  })()
  const enough = async (more: number) => {
    const wanted = seen.length + more
    await until('more answers', () => seen.length >= wanted || failed.length > 0)
  }
  try {
    await enough(50)
    await act()
    await enough(50)
  } finally {
    ending = true
    await Promise.all(callers)
    stop.abort()
    await streaming
  }
  return { seen, versions, failed }
}
