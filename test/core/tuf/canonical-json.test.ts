import { generateKeyPairSync } from 'node:crypto'
import t from 'tap'
import { TrustedMetadataStore } from 'tuf-js/dist/store.js'
import nacl from 'tweetnacl'
import { canonicalJson, signedBytes } from '../../../core/tuf/canonical-json.ts'
import { publicKeyOf, tufKeyId, tufKeyOf } from '../../../core/tuf/keys.ts'
import { TUF_LIMITS } from '../../../core/tuf/limits.ts'
import { formatMetadata, signMetadata } from '../../../core/tuf/signatures.ts'

t.test('values of the published description come out as it says', async (t) => {
  t.equal(canonicalJson({ b: [1, 2, 'x'], a: { z: null, y: true, x: false } }), '{"a":{"x":false,"y":true,"z":null},"b":[1,2,"x"]}')
  t.equal(canonicalJson({}), '{}')
  t.equal(canonicalJson([]), '[]')
  t.equal(canonicalJson(['quote " and backslash \\']), '["quote \\" and backslash \\\\"]')
  t.equal(canonicalJson('line\nfeed\tand \x01'), '"line\nfeed\tand \x01"', 'control characters stand for themselves')
  t.equal(canonicalJson('/\u2028é😀'), '"/\u2028é😀"')
  t.equal(canonicalJson({ A: 1, a: 2, '-': 3, _: 4, '10': 5, '9': 6 }), '{"-":3,"10":5,"9":6,"A":1,"_":4,"a":2}')
  t.equal(canonicalJson(Number.MIN_SAFE_INTEGER), '-9007199254740991')
})

t.test('what has no canonical form is refused', async (t) => {
  const refused: [string, unknown][] = [
    ['a fraction', 1.5],
    ['a number that lost digits', 2 ** 53],
    ['NaN', Number.NaN],
    ['minus zero', -0],
    ['undefined', { a: undefined }],
    ['a function', [() => 0]],
    ['a bigint', 1n],
    ['half a character', '\ud800'],
    ['a name beyond ASCII', { é: 1 }],
  ]
  for (const [what, value] of refused) t.throws(() => canonicalJson(value), { code: 'TRUST_MALFORMED' }, what)
  let deep: unknown = 0
  for (let depth = 0; depth <= TUF_LIMITS.depthMax; depth++) deep = [deep]
  t.throws(() => canonicalJson(deep), { code: 'TRUST_MALFORMED' }, 'a deep nest')
})

t.test('a key is named by its canonical form, and stands under no other name', async (t) => {
  const publicKey = new Uint8Array(Buffer.from('edcd0a32a07dce33f7c7873aaffbff36d20ea30787574ead335eefd337e4dacd', 'hex'))
  const key = tufKeyOf(publicKey)
  // The id that securesystemslib computes for this key without its old keyid_hash_algorithms field.
  t.equal(canonicalJson(key), '{"keytype":"ed25519","keyval":{"public":"edcd0a32a07dce33f7c7873aaffbff36d20ea30787574ead335eefd337e4dacd"},"scheme":"ed25519"}')
  t.same(publicKeyOf(tufKeyId(key), key), publicKey)
  t.throws(() => publicKeyOf('0'.repeat(64), key), { code: 'TRUST_MALFORMED' })
  t.throws(() => tufKeyOf(new Uint8Array(32)), { code: 'TRUST_MALFORMED' }, 'a small-order point')
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ format: 'pem', type: 'spki' })
  t.throws(() => publicKeyOf('0'.repeat(64), { keytype: 'rsa', scheme: 'rsassa-pss-sha256', keyval: { public: rsa } }), { code: 'TRUST_MALFORMED' })
})

t.test('tuf-js verifies what is signed here, odd strings and all', async (t) => {
  const pair = nacl.sign.keyPair()
  const key = tufKeyOf(pair.publicKey)
  const keyid = tufKeyId(key)
  const role = { keyids: [keyid], threshold: 1 }
  const signed = {
    _type: 'root' as const,
    spec_version: '1.0.31',
    version: 1,
    expires: '2030-01-01T00:00:00Z',
    consistent_snapshot: true as const,
    keys: { [keyid]: key },
    roles: { root: role, timestamp: role, snapshot: role, targets: role },
    'x-odd': { text: 'a "quoted" \\ line\nwith \u0007 and é😀', numbers: [0, -1, Number.MAX_SAFE_INTEGER] },
  }
  const metadata = signMetadata(signed, [{ keyid, sign: (message) => nacl.sign.detached(message, pair.secretKey) }])
  // As a client has it: parsed again from the file's text, and verified by its own keys.
  const peer = new TrustedMetadataStore(Buffer.from(formatMetadata(metadata))).root
  const damaged = { ...metadata, signed: { ...metadata.signed, version: 2 } }
  t.throws(() => new TrustedMetadataStore(Buffer.from(formatMetadata(damaged))), /UnsignedMetadataError|signed/)
  t.equal(Buffer.from(signedBytes(signed)).toString(), canonicalJson(peer.signed.toJSON()))
})
