import t from 'tap'
import { OffboxError } from '../../../core/errors.ts'
import { depthOf } from '../../../core/json-depth.ts'
import { parseBounded } from '../../../core/tuf/bounded-json.ts'
import { tufKeyId, tufKeyOf } from '../../../core/tuf/keys.ts'
import { TUF_LIMITS } from '../../../core/tuf/limits.ts'
import { fileName, parseFileName } from '../../../core/tuf/metadata.ts'
import { parseMetadata } from '../../../core/tuf/profile.ts'
import { filesOf } from '../../../core/tuf/push.ts'
import { formatMetadata, requireThreshold, signersOf, signMetadata } from '../../../core/tuf/signatures.ts'
import nacl from 'tweetnacl'

const pairs = [nacl.sign.keyPair(), nacl.sign.keyPair(), nacl.sign.keyPair()]
const table = Object.fromEntries(pairs.map(({ publicKey }) => [tufKeyId(tufKeyOf(publicKey)), tufKeyOf(publicKey)]))
const keyids = Object.keys(table)
const signers = pairs.map(({ publicKey, secretKey }) => ({
  keyid: tufKeyId(tufKeyOf(publicKey)),
  sign: (message: Uint8Array) => nacl.sign.detached(message, secretKey),
}))
const role = { keyids, threshold: 2 }
const expires = '2030-01-01T00:00:00Z'
const common = { spec_version: '1.0.31', version: 1, expires }
const meta = { version: 1, length: 10, hashes: { sha256: 'a'.repeat(64) } }

const good = {
  root: {
    _type: 'root' as const,
    ...common,
    consistent_snapshot: true as const,
    keys: table,
    roles: { root: role, timestamp: role, snapshot: role, targets: role },
  },
  timestamp: { _type: 'timestamp' as const, ...common, meta: { 'snapshot.json': meta } },
  snapshot: { _type: 'snapshot' as const, ...common, meta: { 'targets.json': meta, 'service-telemetry.json': meta } },
  targets: {
    _type: 'targets' as const,
    ...common,
    targets: {
      'services/telemetry/1.0.0.offbox': {
        length: 1,
        hashes: { sha256: 'b'.repeat(64) },
        custom: { service: 'telemetry', version: '1.0.0', manifestSha256: 'c'.repeat(64) },
      },
    },
    delegations: { keys: table, roles: [{ name: 'service-telemetry', ...role, paths: ['services/telemetry/*.offbox'], terminating: true }] },
  },
}
type Role = keyof typeof good
const signed = Object.fromEntries(Object.entries(good).map(([name, content]) => [name, signMetadata(content, signers)])) as unknown as Record<
  Role,
  { signed: object; signatures: object[] }
>

/** The file with the value at `path` replaced; undefined removes it. */
function changed(name: Role, path: string, value: unknown): Uint8Array {
  const copy = JSON.parse(JSON.stringify(signed[name]))
  const steps = path.split('/')
  const last = steps.pop() as string
  const at = steps.reduce((found, step) => found[step], copy)
  if (value === undefined) delete at[last]
  else at[last] = value
  return new TextEncoder().encode(JSON.stringify(copy))
}

t.test('metadata as it is written passes', async (t) => {
  for (const name of Object.keys(good) as Role[]) t.match(parseMetadata(formatMetadata(signed[name] as never), name).signed, { _type: name })
  t.match(parseMetadata(formatMetadata(signed.targets as never), 'service-telemetry').signed, { _type: 'targets' }, 'a delegated role is of type targets')
})

