/** The controller with one real agent, as a process on loopback: enrolment, first services, a good rollout, a bad one, a rotation. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { deviceDnsName } from '../../core/x509.ts'
import { checkReceipts } from '../../fleet/device/receipts.ts'
import { readIdentity } from '../../fleet/home/home.ts'
import { buildBundle, signBundle } from '../../fleet/registry/make.ts'
import { RpcClient } from '../../fleet/rpc/client.ts'
import { FleetMethods } from '../../proto/gen/fleet.ts'
import { TelemetryMethods } from '../../proto/gen/telemetry.ts'
import { testFleet, type TestFleet, until } from './harness.ts'

const root = join(import.meta.dirname, '../..')
const agentFile = join(root, 'dist/agent/main.mjs')
const missing = existsSync(agentFile) ? false : 'dist/agent/main.mjs is not built (node build.mjs)'

t.setTimeout(300_000)

/** What the command prints. */
async function offbox(home: string, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [join(root, 'fleet/cli/offbox.mjs'), ...args, '--home', home], { maxBuffer: 16 * 1024 * 1024 })
  return stdout
}

t.test('a real agent is enrolled, supplied, upgraded by a rollout, protected from a bad version, and rotated', { skip: missing }, async (t) => {
  const fleet = await testFleet()
  const agent = new Agent(fleet)
  try {
    for (const [folder, version] of [
      ['services/telemetry/releases/1.0.0', '1.0.0'],
      ['services/telemetry', '1.1.0'],
      ['services/secrets', '1.0.0'],
      ['test/fixtures/services/telemetry-throws-at-start', '1.2.0'],
      ['test/fixtures/services/telemetry-unhealthy-after-3s', '1.3.0'],
    ] as const) {
      const { file } = await buildBundle(join(root, folder), version)
      await fleet.client.clientStream(FleetMethods.PutBundle, [
        { chunk: signBundle(file, fleet.key).subarray(0, 200_000) },
        { chunk: signBundle(file, fleet.key).subarray(200_000) },
      ])
    }
    await fleet.client.unary(FleetMethods.AddDevice, { deviceId: 'sw1', serial: 'SN-1', mac: '52:54:00:00:00:01' })
    await fleet.desire('sw1', { telemetry: '1.0.0', secrets: '1.0.0' })
    await agent.start()
    const first = await until(
      'sw1 is in sync',
      async () => await fleet.get('sw1'),
      (device) => device.phase === 'in-sync',
    ).catch((error) => {
      throw new Error(`${error.message}\n${agent.output.slice(-4_000)}`)
    })
    t.equal(first.enrolments, 1)
    t.equal(first.info?.deviceId, 'sw1')

    const call = await agent.client()
    const calls: { version: string; sequence: number }[] = []
    const stop = new AbortController()
    const calling = (async () => {
      while (!stop.signal.aborted) {
        const { serviceVersion: version, sequence } = await call.unary(TelemetryMethods.Get, { callSequence: 1 })
        calls.push({ version, sequence })
      }
    })()

    await fleet.rollout({ version: '1.1.0', bakeMs: 1_000, confirmTimeoutMs: 30_000 })
    const good = await fleet.ended('')
    t.equal(good.state, 'succeeded', good.reason)
    await until(
      '1.1.0 answers',
      async () => calls.at(-1)?.version,
      (version) => version === '1.1.0',
    )

    await fleet.rollout({ version: '1.2.0', bakeMs: 1_000, confirmTimeoutMs: 30_000 })
    const bad = await fleet.ended('r-0002')
    t.equal(bad.state, 'stopped', bad.reason)
    t.match(bad.devices[0], { state: 'reverted', error: 'SWAP_ROLLED_BACK' })

    await fleet.rollout({ version: '1.3.0', bakeMs: 8_000, confirmTimeoutMs: 30_000 })
    const sick = await fleet.ended('r-0003')
    t.equal(sick.state, 'stopped', sick.reason)
    t.match(sick.devices[0], { state: 'reverted', error: 'SWAP_ROLLED_BACK' }, sick.reason)
    await until(
      '1.1.0 answers again',
      async () => calls.at(-1)?.version,
      (version) => version === '1.1.0',
    )

    const before = (await fleet.get('sw1')).info?.certificateSerial
    const rotation = await fleet.client.unary(FleetMethods.RotateDeviceIdentity, { deviceId: 'sw1', reason: 'test' }, { deadlineMs: 60_000 })
    t.equal(rotation.oldSerial, before)
    t.equal((await fleet.get('sw1')).info?.certificateSerial, rotation.newSerial)

    const { receipts } = await fleet.client.unary(FleetMethods.ListDeviceReceipts, { deviceId: 'sw1' })
    const checked = checkReceipts(receipts, { ...fleet.anchors, deviceId: 'sw1' })
    t.same(checked.gaps, [], 'its receipts are a chain')
    const ofTelemetry = checked.receipts.filter(({ service }) => service === 'telemetry').map(({ to, outcome }) => `${to} ${outcome}`)
    t.same(ofTelemetry, ['1.0.0 confirmed', '1.1.0 confirmed', '1.2.0 rolled back', '1.3.0 reverted'])
    const shown = join(fleet.home.path, 'receipts.json')
    await writeFile(shown, await offbox(fleet.home.path, 'service', 'receipts', 'sw1', '--controller', `127.0.0.1:${fleet.controller.apiPort}`, '--json'))
    t.match(await offbox(fleet.home.path, 'service', 'receipts', '--verify', shown), /Every signature is that of sw1/)
    await writeFile(shown, (await readFile(shown, 'utf8')).replaceAll('rolled back', 'confirmed'))
    await t.rejects(offbox(fleet.home.path, 'service', 'receipts', '--verify', shown), { message: /CERTIFICATE_INVALID.*signature/ })

    stop.abort()
    await calling
    call.close()
    const numbers = calls.map(({ sequence }) => sequence)
    t.equal(new Set(numbers).size, numbers.length, 'no sample number came twice')
    t.ok(calls.some(({ version }) => version === '1.0.0') && calls.some(({ version }) => version === '1.1.0'))

    // A diskless device: all it had is gone, and it comes back by itself.
    await agent.stop('SIGKILL')
    await agent.wipe()
    await agent.start()
    const again = await until(
      'it enrolled again and is in sync',
      async () => await fleet.get('sw1'),
      (device) => device.enrolments >= 2 && device.phase === 'in-sync',
    ).catch((error) => {
      throw new Error(`${error.message}\n${agent.output.slice(-4_000)}`)
    })
    t.ok(again.inSyncAtMs > again.enrolledAtMs)
    const { services } = await fleet.client.unary(FleetMethods.ListDeviceServices, { deviceId: 'sw1' })
    t.same(
      services.map(({ service, version }) => `${service} ${version}`),
      ['secrets 1.0.0', 'telemetry 1.1.0'],
    )
  } finally {
    await agent.stop('SIGTERM')
    await fleet.close()
  }
})

