import { appendFile, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { batchesOf, checkpointOf } from '../../../agent/audit/batches.ts'
import { BEFORE_FIRST } from '../../../core/audit/chain.ts'
import { COLLECTOR_ID } from '../../../core/audit/statements.ts'
import { ExportVerifier } from '../../../core/audit/verification.ts'
import { makeCa, makeIdentity } from '../../../core/x509.ts'
import { headSigner } from '../../../fleet/audit/identity.ts'
import { AuditStore } from '../../../fleet/audit/store.ts'
import { openLog, type Opened, signer } from '../../agent/audit/opened.ts'

const nowMs = Date.now()
const names = { fleet: 'lab', nowMs, validMs: 86_400_000 } as const
const ca = await makeCa('lab', names)
const trust = { fleet: 'lab', caPem: ca.certificatePem, deviceId: 'sw1' }
const device = { deviceId: 'sw1', ...(await makeIdentity(ca, { ...names, role: 'device', id: 'sw1' })) }
const sign = headSigner(await makeIdentity(ca, { ...names, role: 'service', id: COLLECTOR_ID }))

async function scene(t: Test) {
  const directory = await mkdtemp(join(tmpdir(), 'obx-store-'))
  t.teardown(async () => await rm(directory, { recursive: true, force: true }))
  const opened = await openLog(undefined, { sign: signer(device) })
  const open = async () => await AuditStore.open({ directory, ...trust })
  return {
    directory,
    opened,
    open,
    newest: async () =>
      join(
        directory,
        (await readdir(directory))
          .filter((name) => name.endsWith('.log'))
          .sort()
          .at(-1) ?? '',
      ),
  }
}

const write = async ({ audit }: Opened, count: number) => {
  for (let at = 0; at < count; at++) await audit.intent({ principal: 'a', method: `/${at}`, decision: 'intent' })
}

async function collect({ audit }: Opened, store: AuditStore): Promise<void> {
  const { signal } = new AbortController()
  for await (const batch of batchesOf(audit, { from: (store.chapter?.sequence ?? 0) + 1, follow: false, signal })) {
    await store.add({ records: batch.lines, checkpoint: checkpointOf(audit, batch) })
  }
}

async function findings(store: AuditStore): Promise<unknown> {
  const parts: Uint8Array[] = []
  for await (const part of store.export()) parts.push(part)
  const verifier = new ExportVerifier(trust)
  for (const line of Buffer.concat(parts).toString('latin1').trimEnd().split('\n')) verifier.take(Buffer.from(line, 'latin1'))
  return verifier.end().findings
}

t.test('what was added but not signed for is there after a crash, and what was torn is not', async (t) => {
  const { opened, open, newest } = await scene(t)
  await write(opened, 5)
  await (await open()).begin('first', opened.audit.status.chain, BEFORE_FIRST)
  const store = await open()
  t.equal(store.chapter, null, 'a chapter without a record is none')
  await store.begin('first', opened.audit.status.chain, BEFORE_FIRST)
  await collect(opened, store)
  await store.countersign(sign, nowMs)
  await write(opened, 5)
  await collect(opened, store)
  const whole = (await stat(await newest())).size
  for (const torn of ['{"sequence":13,"previous":"', '{"sequence":99}\n', '\0\0\0']) {
    await appendFile(await newest(), torn)
    const again = await open()
    t.match(again, { chapter: { sequence: 12 }, countersigned: { sequence: 7, chapters: 1 } })
    t.equal((await stat(await newest())).size, whole, 'cut off')
    t.same(await findings(again), [], 'the export goes as far as was signed for')
  }
  await truncate(await newest(), whole - 10)
  const again = await open()
  t.match(again.chapter, { sequence: 7 }, 'records without their checkpoint are fetched again')
  await collect(opened, again)
  await again.countersign(sign, nowMs)
  t.match(again.countersigned, { sequence: 12 })
  t.same(await findings(again), [])
})

t.test('nothing is added that does not follow or that the device did not sign', async (t) => {
  const { opened, open } = await scene(t)
  const store = await open()
  await write(opened, 3)
  const { chain } = opened.audit.status
  await store.begin('first', chain, BEFORE_FIRST)
  const { signal } = new AbortController()
  for await (const batch of batchesOf(opened.audit, { from: 1, follow: false, signal })) {
    const checkpoint = checkpointOf(opened.audit, batch)
    const [first, ...rest] = batch.lines as [Uint8Array, ...Uint8Array[]]
    await t.rejects(store.add({ records: rest, checkpoint }), { code: 'AUDIT_BROKEN' }, 'one is missing')
    await t.rejects(store.add({ records: [first, ...rest.toReversed()], checkpoint }), { code: 'AUDIT_BROKEN' }, 'another order')
    await t.rejects(store.add({ records: [], checkpoint }), { code: 'AUDIT_BROKEN' })
    await t.rejects(store.add({ records: [first], checkpoint }), { code: 'AUDIT_BROKEN' }, 'signed for another number')
    await t.rejects(store.add({ records: batch.lines, checkpoint: { ...checkpoint, signature: new Uint8Array(64) } }), { code: 'CERTIFICATE_INVALID' })
    t.equal(store.chapter?.sequence, 0)
  }
  await collect(opened, store)
  t.equal(store.chapter?.sequence, 5)
})

t.test('chapters are in the head in their order, also over restarts', async (t) => {
  const { opened, open } = await scene(t)
  const store = await open()
  await write(opened, 3)
  await store.begin('first', opened.audit.status.chain, BEFORE_FIRST)
  await collect(opened, store)
  const other = await openLog(undefined, { sign: signer(device) })
  await write(other, 2)
  await store.begin('new log', other.audit.status.chain, BEFORE_FIRST)
  await collect(other, store)
  const resumed = await open()
  t.match(resumed.chapters, [
    { reason: 'first', sequence: 5 },
    { reason: 'new log', sequence: 4 },
  ])
  await resumed.countersign(sign, nowMs)
  t.same(await findings(resumed), [])
  t.match((await open()).countersigned, { chapters: 2, sequence: 4 })
})

t.test('what was signed for and is not there any more is said, not passed over', async (t) => {
  const { directory, opened, open, newest } = await scene(t)
  const store = await open()
  await t.rejects(findings(store), { code: 'AUDIT_NOT_FOUND' })
  await write(opened, 3)
  await store.begin('first', opened.audit.status.chain, BEFORE_FIRST)
  await collect(opened, store)
  await store.countersign(sign, nowMs)
  const head = await readFile(join(directory, 'head.json'), 'utf8')
  await writeFile(join(directory, 'head.json'), head.replace('"count":0', '"count":1').replace('\\"count\\":0', '\\"count\\":1'))
  await t.rejects(open(), { code: 'STORE_CORRUPT' })
  await writeFile(join(directory, 'head.json'), head)
  await truncate(await newest(), 100)
  await t.rejects(open(), { code: 'STORE_CORRUPT', message: /shorter than what was signed for/ })
})
