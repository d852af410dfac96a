import { createPrivateKey, randomBytes, sign } from 'node:crypto'
import t from 'tap'
import { Acknowledged } from '../../../agent/audit/acknowledged.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { Chain } from '../../../core/audit/chain.ts'
import { chapterLine, exportLine, readEntry, signedLine } from '../../../core/audit/entries.ts'
import { asciiJson, lineOf, readRecord } from '../../../core/audit/record.ts'
import {
  type Chapter,
  chaptersDigest,
  checkpointBody,
  headBody,
  readCheckpoint,
  readHead,
  type Signed,
  statementSignedBytes,
} from '../../../core/audit/statements.ts'
import { ExportVerifier, findingsMax } from '../../../core/audit/verification.ts'
import { makeCa, makeIdentity, type Role } from '../../../core/x509.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'

const atMs = Date.now()
const ca = await makeCa('lab', { nowMs: atMs, validMs: 86_400_000 })
const trust = { fleet: 'lab', caPem: ca.certificatePem, deviceId: 'sw1' }

async function signs(role: Role, id: string): Promise<(kind: 'checkpoint' | 'head', body: Uint8Array) => Signed> {
  const { keyPem, certificatePem } = await makeIdentity(ca, { fleet: 'lab', role, id, nowMs: atMs, validMs: 80_000_000 })
  const key = createPrivateKey(keyPem)
  return (kind, body) => ({ body, signature: sign('sha256', statementSignedBytes(kind, body), { key, dsaEncoding: 'ieee-p1363' }), chainPem: certificatePem })
}
const device = await signs('device', 'sw1')
const collector = await signs('service', 'audit-collector')

/** One chapter of a made-up log: its lines, and what it comes to. */
function chapter(reason: Chapter['reason'], records: number, after = { sequence: 0, hash: '' }, name?: string): { lines: string[]; chapter: Chapter } {
  const follow = new Chain(after)
  const lines: string[] = []
  for (let at = 0; at < records; at++) {
    const { sequence, hash } = follow.head
    const body = asciiJson({ atMs, monotonicMs: at, bootId: 'b', principal: '', method: '/x', decision: 'allow', nonce: randomBytes(4).toString('hex') })
    const line = lineOf(sequence + 1, hash, body.slice(1))
    follow.follow(Buffer.from(line))
    lines.push(line)
  }
  const first = new Chain(after)
  first.follow(Buffer.from(lines[0] as string))
  const chain = name ?? first.head.hash
  const body = checkpointBody({ deviceId: 'sw1', chain, ...follow.head, bootId: 'b', atMs })
  const all = [chapterLine({ chain, reason, after }), ...lines, signedLine('checkpoint', device('checkpoint', body))]
  return { lines: all, chapter: { chain, reason, after, ...follow.head } }
}

const headOf = (chapters: Chapter[], by = collector): Signed => {
  const earlier = chapters.slice(0, -1)
  const content = {
    fleet: 'lab',
    deviceId: 'sw1',
    chapter: chapters.at(-1) as Chapter,
    earlier: { count: earlier.length, digest: chaptersDigest(earlier) },
    atMs,
  }
  return by('head', headBody(content))
}
const verdict = (lines: string[], kept: Signed | null = null) => {
  const verifier = new ExportVerifier(trust, kept)
  for (const line of lines) verifier.take(Buffer.from(line, 'latin1'))
  return verifier.end()
}

t.test('a whole log passes, also against a head from before; one that ends earlier than a head does not', async (t) => {
  const one = chapter('first', 5)
  const first = one.chapter
  const more = chapter('new log', 4)
  const early = headOf([first])
  const late = headOf([first, more.chapter])
  const whole = [exportLine('lab', 'sw1'), ...one.lines, ...more.lines, signedLine('head', late)]
  for (const kept of [null, early, late]) t.match(verdict(whole, kept), { records: 9, checkpoints: 2, findings: [], notes: [/began a new log/] })
  const short = [exportLine('lab', 'sw1'), ...one.lines, signedLine('head', early)]
  t.same(verdict(short, early).findings, [])
  t.match(verdict(short, late).findings, [{ what: /signed for number 4 of chapter 2/ }])
  t.match(verdict(whole.slice(0, -1)).findings, [{ what: /whether its end was cut off cannot be told/ }])
  t.same(verdict(whole.slice(0, -1), late).findings, [], 'the head may come from elsewhere')
  t.match(verdict([], late).findings.length, 2)
})