const [first, second] = keyids as [string, string]
// biome-ignore format: a table
const BROKEN: readonly [Role, string, unknown][] = [
  ['root', 'signed', undefined], ['root', 'signed', []], ['root', 'signatures', {}], ['root', 'signed/_type', 'targets'],
  ['root', 'signed/spec_version', '2.0.0'], ['root', 'signed/version', 0], ['root', 'signed/version', 1.5], ['root', 'signed/version', '1'],
  ['root', 'signed/version', 2 ** 31], ['root', 'signed/expires', '2030-01-01'], ['root', 'signed/expires', '2030-13-01T00:00:00Z'],
  ['root', 'signed/expires', '2030-01-01T00:00:00+01:00'], ['root', 'signed/consistent_snapshot', false],
  ['root', `signed/keys/${first}/keytype`, 'rsa'], ['root', `signed/keys/${first}/keyval/public`, '00'.repeat(32)],
  ['root', `signed/keys/${first}/keyval/public`, table[second]?.keyval.public], ['root', `signed/keys/${first}/keyval/public`, table[first]?.keyval.public.toUpperCase()],
  ['root', `signed/keys/${first}`, undefined], ['root', 'signed/roles/mirrors', role], ['root', 'signed/roles/targets', undefined],
  ['root', 'signed/roles/root/threshold', 0], ['root', 'signed/roles/root/threshold', 4], ['root', 'signed/roles/root/threshold', 1.5],
  ['root', 'signed/roles/root/keyids', [first, first]], ['root', 'signed/roles/root/keyids', ['f'.repeat(64)]], ['root', 'signed/roles/root/keyids', []],
  ['root', 'signatures', [signed.root.signatures[0], signed.root.signatures[0]]], ['root', 'signatures/0/sig', 'zz'], ['root', 'signatures/0/keyid', 'short'],
  ['root', 'signatures', Array.from({ length: TUF_LIMITS.signaturesMax + 1 }, (_, index) => ({ keyid: String(index).padStart(64, '0'), sig: '' }))],
  ['timestamp', 'signed/meta', {}], ['timestamp', 'signed/meta/targets.json', meta], ['timestamp', 'signed/meta/snapshot.json/length', undefined],
  ['timestamp', 'signed/meta/snapshot.json/length', -1], ['timestamp', 'signed/meta/snapshot.json/hashes', {}], ['timestamp', 'signed/meta/snapshot.json/hashes/sha256', 'A'.repeat(64)],
  ['snapshot', 'signed/meta/root.json', meta], ['snapshot', 'signed/meta/..%2Fevil.json', meta], ['snapshot', 'signed/meta/targets.json/version', 0],
  ['targets', 'signed/delegations/roles/0/name', 'root'], ['targets', 'signed/delegations/roles/0/name', '../x'],
  ['targets', 'signed/delegations/roles/0/path_hash_prefixes', ['00']], ['targets', 'signed/delegations/roles/0/paths', ['{a,b}']],
  ['targets', 'signed/delegations/roles/0/paths', ['+(a|b)']], ['targets', 'signed/delegations/roles/0/paths', undefined], ['targets', 'signed/delegations/roles/0/terminating', 1],
  ['targets', 'signed/delegations/roles/0/paths', ['services/*a*a*a*a*a*a*a*a*b']], ['targets', 'signed/delegations/roles/0/paths', ['services/**']],
  ['targets', 'signed/delegations/roles/0/threshold', 9], ['targets', 'signed/delegations/keys', []],
]

t.test('whatever is outside our part of TUF is refused before it is used', async (t) => {
  for (const [name, path, value] of BROKEN) {
    t.throws(() => parseMetadata(changed(name, path, value), name), { code: 'TRUST_MALFORMED' }, `${name}: ${path} ${JSON.stringify(value)?.slice(0, 60)}`)
  }
  for (const path of ['../../etc/passwd', '/absolute', 'services/.hidden', 'a//b', '', 'services/x\u0000']) {
    const targets = { [path]: Object.values(good.targets.targets)[0] }
    t.throws(() => parseMetadata(changed('targets', 'signed/targets', targets), 'targets'), { code: 'TRUST_MALFORMED' }, `path ${JSON.stringify(path)}`)
  }
})

t.test('size and depth are bounded before anything is parsed', async (t) => {
  const deep = new TextEncoder().encode('['.repeat(200_000))
  t.throws(() => parseBounded(deep, 1_000_000, 'x'), { code: 'TRUST_MALFORMED', message: /nested deeper/ })
  t.throws(() => parseBounded(new Uint8Array(5_000), 4_096, 'x'), { code: 'TRUST_MALFORMED', message: /5000 bytes/ })
  t.throws(() => parseMetadata(new Uint8Array(TUF_LIMITS.timestampBytesMax + 1), 'timestamp'), { code: 'TRUST_MALFORMED' })
  t.equal(depthOf(new TextEncoder().encode('{"[[[[\\"[[":[{}]}')), 3, 'brackets in strings are no nest')
  t.throws(() => parseBounded(new Uint8Array([0x22, 0xff, 0x22]), 10, 'x'), { code: 'TRUST_MALFORMED' }, 'bytes that are not UTF-8')
})

