import { createServer as createTcpServer, connect } from 'node:net'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { systemClock } from '../../../core/clock.ts'
import { makeCsr, makeIdentity } from '../../../core/x509.ts'
import { admitOperator } from '../../../fleet/controller/controller.ts'
import { startController } from '../../../fleet/controller/controller.ts'
import { Home, readCa } from '../../../fleet/home/home.ts'
import { initHome } from '../../../fleet/home/init.ts'
import { RpcClient } from '../../../fleet/rpc/client.ts'
import { EnrolMethods } from '../../../proto/gen/enrol.ts'
import { FleetMethods } from '../../../proto/gen/fleet.ts'
import { memoryLog, type TestFleet, testFleet } from '../harness.ts'

async function withFleet(run: (fleet: TestFleet) => Promise<void>): Promise<void> {
  const fleet = await testFleet()
  try {
    await run(fleet)
  } finally {
    await fleet.close()
  }
}

const server = (fleet: TestFleet) => ({ serverName: `controller.${fleet.anchors.fleet}.offbox`, caPem: fleet.anchors.caPem })

t.test('a second controller on the same home is refused and the first goes on', async (t) => {
  await withFleet(async (fleet) => {
    const second = startController({ home: fleet.home.path, clock: systemClock, log: memoryLog([]), apiPort: 0, enrolPort: 0 })
    await t.rejects(second, { code: 'HOME_IN_USE' })
    t.same((await fleet.client.unary(FleetMethods.ListDevices, {})).devices, [])
  })
})

t.test('a port in use is named, and nothing is left behind', async (t) => {
  const home = new Home(join(t.testdir(), 'home'))
  await initHome(home.path, { nowMs: Date.now() })
  const taken = createTcpServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => taken.once('listening', resolve))
  const { port } = taken.address() as { port: number }
  const start = async (enrolPort: number) => await startController({ home: home.path, clock: systemClock, log: memoryLog([]), apiPort: 0, enrolPort })
  await t.rejects(start(port), { code: 'PORT_TAKEN', message: new RegExp(`127\\.0\\.0\\.1:${port} is in use`) })
  taken.close()
  await (await start(0)).close()
})

t.test('the unix socket serves operators of this home', async (t) => {
  await withFleet(async (fleet) => {
    const { readIdentity } = await import('../../../fleet/home/home.ts')
    const client = new RpcClient({ target: `unix:${fleet.controller.socket}`, ...server(fleet), identity: await readIdentity(fleet.home, 'operator') })
    t.same((await client.unary(FleetMethods.ListDevices, {})).devices, [])
    client.close()
  })
})

t.test('a device cannot command the fleet, and nobody can without a certificate', async (t) => {
  await withFleet(async (fleet) => {
    const ca = await readCa(fleet.home)
    const target = `127.0.0.1:${fleet.controller.apiPort}`
    const names = { fleet: 'lab', id: 'sw1', validMs: 60_000, nowMs: Date.now() }
    for (const identity of [await makeIdentity(ca, { ...names, role: 'device' }), await makeIdentity(ca, { ...names, role: 'service' }), undefined]) {
      const client = new RpcClient({ target, ...server(fleet), ...(identity ? { identity } : {}) }, 'CONTROLLER_UNREACHABLE')
      await t.rejects(client.unary(FleetMethods.ListDevices, {}), { code: 'CONTROLLER_UNREACHABLE' })
      client.close()
    }
    t.throws(() => admitOperator('lab', { principal: 'spiffe://lab/device/sw1' }), { code: 'ROLE_DENIED' })
    t.throws(() => admitOperator('lab', { principal: 'spiffe://other/operator/admin' }), { code: 'ROLE_DENIED' })
    t.throws(() => admitOperator('lab', { principal: 'spiffe://lab/operator/admin/x' }), { code: 'ROLE_DENIED' })
    t.throws(() => admitOperator('lab', { principal: '' }), { code: 'ROLE_DENIED' })
    admitOperator('lab', { principal: 'spiffe://lab/operator/admin' })
  })
})

