import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect as connectPlain, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { connect as connectTls, type TLSSocket, type ConnectionOptions } from 'node:tls'
import t from 'tap'
import { AuditLog } from '../../../agent/audit/log.ts'
import { createFront, type Front } from '../../../agent/api/front.ts'
import { Gate } from '../../../agent/api/gate.ts'
import { Serve } from '../../../agent/api/serve.ts'
import { connectionsPerAddressMax } from '../../../agent/limits.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import type { AuditEvent } from '../../../core/audit/record.ts'
import { systemClock as clock } from '../../../core/clock.ts'
import { OffboxError } from '../../../core/errors.ts'
import { type CertificateAuthority, makeCa, makeIdentity, type Role } from '../../../core/x509.ts'
import { RpcClient } from '../../../fleet/rpc/client.ts'
import { DeviceMethods } from '../../../proto/gen/device.ts'
import { freePort } from '../agent-process.ts'

const dayMs = 86_400_000
const log = { info: () => {}, warn: () => {}, error: () => {} }
let ca: CertificateAuthority
let front: Front
let port: number
let records: AuditEvent[] = []
let refused: string[] = []
let answerPing: () => object = () => ({ payload: new Uint8Array(), timeMs: 1, bootId: 'x' })

const identityOf = async (role: Role, id: string) => await makeIdentity(ca, { fleet: 'lab', role, id, nowMs: Date.now(), validMs: dayMs })
const served = async (id = 'sw1') => {
  const { keyPem, certificatePem } = await identityOf('device', id)
  return { deviceId: id, keyPem, chainPem: certificatePem }
}

t.beforeEach(async (t) => {
  ca = await makeCa('lab', { nowMs: Date.now(), validMs: dayMs })
  port = await freePort()
  records = []
  refused = []
  front = createFront({
    address: '127.0.0.1',
    port,
    fleet: 'lab',
    caPem: ca.certificatePem,
    identity: await served(),
    clock,
    log,
    refused: (_, what) => void refused.push(what),
  })
  const show = (event: AuditEvent) => void (event.decision === 'note' || records.push(event))
  const sign = () => {
    throw new Error('nothing is signed here')
  }
  const directory = join(await mkdtemp(join(tmpdir(), 'obx-front-')), 'audit')
  const audit = await AuditLog.open({ directory, clock, bootId: 'b', atomic: new AtomicFiles(), show, log, sign })
  const serve = new Serve({ server: front.server, gate: new Gate(front, audit, clock), log })
  serve.unary(DeviceMethods.Ping, () => answerPing() as never)
  serve.others()
  await front.listen()
  t.teardown(async () => {
    await front.close()
    await audit.close()
    await rm(dirname(directory), { recursive: true })
  })
})

async function client(identity?: { keyPem: string; certificatePem: string }): Promise<RpcClient> {
  const own = identity ?? (await identityOf('operator', 'me'))
  const made = new RpcClient({ target: `127.0.0.1:${port}`, serverName: 'sw1.lab.offbox', caPem: ca.certificatePem, identity: own })
  return made
}

/** Resolves when the server has cut the socket. */
async function cut(socket: Socket | TLSSocket): Promise<void> {
  socket.on('error', () => {})
  socket.resume()
  if (socket.closed) return
  await new Promise((resolve) => socket.once('close', resolve))
}

async function tls(over: ConnectionOptions): Promise<TLSSocket> {
  const { keyPem, certificatePem } = await identityOf('operator', 'me')
  return connectTls({
    host: '127.0.0.1',
    port,
    ca: ca.certificatePem,
    servername: 'sw1.lab.offbox',
    key: keyPem,
    cert: certificatePem,
    ALPNProtocols: ['h2'],
    ...over,
  })
}

t.test('a call is authorized, answered and leaves one audit record', async (t) => {
  const one = await client()
  t.match(await one.unary(DeviceMethods.Ping, { payload: new Uint8Array() }), { bootId: 'x' })
  t.match(records, [{ principal: 'spiffe://lab/operator/me', method: '/offbox.v1.Device/Ping', decision: 'allow', status: 'OK', durationMs: Number }])
  one.close()
})

t.test('an error of the table keeps its code and status; what is not ours to tell goes out as an id', async (t) => {
  const one = await client()
  answerPing = () => {
    throw new OffboxError('STORE_FULL', 'no space')
  }
  await t.rejects(one.unary(DeviceMethods.Ping, { payload: new Uint8Array() }), { code: 'STORE_FULL', status: 8, message: 'no space' })
  answerPing = () => {
    throw new Error('password is hunter2')
  }
  await t.rejects(one.unary(DeviceMethods.Ping, { payload: new Uint8Array() }), { code: 'INTERNAL', status: 13, message: /^report the id [0-9a-f]{12}$/ })
  answerPing = () => ({ payload: new Uint8Array(), timeMs: 1, bootId: 'x' })
  const raw = { encode: () => new Uint8Array([0xff, 0xff]), decode: () => ({}) }
  await t.rejects(
    one.unary({ ...DeviceMethods.Ping, request: raw } as never, {} as never),
    { code: 'ARGUMENT_INVALID', status: 3 },
    'bytes that are no message',
  )
  one.close()
})