t.test('what is missing rightly is a note, a fork is a finding', async (t) => {
  const one = chapter('first', 5)
  const gone = chapter('missed', 3, { sequence: 9, hash: 'a'.repeat(64) }, one.chapter.chain)
  const lines = [exportLine('lab', 'sw1'), ...one.lines, ...gone.lines, signedLine('head', headOf([one.chapter, gone.chapter]))]
  t.match(verdict(lines), { findings: [], notes: ['chapter 2: numbers 6 to 9 were gone from the device before they were collected'] })
  const other = chapter('forked', 3)
  const forked = [exportLine('lab', 'sw1'), ...one.lines, ...other.lines, signedLine('head', headOf([one.chapter, other.chapter]))]
  t.match(verdict(forked).findings, [{ what: /its log was forked/ }])
})

t.test('a signature counts for its own kind, signer and device alone', async (t) => {
  const { chapter: whole, lines } = chapter('first', 3)
  const forged = [headOf([whole], device), headOf([whole], await signs('controller', 'main')), headOf([whole], await signs('service', 'routing'))]
  for (const head of forged) t.throws(() => readHead(head, trust), { code: 'CERTIFICATE_INVALID' })
  t.throws(() => readHead(headOf([whole]), { ...trust, deviceId: 'sw2' }), { code: 'CERTIFICATE_INVALID' })
  const foreign = await makeCa('lab', { nowMs: atMs, validMs: 86_400_000 })
  t.throws(() => readHead(headOf([whole]), { ...trust, caPem: foreign.certificatePem }), { code: 'CERTIFICATE_INVALID' })
  const body = headBody({ fleet: 'lab', deviceId: 'sw1', chapter: whole, earlier: { count: 0, digest: chaptersDigest([]) }, atMs })
  t.throws(() => readHead(collector('checkpoint', body), trust), { code: 'CERTIFICATE_INVALID' }, 'not one over another prefix')
  const bare = [exportLine('lab', 'sw1'), ...lines.slice(0, -1), signedLine('head', headOf([whole]))]
  t.match(verdict(bare).findings, [{ what: /the device did not sign/ }], 'and the collector cannot sign for what the device did not')
})

t.test('a device whose clock is wrong is collected from like any other', async (t) => {
  const body = checkpointBody({ deviceId: 'sw1', chain: 'a'.repeat(64), sequence: 1, hash: 'a'.repeat(64), bootId: 'b', atMs: 60_000 })
  t.match(readCheckpoint(device('checkpoint', body), trust), { atMs: 60_000 })
  const { chapter: whole } = chapter('first', 1)
  const late = headBody({ fleet: 'lab', deviceId: 'sw1', chapter: whole, earlier: { count: 0, digest: chaptersDigest([]) }, atMs: 60_000 })
  t.throws(() => readHead(collector('head', late), trust), { code: 'CERTIFICATE_INVALID' }, 'the collector has a clock')
})

t.test('whatever the lines are, the verdict comes, and is bounded', async (t) => {
  const nonsense = [
    '',
    '{}',
    'null',
    '[]',
    '{"sequence":',
    '{"sequence":1}',
    '{"chapter":{}}',
    '{"checkpoint":"x","signature":"","chainPem":""}',
    '\0'.repeat(99),
    'x'.repeat(99_999),
  ]
  t.ok(verdict(nonsense).findings.length >= nonsense.length)
  t.equal(verdict(Array(1_000).fill('{"sequence":1,"previous":""}')).findings.length, findingsMax)
  for (const line of nonsense) t.throws(() => readRecord(Buffer.from(line)), { code: 'AUDIT_BROKEN' })
  for (const line of nonsense.filter((one) => !/^..(sequence|checkpoint)/.test(one))) t.throws(() => readEntry(Buffer.from(line)), { code: 'AUDIT_BROKEN' })
})

t.test('the time of an acknowledgement counts only as far as it is signed', async (t) => {
  const files = new AtomicFiles(new FakeFileSystem())
  const log = { error: () => {} }
  const { chapter: whole } = chapter('first', 3)
  const acknowledged = new Acknowledged('/state/audit', files)
  t.equal(acknowledged.provenAtMs(trust), 0)
  await acknowledged.store({ chain: whole.chain, head: whole, atMs: atMs + 1e9, signed: headOf([whole]) })
  const again = new Acknowledged('/state/audit', files)
  await again.load(log)
  t.equal(again.atMs, atMs + 1e9)
  t.equal(again.provenAtMs(trust), atMs, 'not what the file claims')
  await again.store({ chain: whole.chain, head: whole, atMs, signed: headOf([whole], device) })
  t.equal(again.provenAtMs(trust), 0)
})