t.test('enrolment signs for what was registered and for nothing else, under names of its own', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.client.unary(FleetMethods.AddDevice, { deviceId: 'sw1', serial: 'SN-1', mac: '52:54:00:00:00:01' })
    const client = new RpcClient({ target: `127.0.0.1:${fleet.controller.enrolPort}`, ...server(fleet) })
    const { csrPem } = await makeCsr('root of everything')
    const request = {
      csrPem,
      serial: 'SN-1',
      mac: '52:54:00:00:00:01',
      address: '127.0.0.1',
      port: 9339,
      bootId: 'abc123',
      boot: 'local',
      agentVersion: '0',
      uptimeMs: 1,
    }
    const { readLeaf } = await import('../../../core/x509.ts')
    const leaf = readLeaf((await client.unary(EnrolMethods.Enrol, request)).certificateChainPem)
    t.equal(leaf.spiffeId, 'spiffe://lab/device/sw1')
    t.same(leaf.dnsNames, ['sw1.lab.offbox'])
    await t.rejects(client.unary(EnrolMethods.Enrol, { ...request, serial: 'SN-2' }), { code: 'DEVICE_NOT_REGISTERED' })
    await t.rejects(client.unary(EnrolMethods.Enrol, { ...request, mac: '52:54:00:00:00:02' }), { code: 'DEVICE_NOT_REGISTERED' })
    await t.rejects(client.unary(EnrolMethods.Enrol, { ...request, csrPem: 'nonsense' }), { code: 'CSR_INVALID' })
    await t.rejects(client.unary(EnrolMethods.Enrol, { ...request, address: 'evil.example' }), { code: 'ARGUMENT_INVALID' })
    await t.rejects(client.unary(EnrolMethods.Enrol, { ...request, port: 0 }), { code: 'ARGUMENT_INVALID' })
    t.ok(fleet.lines.some((line) => line.message === 'enrolment refused' && line.serial === 'SN-2'))
    const flood = await Promise.allSettled(Array.from({ length: 40 }, async () => await client.unary(EnrolMethods.Enrol, { ...request, serial: 'SN-9' })))
    t.ok(
      flood.some((one) => one.status === 'rejected' && (one.reason as { code: string }).code === 'LIMIT_REACHED'),
      'a flood is slowed down',
    )
    client.close()
  })
})

t.test('a wrong registration is refused with the field, and one that exists with whose it is', async (t) => {
  await withFleet(async (fleet) => {
    const add = async (deviceId: string, serial: string, mac: string) => await fleet.client.unary(FleetMethods.AddDevice, { deviceId, serial, mac })
    const good = await add('sw1', 'SN-1', '52:54:00:00:00:AA')
    t.equal(good.mac, '52:54:00:00:00:aa')
    t.equal((await add('sw1', 'SN-1', '52:54:00:00:00:aa')).deviceId, 'sw1', 'the same again is answered')
    await t.rejects(add('sw2', 'SN-1', '52:54:00:00:00:02'), { code: 'DEVICE_EXISTS', message: /serial belongs to sw1/ })
    await t.rejects(add('sw1', 'SN-2', '52:54:00:00:00:02'), { code: 'DEVICE_EXISTS' })
    for (const [id, serial, mac] of [
      ['../x', 'S', '52:54:00:00:00:02'],
      ['', 'S', '52:54:00:00:00:02'],
      ['sw2', '', '52:54:00:00:00:02'],
      ['sw2', 'a\nb', '52:54:00:00:00:02'],
      ['sw2', 'S', '01:00:00:00:00:00'],
      ['sw2', 'S', 'x'],
    ] as const) {
      await t.rejects(add(id, serial, mac), { code: 'ARGUMENT_INVALID' }, `${id} ${serial} ${mac}`)
    }
    await t.rejects(fleet.desire('sw9', {}), { code: 'DEVICE_NOT_FOUND' })
    await t.rejects(fleet.desire('sw1', { telemetry: '1.0.0' }), { code: 'BUNDLE_NOT_FOUND' })
    await t.rejects(fleet.desire('sw1', { telemetry: 'latest' }), { code: 'ARGUMENT_INVALID' })
    await t.rejects(fleet.desire('sw1', {}, new Uint8Array([0xff, 0xff])), { code: 'CONFIG_INVALID' })
  })
})

t.test('a device record that rots is shown as such, keeps nobody else from working, and can be registered anew', async (t) => {
  await withFleet(async (fleet) => {
    await fleet.device('sw1')
    await fleet.client.unary(FleetMethods.AddDevice, { deviceId: 'sw2', serial: 'SN-2', mac: '52:54:00:00:00:02' })
    await mkdir(fleet.home.devices, { recursive: true })
    await writeFile(join(fleet.home.devices, 'sw2.json'), '{"schema": 1, "deviceId": "sw2"')
    await fleet.restart()
    const { devices } = await fleet.client.unary(FleetMethods.ListDevices, {})
    t.match(devices, [{ deviceId: 'sw1' }, { deviceId: 'sw2', phase: 'failed', reason: /STORE_CORRUPT.*register it again/ }])
    await fleet.phase('sw1', 'in-sync')
    await fleet.client.unary(FleetMethods.AddDevice, { deviceId: 'sw2', serial: 'SN-2', mac: '52:54:00:00:00:02' })
    t.equal((await fleet.get('sw2')).phase, 'registered')
  })
})

t.test('garbage on the ports disturbs nobody', async (t) => {
  await withFleet(async (fleet) => {
    for (const port of [fleet.controller.apiPort, fleet.controller.enrolPort]) {
      for (const bytes of ['GET / HTTP/1.1\r\n\r\n', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', '\0'.repeat(1_000)]) {
        const socket = connect(port, '127.0.0.1', () => socket.write(bytes))
        socket.on('error', () => {})
        await new Promise((resolve) => socket.once('close', resolve))
      }
    }
    t.ok(fleet.lines.some((line) => line.message === 'connection refused'))
    t.same((await fleet.client.unary(FleetMethods.ListDevices, {})).devices, [])
  })
})