t.test('no damage to a file leads to another error than ours', async (t) => {
  let refused = 0
  for (const name of Object.keys(good) as Role[]) {
    const bytes = formatMetadata(signed[name] as never)
    for (let at = 0; at < bytes.length; at += 7) {
      const damaged = at % 2 === 0 ? bytes.subarray(0, at) : bytes.map((byte, index) => (index === at ? byte ^ (1 << (at % 8)) : byte))
      try {
        parseMetadata(damaged, name)
      } catch (error) {
        if (!(error instanceof OffboxError) || error.code !== 'TRUST_MALFORMED') throw error
        refused += 1
      }
    }
  }
  t.ok(refused > 300, `${refused} damaged files refused`)
})

t.test('a threshold counts keys, not signatures', async (t) => {
  const one = signMetadata(good.timestamp, signers.slice(0, 1))
  t.throws(() => requireThreshold(one, 'timestamp', role, table), { code: 'TRUST_THRESHOLD', message: /1 of the 3 keys/ })
  const twice = { ...one, signatures: [...one.signatures, ...one.signatures] }
  t.throws(() => requireThreshold(twice, 'timestamp', { ...role, keyids: [first, first, second] }, table), { code: 'TRUST_THRESHOLD' })
  const stranger = { ...one, signatures: [...one.signatures, { keyid: second, sig: one.signatures[0]?.sig ?? '' }] }
  t.same(signersOf(stranger, role, table), [first], "another key's signature under one's own name")
  requireThreshold(signMetadata(good.timestamp, signers.slice(1)), 'timestamp', role, table)
  // S + L: the same signature, written differently (RFC 8032, section 5.1.7).
  const L = 0x1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3edn
  const sig = Buffer.from(one.signatures[0]?.sig ?? '', 'hex')
  const s = BigInt(`0x${Buffer.from(sig.subarray(32)).reverse().toString('hex')}`) + L
  const malleated = Buffer.concat([sig.subarray(0, 32), Buffer.from(s.toString(16).padStart(64, '0'), 'hex').reverse()]).toString('hex')
  t.same(signersOf({ ...one, signatures: [{ keyid: first, sig: malleated }] }, role, table), [])
})

t.test('a push is bounded, and holds files of known names once', async (t) => {
  const file = (name: string, sizeBytes = 1) => ({ name, bytes: new Uint8Array(sizeBytes) })
  t.equal(filesOf({ files: [file('2.root.json'), file('timestamp.json'), file('7.service-a.json')] }).size, 3)
  const refused = [
    [file('timestamp.json'), file('timestamp.json')],
    [file('1.timestamp.json')],
    [file('0.root.json')],
    [file('../1.root.json')],
    [file('1.service-.json')],
    [file('1.mirrors.json')],
    [file('timestamp.json', TUF_LIMITS.timestampBytesMax + 1)],
    Array.from({ length: TUF_LIMITS.rootsPerPushMax + 1 }, (_, index) => file(`${index + 1}.root.json`)),
    Array.from({ length: TUF_LIMITS.filesPerPushMax + 1 }, (_, index) => file(`${index + 1}.targets.json`)),
    Array.from({ length: 4 }, (_, index) => file(`${index + 1}.targets.json`, TUF_LIMITS.targetsBytesMax)),
  ]
  for (const files of refused) t.throws(() => filesOf({ files }), { code: 'TRUST_MALFORMED' }, `${files.length} files from ${files[0]?.name}`)
  for (const [role, version] of [
    ['root', 3],
    ['timestamp', 0],
    ['service-a-b', 12],
  ] as const)
    t.same(parseFileName(fileName(role, version)), { role, version })
})
