import t from 'tap'
import { formatAnchors, parseAnchors } from '../../core/anchors.ts'
import { makeKey, trust } from '../fixtures/bundles.ts'

const caPem = '-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n'
const base = { fleet: 'lab', caPem, bundleKeys: trust(makeKey()) }

t.test('anchors are read as they were written, with and without those of trust', async (t) => {
  t.same(parseAnchors(formatAnchors(base)), { ...base, trust: undefined })
  const more = { root: '{"signed": {}}', witnessKeys: trust(makeKey(), makeKey()), builtAtMs: 1_790_000_000_000 }
  t.same(parseAnchors(formatAnchors({ ...base, trust: more })), { ...base, trust: more })
  t.same(parseAnchors(formatAnchors({ ...base, trust: { ...more, witnessKeys: new Map() } })).trust?.witnessKeys.size, 0, 'a fleet without a witness says so')
})

t.test('half of them is not taken for none', async (t) => {
  const good = JSON.parse(formatAnchors({ ...base, trust: { root: '{}', witnessKeys: trust(makeKey()), builtAtMs: 1 } }))
  const refused = (over: unknown, message: RegExp) =>
    t.throws(() => parseAnchors(JSON.stringify({ ...good, trust: over })), { code: 'HOME_INVALID', message }, JSON.stringify(over))
  refused(null, /trust\.root/)
  refused({}, /trust\.root/)
  refused({ ...good.trust, root: '' }, /trust\.root/)
  refused({ ...good.trust, root: ' '.repeat(40_000) }, /trust\.root/)
  refused({ ...good.trust, witnessKeys: undefined }, /trust\.witnessKeys/)
  refused({ ...good.trust, witnessKeys: ['00'.repeat(32)] }, /trust\.witnessKeys/)
  refused({ ...good.trust, builtAtMs: undefined }, /trust\.builtAtMs/)
  refused({ ...good.trust, builtAtMs: -1 }, /trust\.builtAtMs/)
})
