import { createHash } from 'node:crypto'
import t from 'tap'
import { CAPABILITIES } from '../../core/manifest.ts'
import {
  checkPolicy,
  formatPolicy,
  POLICY_LIMITS,
  POLICY_PATH,
  type Policy,
  policyBytesMax,
  policyVerdict,
  readPolicy,
  requirePolicy,
} from '../../core/policy.ts'
import type { VerifiedTarget } from '../../core/trust/verification.ts'

const KEY = 'a1'.repeat(32)
const OTHER = 'b2'.repeat(32)
const policy: Policy = { version: 3, services: { telemetry: { keys: [KEY], capabilities: ['proc', 'link'], tiers: ['worker'] } } }
const subject = { service: 'telemetry', keyIds: [KEY], capabilities: ['proc'], tier: 'worker' } as const

/** As a verification would brand it. */
const targetOf = (bytes: Uint8Array, over: object = {}) =>
  ({
    path: POLICY_PATH,
    role: 'targets',
    length: bytes.length,
    hashes: { sha256: createHash('sha256').update(bytes).digest('hex') },
    ...over,
  }) as unknown as VerifiedTarget

t.test('a verdict names the rule that forbids, and nothing is allowed that is not named', async (t) => {
  t.equal(policyVerdict(policy, subject), null)
  t.equal(policyVerdict(policy, { ...subject, keyIds: [OTHER, KEY] }), null, 'one of the keys is enough')
  t.match(policyVerdict(null, subject), /there is no policy/)
  t.match(policyVerdict({ ...policy, services: {} }, subject), /version 3 does not name telemetry/)
  t.match(policyVerdict(policy, { ...subject, service: 'constructor' }), /does not name constructor/)
  t.match(policyVerdict(policy, { ...subject, keyIds: [OTHER] }), /services\.telemetry\.keys: none of them signed it \(signed by b2b2b2b2b2b2b2b2\)/)
  t.match(policyVerdict(policy, { ...subject, keyIds: [] }), /no trusted key/)
  t.match(policyVerdict(policy, { ...subject, capabilities: ['proc', 'keystore'] }), /services\.telemetry\.capabilities: "keystore"/)
  t.match(policyVerdict(policy, { ...subject, tier: 'process' }), /services\.telemetry\.tiers: "process"/)
  t.throws(() => requirePolicy(policy, { ...subject, keyIds: [OTHER] }), { code: 'POLICY_DENIED', message: /^telemetry may not run here/ })
})

t.test('every capability and tier alone decides', async (t) => {
  for (const allowed of CAPABILITIES) {
    const one: Policy = { version: 1, services: { telemetry: { keys: [KEY], capabilities: [allowed], tiers: ['process'] } } }
    for (const asked of CAPABILITIES) {
      for (const tier of ['worker', 'process'] as const) {
        const verdict = policyVerdict(one, { ...subject, capabilities: [asked], tier })
        t.equal(verdict === null, asked === allowed && tier === 'process', `${asked} in ${tier} where ${allowed} is allowed`)
      }
    }
  }
})

t.test('a file is read as it was written, in any order of names', async (t) => {
  const services = { zebra: policy.services['telemetry'], alpha: policy.services['telemetry'] } as Policy['services']
  const bytes = formatPolicy({ version: 1, services })
  t.same(readPolicy(bytes, targetOf(bytes)), { version: 1, services })
  t.same(Object.keys(JSON.parse(Buffer.from(bytes).toString()).services), ['alpha', 'zebra'])
})

t.test('only the file that the top-level targets mean is parsed', async (t) => {
  const bytes = formatPolicy(policy)
  t.throws(() => readPolicy(new Uint8Array([...bytes, 32]), targetOf(bytes)), { code: 'TRUST_MISMATCH' })
  t.throws(() => readPolicy(bytes, targetOf(bytes, { length: bytes.length - 1 })), { code: 'TRUST_MISMATCH' })
  t.throws(() => readPolicy(bytes, targetOf(bytes, { role: 'service-telemetry' })), { code: 'TRUST_MISMATCH', message: /no say/ })
  t.throws(() => readPolicy(bytes, targetOf(bytes, { path: 'services/x/1.0.0.offbox' })), { code: 'TRUST_MISMATCH' })
  const deep = new TextEncoder().encode('['.repeat(50_000))
  t.throws(() => readPolicy(deep, targetOf(deep)), { code: 'TRUST_MALFORMED', message: /deeper/ })
  const long = new Uint8Array(policyBytesMax + 1)
  t.throws(() => readPolicy(long, targetOf(long)), { code: 'TRUST_MALFORMED', message: /bytes/ })
})

t.test('what is signed and yet no policy is refused with the rule', async (t) => {
  const rule = { keys: [KEY], capabilities: ['proc'], tiers: ['worker'] }
  const withRule = (over: object) => ({ version: 1, services: { telemetry: { ...rule, ...over } } })
  const many = Object.fromEntries(Array.from({ length: POLICY_LIMITS.servicesMax + 1 }, (_, index) => [`s${index}`, rule]))
  const bad: [unknown, RegExp][] = [
    [null, /it must be an object/],
    [[], /it must be an object/],
    [{ version: 1 }, /services must be an object/],
    [{ version: 0, services: {} }, /version/],
    [{ version: 1.5, services: {} }, /version/],
    [{ version: 2 ** 32, services: {} }, /version/],
    [{ version: '1', services: {} }, /version/],
    [{ version: 1, services: {}, more: 1 }, /unknown field "more"/],
    [{ version: 1, services: { 'Not a slug': rule } }, /cannot name a service/],
    [{ version: 1, services: many }, /more than 256/],
    [withRule({ keys: ['*'] }), /telemetry\.keys/],
    [withRule({ keys: [KEY.toUpperCase()] }), /telemetry\.keys/],
    [withRule({ keys: [KEY, KEY] }), /nothing twice/],
    [withRule({ keys: Array.from({ length: 17 }, (_, index) => index.toString(16).padStart(64, '0')) }), /at most 16/],
    [withRule({ keys: KEY }), /telemetry\.keys/],
    [withRule({ capabilities: ['root'] }), /telemetry\.capabilities/],
    [withRule({ tiers: ['kernel'] }), /telemetry\.tiers/],
    [withRule({ tiers: undefined }), /telemetry\.tiers/],
    [withRule({ paths: [] }), /unknown field "paths"/],
  ]
  for (const [raw, message] of bad) t.throws(() => checkPolicy(raw), { code: 'TRUST_MALFORMED', message }, JSON.stringify(raw)?.slice(0, 80))
  t.equal(checkPolicy(policy), policy)
})
