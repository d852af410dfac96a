import t, { type Test } from 'tap'
import { auditBytesMax, changesBytesMax, keptBytes, readsBytesMax } from '../../../agent/audit/limits.ts'
import { COLLECTOR_ID, type Signed } from '../../../core/audit/statements.ts'
import type { FakeFileSystem } from '../../fakes/file-system.ts'
import { directory, eventsOf, linesOf, type Opened, openLog, recordsOf } from './opened.ts'

const filler = 'x'.repeat(3_000)
const intent = (method = '/change') => ({ principal: 'b', method, decision: 'intent', filler }) as const
const read = { principal: 'a', method: '/read', decision: 'allow', status: 'OK', filler } as const
const signed: Signed = { body: Buffer.from(COLLECTOR_ID), signature: new Uint8Array(64), chainPem: '' }

/** Writes changes until one is refused. */
async function fill({ audit }: Opened): Promise<number> {
  for (let count = 0; ; count++) {
    try {
      await audit.intent(intent())
    } catch (error) {
      if ((error as { code?: string }).code !== 'AUDIT_FULL') throw error
      return count
    }
  }
}

async function acknowledge({ audit }: Opened, atMs = 5): Promise<void> {
  await audit.acknowledge(audit.status.chain, audit.status.head, atMs, signed)
}

const bytesOn = async (disk: FakeFileSystem) => {
  let bytes = 0
  for (const path of disk.paths()) if (path.startsWith(directory)) bytes += await disk.sizeBytes(path)
  return bytes
}

t.test('when too much waits to be acknowledged, changes are refused and reverts are not, on a bounded disk', async (t) => {
  const opened = await openLog()
  const { audit, disk } = opened
  const changes = await fill(opened)
  t.ok(changes * filler.length > changesBytesMax * 0.8)
  t.match(audit.status, { full: true, refused: 1, oldest: 1 }, 'nothing was dropped, and it is said')
  let reverts = 0
  for (; ; reverts++) {
    try {
      await audit.intent(intent('/offbox.v1.Lifecycle/Revert'), true)
    } catch (error) {
      t.match(error, { code: 'AUDIT_FULL' }, 'in the end reverts go unrecorded as well')
      break
    }
  }
  t.ok(reverts > 100, `${reverts} reverts`)
  t.ok((await bytesOn(disk)) < auditBytesMax + 300_000)

  await acknowledge(opened)
  t.match(audit.status, { full: false, acknowledgedAtMs: 5 })
  t.ok((await bytesOn(disk)) < keptBytes + 600_000, 'what was acknowledged makes room')
  t.ok(audit.status.oldest > 1)
  await audit.intent(intent('/next'))
  const again = await openLog(disk.restarted('power'))
  t.equal((await recordsOf(again)).at(-1)?.method, '/next')
  t.equal(again.audit.status.acknowledged.sequence, audit.status.acknowledged.sequence, 'and stays acknowledged over a restart')
  t.equal(again.audit.acknowledged.atMs, 5, 'which vouches for the time as well')
})

t.test('reads stop being recorded one by one long before changes are refused', async (t) => {
  const { audit, clock } = await openLog()
  for (let at = 0; at * filler.length < readsBytesMax * 2; at++) {
    audit.record(read)
    if (at % 500 === 0) await audit.flush()
  }
  await audit.flush()
  t.ok(audit.status.counted > 500)
  t.equal(audit.status.full, false)
  await audit.intent(intent())
  await clock.advance(11_000)
  const events = await eventsOf({ audit })
  t.match(events.at(-1), { method: '/read', repeated: audit.status.counted }, 'they are counted')
})

t.test('an acknowledgement of another log is refused, and of an older record changes nothing', async (t) => {
  const opened = await openLog()
  const { audit, errors } = opened
  await audit.intent(intent())
  const { chain, head } = audit.status
  await t.rejects(audit.acknowledge('f'.repeat(64), head, 1, signed), { code: 'AUDIT_BROKEN' })
  await t.rejects(audit.acknowledge(chain, { ...head, hash: '0'.repeat(64) }, 1, signed), { code: 'AUDIT_BROKEN' })
  await t.rejects(audit.acknowledge(chain, { sequence: head.sequence + 9, hash: head.hash }, 1, signed), { code: 'AUDIT_BROKEN' })
  t.same(errors, Array(2).fill('a collector acknowledges another audit log than the one of this device'))
  await acknowledge(opened, 7)
  await audit.acknowledge(chain, { sequence: 1, hash: 'whatever' }, 9, signed)
  t.match(audit.status, { acknowledged: head, acknowledgedAtMs: 7 })
})

/** A log of several segments with its last write torn in different ways, as a crash finds it. */
async function written(t: Test): Promise<FakeFileSystem> {
  const { audit, disk } = await openLog()
  for (let at = 0; at < 300; at++) await audit.intent(intent(`/${at}`))
  t.ok(disk.paths().filter((path) => path.endsWith('.log')).length > 2)
  return disk
}

