import t from 'tap'
import { RECEIPT_FORMAT, type ReceiptBody } from '../../../core/receipt.ts'
import { rolloutOf } from '../../../fleet/why/author.ts'
import type { RolloutFacts } from '../../../fleet/why/evidence.ts'
import { placementOf } from '../../../fleet/why/placement.ts'
import { answerOf, type Statement, verdictOf } from '../../../fleet/why/statement.ts'
import { lookUp, parseSubject } from '../../../fleet/why/subject.ts'

let made = 0
function receipt(to: string, over: Partial<ReceiptBody> = {}): ReceiptBody {
  made += 1
  const texts = { deviceId: 'sw1', previous: '', service: 'telemetry', from: '', reason: '', error: '', author: 'spiffe://lab/controller/main', bootId: 'b' }
  const numbers = { heldMs: 0, heldCalls: 0, proposedAtMs: 1_000, endedAtMs: 2_000, endedMonotonicMs: 0 }
  const rest = { format: RECEIPT_FORMAT, sequence: made, changeId: `c-${made}`, kind: 'upgrade', outcome: 'confirmed', steps: [] } as const
  return { ...texts, ...numbers, ...rest, to, manifests: { from: '', to: `digest of ${to}` }, ...over } as ReceiptBody
}
const running = (version: string, over = {}) => ({ version, manifestSha256: `digest of ${version}`, provisional: false, ...over })

t.test('the newest confirmed receipt of the service put it there; what came behind it was undone', async (t) => {
  const [first, second, other, bad] = [receipt('1.0.0'), receipt('1.1.0'), receipt('9.0.0', { service: 'other' }), receipt('1.2.0', { outcome: 'reverted' })]
  const found = placementOf([first, second, other, bad], 'telemetry', running('1.1.0'))
  t.match(found, { receipt: { changeId: second.changeId }, problem: '', contradicted: false })
  t.same(found.undone, [bad])
  t.equal(placementOf([first, second, bad], 'telemetry', null).receipt, second, 'without the device its word is that of the receipt')
})

t.test('another version than the receipts lead to, or another manifest, is a contradiction; no receipt is a gap', async (t) => {
  const all = [receipt('1.0.0'), receipt('1.1.0')]
  t.match(placementOf(all, 'telemetry', running('1.0.0')), { receipt: null, contradicted: true, problem: /leaves 1\.1\.0; 1\.0\.0 runs/ })
  t.match(placementOf(all, 'telemetry', running('1.1.0', { manifestSha256: 'another' })), { contradicted: true, problem: /another runs/ })
  t.match(placementOf([], 'telemetry', running('1.1.0')), { receipt: null, contradicted: false, problem: /no receipt about telemetry/ })
  t.match(placementOf([receipt('', { kind: 'remove' })], 'telemetry', null), { receipt: null, problem: /was removed/ })
  t.match(placementOf(all, 'telemetry', running('1.2.0', { provisional: true })), { receipt: null, contradicted: false, problem: /is provisional/ })
})

t.test('a version that the agent went back to by itself is followed to the change that had brought it', async (t) => {
  const [brought, newer] = [receipt('1.0.0'), receipt('1.1.0')]
  const back = receipt('1.0.0', { author: 'agent', manifests: { from: '', to: '' } })
  t.match(placementOf([brought, newer, back], 'telemetry', running('1.0.0')), {
    receipt: { author: 'agent' },
    first: { changeId: brought.changeId },
    contradicted: false,
  })
  t.match(placementOf([newer, back], 'telemetry', running('1.0.0')), { first: null })
})