t.test('a method that nobody serves is METHOD_NOT_FOUND, for every kind of call, and audited', async (t) => {
  const one = await client()
  const nothing = { ...DeviceMethods.Ping, path: '/test.Nothing/Here' }
  const wanted = { code: 'METHOD_NOT_FOUND', status: 12 }
  await t.rejects(one.unary(nothing, { payload: new Uint8Array() }), wanted)
  await t.rejects(one.clientStream(nothing as never, [{ payload: new Uint8Array() }, { payload: new Uint8Array() }] as never), wanted)
  const all = async () => {
    for await (const item of one.serverStream(nothing as never, { payload: new Uint8Array() } as never)) t.fail(`${item}`)
  }
  await t.rejects(all(), wanted)
  await t.rejects(one.unary({ ...nothing, path: '/offbox.v1.Device/Nothing' }, { payload: new Uint8Array() }), { code: 'ROLE_DENIED', status: 7 })
  t.same(
    records.map(({ status }) => status),
    ['METHOD_NOT_FOUND', 'METHOD_NOT_FOUND', 'METHOD_NOT_FOUND', 'ROLE_DENIED'],
  )
  one.close()
})

t.test('what is not TLS 1.3, not HTTP/2, or says nothing is cut', async (t) => {
  await cut(await tls({ minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }))
  const { keyPem, certificatePem } = await identityOf('operator', 'me')
  const bare = connectTls({ host: '127.0.0.1', port, ca: ca.certificatePem, servername: 'sw1.lab.offbox', key: keyPem, cert: certificatePem })
  await cut(bare)
  await cut(await tls({ ALPNProtocols: ['http/1.1'] }))
  const rubbish = connectPlain(port, '127.0.0.1')
  rubbish.write('GET / HTTP/1.1\r\n\r\n')
  await cut(rubbish)
  const silent = connectPlain(port, '127.0.0.1')
  await cut(silent)
  t.ok(front.refused >= 5)
})

t.test('certificates of devices, services and other fleets are refused', async (t) => {
  for (const role of ['device', 'service'] as const) {
    const one = await client(await identityOf(role, 'x'))
    await t.rejects(one.unary(DeviceMethods.Ping, { payload: new Uint8Array() }, { deadlineMs: 3_000 }), role)
    one.close()
  }
  const other = await client(await makeIdentity(ca, { fleet: 'other', role: 'operator', id: 'me', nowMs: Date.now(), validMs: dayMs }))
  await t.rejects(other.unary(DeviceMethods.Ping, { payload: new Uint8Array() }, { deadlineMs: 3_000 }), 'another fleet under the same CA')
  other.close()
  const expired = await client(await makeIdentity(ca, { fleet: 'lab', role: 'operator', id: 'me', nowMs: Date.now() - 2 * dayMs, validMs: dayMs }))
  await t.rejects(expired.unary(DeviceMethods.Ping, { payload: new Uint8Array() }, { deadlineMs: 3_000 }), 'expired')
  expired.close()
  t.same(records, [], 'none of them reached a method')
  t.ok(refused.includes('connection refused') && refused.includes('TLS handshake refused'), 'each is told all the same')
})

t.test('one address cannot take every slot, and slots come back', async (t) => {
  const held = Array.from({ length: connectionsPerAddressMax }, () => connectPlain(port, '127.0.0.1'))
  await Promise.all(held.map(async (socket) => await once(socket, 'connect')))
  await cut(connectPlain(port, '127.0.0.1'))
  for (const socket of held) socket.destroy()
  const one = await client()
  const retry = async (): Promise<unknown> => await one.unary(DeviceMethods.Ping, { payload: new Uint8Array() }, { deadlineMs: 3_000 }).catch(retry)
  t.match(await retry(), { bootId: 'x' })
  one.close()
})

t.test('a rotated certificate serves new connections and drops none', async (t) => {
  const before = await client()
  await before.unary(DeviceMethods.Ping, { payload: new Uint8Array() })
  const serials: string[] = []
  const look = async () => {
    const socket = await tls({})
    await once(socket, 'secureConnect')
    serials.push(socket.getPeerCertificate().serialNumber)
    socket.destroy()
  }
  await look()
  front.rotate(await served())
  await look()
  t.not(serials[0], serials[1])
  await cut(await tls({ minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }))
  t.match(await before.unary(DeviceMethods.Ping, { payload: new Uint8Array() }), { bootId: 'x' })
  t.equal(new Set(records.map(({ peer }) => peer)).size, 1, 'over the connection it had')
  const wrong = { keyPem: (await served()).keyPem, chainPem: (await served()).chainPem }
  t.throws(() => front.rotate(wrong), 'a key of another certificate')
  t.match(await before.unary(DeviceMethods.Ping, { payload: new Uint8Array() }), { bootId: 'x' })
  before.close()
})