t.test('a torn end is left behind and the log goes on with the next number', async (t) => {
  for (const end of ['{"sequence":303,"previous":"', '\0\0\0\0\0\0', 'garbage\n']) {
    const disk = (await written(t)).restarted('kill')
    const last = disk
      .paths()
      .filter((path) => path.endsWith('.log'))
      .at(-1) as string
    await disk.append(last, Buffer.from(end))
    const next = await openLog(disk)
    await next.audit.intent(intent('/after'))
    const records = await recordsOf(next)
    t.equal(records.at(-1)?.sequence, 304)
    t.equal(records.length, 304)
    t.same(next.errors, [])
    t.equal((await recordsOf(await openLog(disk.restarted('power')))).length, 304, 'and so the next time')
  }
})

t.test('every crash leaves a log that goes on and holds every intent that was answered', async (t) => {
  for (let at = 1; at < 90; at += 4) {
    const first = await openLog()
    first.disk.cutAt(at)
    let answered = 0
    try {
      for (; answered < 40; answered++) await first.audit.intent(intent(`/${answered}`))
    } catch {
      // The cut.
    }
    for (const after of ['kill', 'power'] as const) {
      const next = await openLog(first.disk.restarted(after))
      await next.audit.intent(intent('/after'))
      const intents = (await eventsOf(next)).map(({ method }) => method)
      t.ok(intents.length > answered, `cut at ${at}, ${after}`)
      t.same(
        intents.slice(0, answered),
        Array.from({ length: answered }, (_, index) => `/${index}`),
      )
      t.same(next.errors, [])
    }
  }
})

t.test('a log that is damaged or behind what was acknowledged is not gone on with: a new one begins and names it', async (t) => {
  const disk = (await written(t)).restarted('kill')
  const before = (await openLog(disk.restarted('kill'))).audit.status
  const [first = ''] = disk.paths().filter((path) => path.endsWith('.log'))
  disk.rot(first, 5_000)
  const next = await openLog(disk)
  await next.audit.intent(intent('/after'))
  t.not(next.audit.status.chain, before.chain)
  t.match((await recordsOf(next))[0], { sequence: 1, method: 'audit/begin', before: { chain: before.chain, why: /cannot|follow|damaged|JSON|hash|another/ } })
  t.same(next.errors, ['the audit log cannot go on; a new one begins'])
  t.ok(disk.paths().includes(first), 'what was there is left for whoever looks into it')

  const cut = await openLog()
  for (let at = 0; at < 300; at++) await cut.audit.intent(intent(`/${at}`))
  await acknowledge(cut)
  const lost = cut.disk.restarted('kill')
  await lost.remove(
    lost
      .paths()
      .filter((path) => path.endsWith('.log'))
      .at(-1) as string,
  )
  const short = await openLog(lost)
  await short.audit.flush()
  t.match((await recordsOf(short))[0], { method: 'audit/begin', before: { why: /the collector has 302 records/ } })
})

t.test('the log of an agent from before is taken along, and the chain vouches for it', async (t) => {
  const { disk } = await openLog()
  await disk.append('/state/audit.log', Buffer.from('{"atMs":1}\n'))
  await disk.append('/state/audit.log.1', Buffer.from('{"atMs":0}\n'))
  const { audit } = await openLog(disk)
  t.match(
    (await recordsOf({ audit })).find(({ method }) => method === 'audit/earlier'),
    {
      earlier: [
        { file: 'audit.log.1', bytes: 11 },
        { file: 'audit.log', sha256: /^[0-9a-f]{64}$/ },
      ],
    },
  )
  t.same(
    disk.paths().filter((path) => path.includes('audit.log')),
    ['/state/audit/earlier-audit.log', '/state/audit/earlier-audit.log.1'],
  )
  const again = await openLog(disk.restarted('power'))
  t.equal((await recordsOf(again)).filter(({ method }) => method === 'audit/earlier').length, 1)
})

t.test('a sealed segment ends with the device’s signature, and reads do not stumble over it', async (t) => {
  const chainPem = 'a certificate'
  const opened = await openLog(undefined, { sign: (bytesFor) => ({ signature: bytesFor('sw1').subarray(0, 4), chainPem }) })
  for (let at = 0; at < 200; at++) await opened.audit.intent(intent(`/${at}`))
  const [first = ''] = opened.disk.paths().filter((path) => path.endsWith('.log'))
  const text = Buffer.from((await opened.disk.read(first)) ?? []).toString()
  t.match(JSON.parse(text.trimEnd().split('\n').at(-1) ?? ''), { checkpoint: /"deviceId":"sw1"/, chainPem })
  t.equal((await linesOf(opened)).length, 202)
  t.equal((await recordsOf(await openLog(opened.disk.restarted('power')))).length, 202)
})