t.test('a rollout is found by the words of the order; by the time where there are none, since numbers of changes begin anew', async (t) => {
  const device = { deviceId: 'sw1', state: 'done', reason: '', attempt: 1, changeId: 'c-7', canary: true }
  const one: RolloutFacts = {
    rolloutId: 'r-0001',
    service: 'telemetry',
    version: '1.1.0',
    state: 'succeeded',
    startedAtMs: 1e6,
    endedAtMs: 2e6,
    bakeMs: 0,
    author: 'o',
    devices: [device],
  }
  const [old, late] = [one, { ...one, rolloutId: 'r-0002', startedAtMs: 9e9, endedAtMs: 9e9 + 5 }]
  const change = {
    changeId: 'c-7',
    service: 'telemetry',
    version: '1.1.0',
    author: 'c',
    basis: '',
    standing: 'verified',
    proposedAtMs: 1.5e6,
    receipt: null,
    intent: undefined,
    reason: '',
  } as const
  t.equal(rolloutOf([late, old], 'sw1', change)?.rollout.rolloutId, 'r-0001')
  const intent = {
    sequence: 1,
    chapter: 1,
    atMs: 0,
    bootId: '',
    principal: '',
    intent: true,
    change: 'c-7',
    kind: 'upgrade',
    from: '',
    to: '',
    state: '',
    receipt: '',
  }
  t.equal(rolloutOf([late, old], 'sw1', { ...change, intent: { ...intent, reason: 'rollout r-0002 attempt 1' } })?.rollout.rolloutId, 'r-0002')
  t.equal(
    rolloutOf([late, old], 'sw1', { ...change, intent: { ...intent, reason: 'desired state of sw1' } }),
    null,
    'the same number in another life of the device',
  )
  t.equal(rolloutOf([old], 'sw2', change), null)
})

t.test('a question is a service, a method or a place in a configuration; anything else is refused', async (t) => {
  t.same(parseSubject('telemetry'), { kind: 'service', service: 'telemetry' })
  t.same(parseSubject('agent'), { kind: 'service', service: 'agent' })
  t.same(parseSubject('/offbox.v1.Telemetry/Get'), { kind: 'method', path: '/offbox.v1.Telemetry/Get' })
  t.same(parseSubject('routing:neighbors.sw2.peerAs'), { kind: 'config', service: 'routing', path: ['neighbors', 'sw2', 'peerAs'] })
  t.same(parseSubject('routing:/staticRoutes/10.0.0.0~18/via'), { kind: 'config', service: 'routing', path: ['staticRoutes', '10.0.0.0/8', 'via'] })
  for (const bad of ['', '/', '/x', '/a/b/c', 'Tele metry', ':x', '../etc:passwd', 'x'.repeat(600)])
    t.throws(() => parseSubject(bad), { code: 'ARGUMENT_INVALID' }, bad.slice(0, 20))
})

t.test('entries of a list go by number, name or prefix; where a path leaves the document is told, and what there is', async (t) => {
  const document = { neighbors: [{ name: 'sw2', peerAs: 65_002 }], staticRoutes: [{ prefix: '10.0.0.0/8', via: '10.77.0.1' }], absent: undefined }
  t.same(lookUp(document, ['neighbors', 'sw2', 'peerAs']), { value: 65_002 })
  t.same(lookUp(document, ['neighbors', '0', 'peerAs']), { value: 65_002 })
  t.same(lookUp(document, ['staticRoutes', '10.0.0.0/8', 'via']), { value: '10.77.0.1' })
  t.same(lookUp(document, []), { value: document })
  t.same(lookUp(document, ['neighbors', 'sw9']), { at: 'neighbors', choices: ['sw2'] })
  t.same(lookUp(document, ['absent']), { at: '', choices: ['neighbors', 'staticRoutes'] })
  for (const step of ['__proto__', 'constructor', 'toString']) t.ok('at' in lookUp(document, [step]), step)
})

t.test('one refuted statement outweighs all others, one unknown all that holds', async (t) => {
  const one = (standing: Statement['standing']): Statement => ({ question: 'gate', standing, text: '', basis: '' })
  t.equal(verdictOf([one('verified'), one('stated')]), 'answered')
  t.equal(verdictOf([one('verified'), one('unknown')]), 'incomplete')
  t.equal(verdictOf([one('unknown'), one('refuted'), one('verified')]), 'refuted')
  const answer = answerOf({ deviceId: 'd', subject: 's', service: 's', version: '' }, [
    { ...one('stated'), facts: { b: 2 } },
    { ...one('verified'), question: 'runs', facts: { a: 1 } },
  ])
  t.same(
    answer.statements.map(({ question }) => question),
    ['runs', 'gate'],
    'in the order of the questions',
  )
  t.same(answer.facts, { runs: { a: 1 }, gate: { b: 2 } })
})
