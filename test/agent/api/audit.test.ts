import t from 'tap'
import { Audit } from '../../../agent/api/audit.ts'
import { Gate } from '../../../agent/api/gate.ts'
import { auditBytesMax, auditQueueMax } from '../../../agent/limits.ts'
import { createLog, showAudit } from '../../../agent/log.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { failure, FakeFileSystem } from '../../fakes/file-system.ts'

const path = '/state/audit.log'
const log = { error: () => {} }
const make = (disk: FakeFileSystem, clock = new FakeClock()) => ({ audit: new Audit({ path, clock, show: () => {}, log, files: disk }), clock })
const linesOf = async (disk: FakeFileSystem, file = path) =>
  Buffer.from((await disk.read(file)) ?? [])
    .toString()
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>)

t.test('an intent is on disk when it resolves, with everything that waited before it', async (t) => {
  const disk = new FakeFileSystem()
  const { audit } = make(disk)
  audit.record({ principal: 'a', method: '/read', decision: 'allow', status: 'OK' })
  await audit.intent({ principal: 'b', method: '/change', decision: 'intent' })
  t.match(await linesOf(disk.restarted('power')), [
    { method: '/read', atMs: Number },
    { method: '/change', decision: 'intent' },
  ])
})

t.test('reads are written together within a second', async (t) => {
  const disk = new FakeFileSystem()
  const { audit, clock } = make(disk)
  for (let at = 0; at < 50; at++) audit.record({ principal: 'a', method: `/read${at}`, decision: 'allow' })
  t.same(await linesOf(disk), [])
  await clock.advance(1_000)
  t.equal((await linesOf(disk.restarted('power'))).length, 50)
})

t.test('a full disk refuses an intent and keeps what waits', async (t) => {
  const disk = new FakeFileSystem()
  const { audit } = make(disk)
  audit.record({ principal: 'a', method: '/read', decision: 'allow' })
  disk.before = () => {
    throw failure('ENOSPC')
  }
  await t.rejects(audit.intent({ principal: 'b', method: '/change', decision: 'intent' }), { code: 'STORE_FULL' })
  disk.before = () => {}
  await audit.intent({ principal: 'b', method: '/next', decision: 'intent' })
  t.match(await linesOf(disk), [{ method: '/read' }, { method: '/next' }])
})

t.test('the log is bounded on disk and in memory, and says how much it dropped', async (t) => {
  const disk = new FakeFileSystem()
  const { audit } = make(disk)
  const filler = 'x'.repeat(100_000)
  for (let at = 0; at < 25; at++) await audit.intent({ principal: 'a', method: `/${at}`, decision: 'intent', filler })
  t.ok((await disk.sizeBytes(path)) <= auditBytesMax)
  t.ok((await disk.sizeBytes(`${path}.1`)) <= auditBytesMax)
  t.equal((await linesOf(disk)).at(-1)?.['method'], '/24')
  for (let at = 0; at < auditQueueMax + 7; at++) audit.record({ principal: 'a', method: '/read', decision: 'allow' })
  await audit.close()
  t.ok((await linesOf(disk)).some((line) => line['dropped'] === 7))
})

t.test('more records within a second than the queue holds are all written', async (t) => {
  const disk = new FakeFileSystem()
  const { audit } = make(disk)
  const written = async () => [...(await linesOf(disk, `${path}.1`)), ...(await linesOf(disk))]
  for (let burst = 0; burst < 6; burst++) {
    for (let at = 0; at < auditQueueMax / 2; at++) audit.record({ principal: 'a', method: `/${burst}`, decision: 'allow' })
    while ((await written()).length < ((burst + 1) * auditQueueMax) / 2) await new Promise((resolve) => setImmediate(resolve))
  }
  await audit.close()
  const lines = await written()
  t.equal(lines.length, 3 * auditQueueMax)
  t.notOk(lines.some((line) => 'dropped' in line))
})

t.test('the log is shown the very record that is written', async (t) => {
  const disk = new FakeFileSystem()
  const { ring, audits, log } = createLog('info', () => {})
  const clock = new FakeClock()
  const audit = new Audit({ path, clock, log, files: disk, show: (record, line) => showAudit({ log, ring, audits }, record, line) })
  const hostile = { principal: 'a"},{"decision":"allow', method: '/x\n', decision: 'deny', status: 'ROLE_DENIED' } as const
  audit.record({ principal: 'a', method: '/read', decision: 'allow', status: 'OK', durationMs: 0.5 })
  audit.record(hostile)
  await audit.close()
  const [read, denied] = audits.stored().map(({ line }) => JSON.parse(line))
  t.same(read, {
    level: 'info',
    time: clock.nowMs(),
    audit: true,
    principal: 'a',
    method: '/read',
    decision: 'allow',
    status: 'OK',
    durationMs: 0.5,
    msg: 'audit',
  })
  t.match(denied, hostile)
  t.match(await linesOf(disk), [{ atMs: clock.nowMs(), method: '/read', durationMs: 0.5 }, hostile])
  t.match(
    ring.stored().map(({ line }) => JSON.parse(line)),
    [{ level: 'info', audit: true, ...hostile, msg: 'audit' }],
    'a read that went well stays out of the log',
  )
})

t.test('a call is recorded for who made it, also from an address and port that somebody else had before', async (t) => {
  const records: Record<string, unknown>[] = []
  const clock = new FakeClock()
  const show = (_: unknown, line: string) => records.push(JSON.parse(line))
  let id = 'one'
  const connection = () => ({ principal: { spiffeId: `spiffe://lab/operator/${id}`, role: 'operator', id }, serial: '01', openedAtMonotonicMs: 0 })
  const gate = new Gate({ connection }, new Audit({ path, clock, show, log, files: new FakeFileSystem() }), clock)
  for (id of ['one', 'two']) gate.finished(gate.admit({ getPeer: () => '10.77.0.1:40000' }, '/test.Counter/Next'), 'OK')
  t.same(
    records.map(({ principal }) => principal),
    ['spiffe://lab/operator/one', 'spiffe://lab/operator/two'],
  )
})