class Agent {
  output = ''
  port = 0
  readonly #fleet: TestFleet
  #lives = 0
  #process: ChildProcess | null = null

  constructor(fleet: TestFleet) {
    this.#fleet = fleet
  }

  get #directory(): string {
    return join(dirname(this.#fleet.home.path), `agent-${this.#lives}`)
  }

  async start(): Promise<void> {
    this.port ||= await freePort()
    await mkdir(this.#directory, { recursive: true })
    const config = {
      boot: 'local',
      serial: 'SN-1',
      mac: '52:54:00:00:00:01',
      address: '127.0.0.1',
      port: this.port,
      stateDir: join(this.#directory, 'state'),
      runDir: join(this.#directory, 'run'),
      controller: { address: '127.0.0.1', port: this.#fleet.controller.enrolPort },
      anchorsFile: this.#fleet.home.anchors,
      birdCommand: '/usr/sbin/bird-is-not-wanted-here',
      ipCommand: '/sbin/ip',
    }
    const file = join(this.#directory, 'config.json')
    await writeFile(file, JSON.stringify(config))
    const child = spawn(process.execPath, [agentFile, '--config', file], { stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (this.output += chunk))
    this.#process = child
  }

  async stop(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    child.kill(signal)
    const timer = setTimeout(() => child.kill('SIGKILL'), 15_000)
    await ended
    clearTimeout(timer)
  }

  /** The next start finds nothing of this life. */
  async wipe(): Promise<void> {
    this.#lives++
  }

  async client(): Promise<RpcClient> {
    const { anchors, home } = this.#fleet
    const identity = await readIdentity(home, 'operator')
    return new RpcClient({ target: `127.0.0.1:${this.port}`, serverName: deviceDnsName(anchors.fleet, 'sw1'), caPem: anchors.caPem, identity })
  }
}

async function freePort(): Promise<number> {
  return await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
