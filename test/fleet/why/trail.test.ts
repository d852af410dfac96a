import t from 'tap'
import { readEntry } from '../../../core/audit/entries.ts'
import { asciiJson, hashOf, lineOf } from '../../../core/audit/record.ts'
import { checkpointBody, readHead, type Signed, statementSignedBytes } from '../../../core/audit/statements.ts'
import { loggedChange, TrailReader } from '../../../fleet/why/trail.ts'
import { DEVICE, writeLog, type Written } from '../../drill/audit-mutations/written.ts'

const written = await writeLog(60)
const { trust, lines } = written
const { chapter } = readHead(written.head, trust)

/** Records of a device behind the exported ones, and its signature for them. */
function more(after: { sequence: number; hash: string }, bodies: readonly object[], { sign, chainPem }: Written = written) {
  const records: Uint8Array[] = []
  let { sequence, hash } = after
  for (const body of bodies) {
    sequence += 1
    const line = Buffer.from(
      lineOf(sequence, hash, asciiJson({ atMs: Date.now(), monotonicMs: 1, bootId: 'b', principal: 'spiffe://lab/controller/main', ...body }).slice(1)),
    )
    hash = hashOf(line)
    records.push(line)
  }
  const body = checkpointBody({ deviceId: DEVICE, chain: chapter.chain, sequence, hash, bootId: 'b', atMs: Date.now() })
  const checkpoint: Signed = { body, signature: sign(statementSignedBytes('checkpoint', body)), chainPem }
  return { records, checkpoint }
}

const change = { method: 'change/upgrade', change: 'c-0000000009', service: 'telemetry', from: '1.0.0', to: '1.1.0' }
const news = [
  { ...change, decision: 'intent', reason: 'rollout r-0001 attempt 1' },
  { ...change, service: 'other', decision: 'allow', state: 'confirmed', receipt: 'x' },
  { ...change, decision: 'allow', status: 'OK', state: 'confirmed', reason: 'confirmed by somebody', receipt: 'abc' },
]

function read(): TrailReader {
  const reader = new TrailReader(trust, 'telemetry')
  for (const line of lines) reader.take(line)
  return reader
}

t.test('an export and what the device wrote since are one chain, in which a change is found by its receipt', async (t) => {
  const reader = read()
  t.same(reader.ended(), { chain: chapter.chain, after: { sequence: chapter.sequence, hash: chapter.hash } })
  const { records, checkpoint } = more(chapter, news)
  reader.follow(records, checkpoint)
  const trail = reader.trail()
  t.same(trail.findings, [])
  t.match(trail.basis, /60 records that the collector holds.*; 3 records from the device itself/)
  const { end, intent } = loggedChange(trail, (one) => one.receipt === 'abc')
  t.match({ end, intent }, { end: { sequence: 63, state: 'confirmed' }, intent: { sequence: 61, reason: 'rollout r-0001 attempt 1' } })
  t.equal(loggedChange(trail, (one) => one.receipt === 'x').end, undefined, 'another service has its own')
})

t.test('a device that shows another past than it had shown the collector is found out, and so is one that did not sign', async (t) => {
  const forked = read()
  forked.ended()
  const other = more({ sequence: chapter.sequence, hash: 'f'.repeat(64) }, news)
  t.throws(() => forked.follow(other.records, other.checkpoint), { code: 'AUDIT_BROKEN' })
  forked.broken('it forked')
  t.match(forked.trail(), { findings: [/what the device itself shows: it forked/], changes: [] })

  const stranger = read()
  stranger.ended()
  const good = more(chapter, news)
  const signature = Buffer.from(good.checkpoint.signature)
  signature[5] = (signature[5] ?? 0) ^ 1
  t.throws(() => stranger.follow(good.records, { ...good.checkpoint, signature }), { code: 'CERTIFICATE_INVALID' })
  t.same(stranger.trail().changes, [], 'nothing of it is believed')

  const fewer = read()
  fewer.ended()
  t.throws(() => fewer.follow(good.records.slice(0, 2), good.checkpoint), { code: 'AUDIT_BROKEN', message: /another number 63/ })
  t.same(fewer.trail().changes, [])
})

t.test('an export without its end, or with a record changed, has findings; without any of it there is no trail', async (t) => {
  const cut = new TrailReader(trust, 'telemetry')
  for (const line of lines.slice(0, -1)) cut.take(line)
  t.equal(cut.ended(), null)
  t.match(cut.trail().findings, [/does not end with a head/])

  const changed = new TrailReader(trust, 'telemetry')
  const at = lines.findIndex((line) => readEntry(line).kind === 'record')
  for (const [index, line] of lines.entries()) changed.take(index === at ? Buffer.from(line.toString('latin1').replace('"atMs":', '"atms":'), 'latin1') : line)
  changed.ended()
  t.ok(changed.trail().findings.length > 0)

  const none = new TrailReader(trust, 'telemetry')
  none.missed('the device cannot be reached')
  t.equal(none.ended(), null)
  t.throws(() => none.trail(), { code: 'AUDIT_NOT_FOUND', message: /cannot be reached/ })
})
