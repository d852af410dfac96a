import t from 'tap'
import { Gate } from '../../../agent/api/gate.ts'
import { auditQueueMax } from '../../../agent/audit/limits.ts'
import { createLog, showAudit } from '../../../agent/log.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { failure, FakeFileSystem } from '../../fakes/file-system.ts'
import { eventsOf, openLog, recordsOf } from './opened.ts'

const read = (method = '/read') => ({ principal: 'a', method, decision: 'allow', status: 'OK' }) as const
const intent = (method = '/change') => ({ principal: 'b', method, decision: 'intent' }) as const

t.test('an intent is on disk when it resolves, with everything that waited before it', async (t) => {
  const { audit, disk } = await openLog()
  audit.record(read())
  await audit.intent(intent())
  t.match(await eventsOf(await openLog(disk.restarted('power'))), [
    { method: '/read', atMs: Number, monotonicMs: Number, bootId: 'b0', sequence: 3 },
    { method: '/change', decision: 'intent', sequence: 4, previous: /^[0-9a-f]{64}$/ },
  ])
})

t.test('reads are written together within a second', async (t) => {
  const { audit, clock, disk } = await openLog()
  for (let at = 0; at < 50; at++) audit.record(read(`/read${at}`))
  t.equal(audit.status.head.sequence, 0)
  await clock.advance(1_000)
  t.equal((await eventsOf(await openLog(disk.restarted('power')))).length, 50)
})

t.test('a full disk refuses an intent, and what came of it is recorded when there is room again', async (t) => {
  const { audit, disk } = await openLog()
  audit.record(read())
  disk.before = () => {
    throw failure('ENOSPC')
  }
  await t.rejects(audit.intent(intent()), { code: 'STORE_FULL' })
  audit.record({ principal: 'b', method: '/change', decision: 'allow', status: 'STORE_FULL', mutation: true })
  disk.before = () => {}
  await audit.intent(intent('/next'))
  t.match(await eventsOf({ audit }), [{ method: '/read' }, { decision: 'intent' }, { status: 'STORE_FULL' }, { method: '/next' }])
  t.match(await eventsOf(await openLog(disk.restarted('power'))), [{ method: '/read' }, {}, {}, { method: '/next' }])
})

t.test('what cannot be written is bounded in memory, and how much was lost is said', async (t) => {
  const { audit, disk } = await openLog()
  await audit.flush()
  disk.before = (_, name) => {
    if (name === 'append') throw failure('EIO')
  }
  for (let at = 0; at < auditQueueMax + 7; at++) audit.record(read())
  t.equal(audit.status.dropped, 7)
  await t.rejects(audit.intent(intent()), { code: 'STORE_FULL' })
  disk.before = () => {}
  await audit.flush()
  t.match(
    (await recordsOf({ audit })).filter(({ method }) => method === 'audit/dropped'),
    [{ dropped: 7 }],
  )
})

t.test('more records within a second than the queue holds are all written', async (t) => {
  const { audit } = await openLog()
  for (let burst = 0; burst < 6; burst++) {
    for (let at = 0; at < auditQueueMax / 2; at++) audit.record(read(`/${burst}`))
    while (audit.status.head.sequence < ((burst + 1) * auditQueueMax) / 2) await new Promise((resolve) => setImmediate(resolve))
  }
  await audit.close()
  t.equal((await eventsOf({ audit })).length, 3 * auditQueueMax)
  t.equal(audit.status.dropped, 0)
})

t.test('the first denial of a peer is recorded at once, the next are counted', async (t) => {
  const { audit, clock } = await openLog()
  const denied = (port: number, principal = 'eve') => ({ principal, peer: `10.0.0.9:${port}`, method: '/x', decision: 'deny', status: 'ROLE_DENIED' }) as const
  for (let port = 1; port <= 500; port++) audit.record(denied(port))
  audit.record(denied(1, 'mallory'))
  await clock.advance(12_000)
  const records = await eventsOf({ audit })
  t.match(records, [
    { principal: 'eve', peer: '10.0.0.9:1' },
    { principal: 'mallory' },
    { principal: 'eve', repeated: 499, overMs: 10_000, status: 'ROLE_DENIED' },
  ])
  t.equal(records.length, 3)
  for (let kind = 0; kind < 2_000; kind++) audit.record({ principal: 'eve', method: `/${kind}`, decision: 'deny' })
  await clock.advance(12_000)
  const later = (await eventsOf({ audit })).slice(3)
  t.equal(later.length, 257, 'a bounded number of kinds, and the rest together')
  t.match(later.at(-1), { method: 'others', repeated: 2_000 - 256 })
})

t.test('the log is shown the very record that is written', async (t) => {
  const { ring, audits, log } = createLog('info', () => {})
  const { audit, clock } = await openLog(new FakeFileSystem(), { show: (event, body) => showAudit({ log, ring, audits }, event, body) })
  const hostile = { principal: 'a"},{"decision":"allow', method: '/x\né\u2028', decision: 'deny', status: 'ROLE_DENIED' } as const
  audit.record({ ...read(), durationMs: 0.5 })
  audit.record(hostile)
  await audit.close()
  const [, , one, denied] = audits.stored().map(({ line }) => JSON.parse(line))
  t.match(one, { level: 'info', time: clock.nowMs(), audit: true, principal: 'a', method: '/read', decision: 'allow', durationMs: 0.5, msg: 'audit' })
  t.match(denied, hostile)
  t.match(await eventsOf({ audit }), [{ atMs: clock.nowMs(), method: '/read', durationMs: 0.5 }, hostile])
  t.match(
    ring.stored().map(({ line }) => JSON.parse(line)),
    [{ level: 'info', audit: true, ...hostile, msg: 'audit' }],
    'a read that went well stays out of the log',
  )
})

t.test('an event too long for a record leaves a short one', async (t) => {
  const { audit } = await openLog()
  await audit.intent({ ...intent(), reason: '\u2028'.repeat(5_000) })
  t.match((await recordsOf({ audit })).at(-1), { method: 'audit/shortened', of: '/change' })
})

t.test('a call is recorded for who made it, also from an address and port that somebody else had before', async (t) => {
  const records: Record<string, unknown>[] = []
  const clock = new FakeClock()
  const { audit } = await openLog(undefined, { clock, show: (_, body) => void records.push(JSON.parse(`{${body}`)) })
  let id = 'one'
  const connection = () => ({ principal: { spiffeId: `spiffe://lab/operator/${id}`, role: 'operator', id }, serial: '01', openedAtMonotonicMs: 0 })
  const gate = new Gate({ connection }, audit, clock)
  for (id of ['one', 'two']) gate.finished(gate.admit({ getPeer: () => '10.77.0.1:40000' }, '/test.Counter/Next'), 'OK')
  t.same(
    records.slice(2).map(({ principal }) => principal),
    ['spiffe://lab/operator/one', 'spiffe://lab/operator/two'],
  )
})
