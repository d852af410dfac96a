import { execFile } from 'node:child_process'
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { buildAll } from '../../../build.mjs'
import { readIdentity } from '../../../fleet/home/home.ts'
import { RpcClient } from '../../../fleet/rpc/client.ts'
import { AcctzStreamMethods } from '../../../proto/gen/acctz.ts'
import { AuditMethods } from '../../../proto/gen/audit.ts'
import { DeviceMethods } from '../../../proto/gen/device.ts'
import { type DeviceAudit, FleetMethods } from '../../../proto/gen/fleet.ts'
import { LifecycleMethods } from '../../../proto/gen/lifecycle.ts'
import { type AgentProcess, freePort, isServing, type Lab, startAgent } from '../../agent/agent-process.ts'
import { testFleet } from '../harness.ts'

const root = join(import.meta.dirname, '../../..')
const DEADLINE_MS = 90_000

t.test('a device tells all, the collector holds it, and whoever tampers with either is found out', { timeout: 600_000 }, async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'obx-collect-'))
  const fleet = await testFleet()
  const agents: AgentProcess[] = []
  t.teardown(async () => {
    for (const agent of agents) await agent.kill()
    await fleet.close()
    await rm(directory, { recursive: true, force: true })
  })
  await buildAll({ out: join(directory, 'dist') })
  await cp(fleet.home.anchors, join(directory, 'anchors.json'))
  await fleet.client.unary(FleetMethods.AddDevice, { deviceId: 'sw1', serial: 'SN-sw1', mac: '02:00:00:00:00:01' })
  const port = await freePort()
  const state = join(directory, 'sw1/state')
  const start = async () => {
    const lab = { directory, controllerPort: fleet.controller.enrolPort } as Lab
    const agent = await startAgent(lab, 'sw1', port)
    agents.push(agent)
    await agent.line(isServing)
    return agent
  }
  const held = async (enough: (audit: DeviceAudit) => boolean) => {
    for (const deadline = Date.now() + DEADLINE_MS; ; ) {
      const audit = await fleet.client.unary(FleetMethods.GetDeviceAudit, { deviceId: 'sw1' })
      if (enough(audit)) return audit
      if (Date.now() > deadline) throw new Error(`it never came so far: ${JSON.stringify({ ...audit, head: null })}`)
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  const device = async <T>(use: (client: RpcClient) => Promise<T>): Promise<T> => {
    const identity = await readIdentity(fleet.home, 'operator')
    const client = new RpcClient({ target: `127.0.0.1:${port}`, serverName: 'sw1.lab.offbox', caPem: fleet.anchors.caPem, identity })
    try {
      return await use(client)
    } finally {
      client.close()
    }
  }
  const offbox = async (...args: string[]) =>
    await new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
      const all = [join(root, 'fleet/cli/main.ts'), '--home', fleet.home.path, 'audit', ...args]
      execFile(process.execPath, all, { cwd: directory }, (error, stdout, stderr) => resolve({ code: Number(error?.code ?? 0), stdout, stderr }))
    })
  const signedChapters = ({ head }: DeviceAudit) => (head ? JSON.parse(Buffer.from(head.body).toString()).earlier.count + 1 : 0)
  const newest = ({ chapters }: DeviceAudit) => chapters.at(-1)

  let agent = await start()
  const one = await held(({ countersigned }) => countersigned > 0)
  t.match(one.chapters, [{ reason: 'first', after: 0 }])
  await device(async (client) => {
    for (let call = 0; call < 30; call++) await client.unary(DeviceMethods.Ping, { payload: new Uint8Array(call) })
    await t.rejects(client.unary(LifecycleMethods.Remove, { service: 'nothing', reason: 'a try' }), { code: 'SERVICE_NOT_FOUND' })
    await t.rejects(client.unary(AuditMethods.Acknowledge, { head: one.head }), { code: 'ROLE_DENIED' }, 'only a controller acknowledges')
  })
  const two = await held((audit) => audit.countersigned >= one.countersigned + 32)
  const status = await device(async (client) => {
    for (;;) {
      const now = await client.unary(AuditMethods.Status, {})
      if (now.acknowledged >= two.countersigned) return now
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  })
  t.equal(status.chain, newest(two)?.chain)
  t.equal(status.full, false)
  t.ok(status.acknowledgedAtMs > 0)

  await device(async (client) => {
    const gone = new AbortController()
    for await (const record of client.serverStream(AcctzStreamMethods.RecordSubscribe, { timestamp: null }, { signal: gone.signal })) {
      if (record.grpcService?.rpcName !== '/offbox.v1.Lifecycle/Remove') continue
      t.match(record, {
        sessionInfo: {
          remoteAddress: /127\.0\.0\.1$/,
          localPort: port,
          ipProto: 6,
          user: { identity: 'spiffe://lab/operator/admin', role: 'operator' },
          authn: { type: 5, status: 1 },
        },
        timestamp: { seconds: Number },
        historyIstruncated: false,
        grpcService: { payloadIstruncated: true, stringVal: /^sha256:[0-9a-f]{64}$/, authz: { status: 1, detail: 'SERVICE_NOT_FOUND' } },
      })
      gone.abort()
    }
  })

  await agent.kill('SIGKILL')
  agent = await start()
  const three = await held((audit) => audit.countersigned > two.countersigned)
  t.equal(three.chapters.length, 1, 'a killed agent goes on with its log')
  await fleet.restart()
  await device(async (client) => await client.unary(DeviceMethods.Ping, { payload: new Uint8Array() }))
  const four = await held((audit) => audit.countersigned > three.countersigned)
  t.equal(four.chapters.length, 1, 'a restarted collector goes on where it was')
  await cp(join(state, 'audit'), join(directory, 'stolen'), { recursive: true })
  const stolen = (await device(async (client) => await client.unary(AuditMethods.Status, {}))).sequence

  t.equal((await offbox('export', 'sw1', '--out', 'sw1.audit')).code, 0)
  const good = await offbox('verify', 'sw1.audit', '--head', 'sw1.audit.head')
  t.match(good, { code: 0, stdout: /records in 1 chapter, each in its place and signed for by sw1/ })
  const elsewhere = await offbox('verify', 'sw1.audit', '--head', 'sw1.audit.head', '--anchors', join(directory, 'anchors.json'), '--device', 'sw1')
  t.equal(elsewhere.code, 0, 'public keys are all that it takes')
  const text = await readFile(join(directory, 'sw1.audit'), 'utf8')
  const tampered = async (name: string, forged: string) => {
    await writeFile(join(directory, 'forged.audit'), forged)
    const { code, stdout } = await offbox('verify', 'forged.audit', '--head', 'sw1.audit.head')
    t.equal(code, 1, name)
    t.match(stdout, /FOUND/, name)
  }
  t.ok(text.includes('SERVICE_NOT_FOUND'))
  await tampered('a changed outcome', text.replace('SERVICE_NOT_FOUND', 'OK'))
  await tampered('a lost line', text.replace(/^\{"sequence":7,.*\n/m, ''))
  await tampered('another device', text.replace('"deviceId":"sw1"', '"deviceId":"sw2"'))
  await tampered('nothing at all', '')
  t.match((await offbox('tail', 'sw1', '--last', '3', '--json')).stdout.trim().split('\n').length, 3)
  t.match((await offbox('status')).stdout, /sw1/)

  for (let call = 0; call < 5; call++) await device(async (client) => await client.unary(DeviceMethods.Ping, { payload: new Uint8Array() }))
  const five = await held((audit) => audit.countersigned >= four.countersigned + 5)
  await agent.kill('SIGTERM')
  await rm(join(state, 'audit'), { recursive: true })
  agent = await start()
  const six = await held(({ chapters, countersigned }) => chapters.length === 2 && countersigned > 0 && countersigned < five.countersigned)
  t.match(six.chapters, [{ reason: 'first' }, { reason: 'new log', after: 0 }], 'a wiped device begins anew, and that is on record')
  t.equal((await offbox('export', 'sw1', '--out', 'wiped.audit')).code, 0)
  t.match(
    await offbox('verify', 'wiped.audit', '--head', 'sw1.audit.head'),
    { code: 0, stdout: /Not in it: chapter 2: the device began a new log/ },
    'also by what was signed before',
  )
  t.equal((await offbox('verify', 'sw1.audit', '--head', 'wiped.audit.head')).code, 1, 'an older export does not pass for a newer one')

  for (const chapters of [3, 4]) {
    await agent.kill('SIGTERM')
    await rm(join(state, 'audit'), { recursive: true })
    await cp(join(directory, 'stolen'), join(state, 'audit'), { recursive: true })
    agent = await start()
    for (let call = 0; call < 5; call++) await device(async (client) => await client.unary(DeviceMethods.Ping, { payload: new Uint8Array() }))
    const set = await held((audit) => audit.chapters.length === chapters && audit.countersigned > stolen && signedChapters(audit) === chapters)
    t.equal(newest(set)?.reason, 'forked', 'a device that was set back shows another past')
  }
  t.equal((await offbox('export', 'sw1', '--out', 'forked.audit')).code, 0)
  t.match(await offbox('verify', 'forked.audit', '--head', 'forked.audit.head'), { code: 1, stdout: /FOUND.*its log was forked/ })
  t.ok(
    fleet.lines.some((line) => JSON.stringify(line).includes('its audit log was forked')),
    'and somebody is told',
  )
  t.same((await readdir(join(fleet.home.path, 'audit'))).sort(), ['sw1'])
})
