import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { verifyBundle } from '../../../agent/trust/verify.ts'
import { joinBundle, splitBundle } from '../../../core/bundle-format.ts'
import { readDocuments } from '../../../core/documents.ts'
import type { SigningKey } from '../../../fleet/home/keys.ts'
import { inspectBundle } from '../../../fleet/registry/inspect.ts'
import { buildBundle, signBundle } from '../../../fleet/registry/make.ts'
import { readBundle } from '../../../fleet/registry/verify.ts'
import { flipBit, makeBundle, makeKey, trust } from '../../fixtures/bundles.ts'
import nacl from 'tweetnacl'

const root = join(import.meta.dirname, '../../..')
const key = makeKey()
const trusted = trust(key)
const signer: SigningKey = { ...key, sign: (message) => nacl.sign.detached(message, key.secretKey) }
const git = (cwd: string, ...args: string[]) =>
  execFileSync('git', ['-c', 'user.name=t', '-c', 'user.email=t@invalid', ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] }).toString()

/** A checkout with one service that uses one package of npm, in git. */
function checkout(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'offbox-build-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const folder = join(directory, 'one', 'services', 'hello')
  mkdirSync(folder, { recursive: true })
  writeFileSync(
    join(folder, 'service.ts'),
    "import Long from 'long'\nimport type { Unused } from './types.ts'\nexport const create = () => Long.fromNumber(1) as Unused\n",
  )
  writeFileSync(join(folder, 'types.ts'), 'export type Unused = unknown\n')
  writeFileSync(
    join(folder, 'manifest.json'),
    JSON.stringify({ name: 'hello', version: '1.0.0', methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32 }),
  )
  const one = join(directory, 'one')
  cpSync(join(root, 'package-lock.json'), join(one, 'package-lock.json'))
  writeFileSync(join(one, '.gitignore'), 'node_modules\n')
  symlinkSync(join(root, 'node_modules'), join(one, 'node_modules'))
  git(one, 'init', '-q')
  git(one, 'add', '.')
  git(one, 'commit', '-q', '-m', 'first')
  return one
}

const hello = (one: string) => join(one, 'services/hello')
const documentsOf = (built: Awaited<ReturnType<typeof buildBundle>>) => {
  const documents = readDocuments(built.manifest, splitBundle(built.file).documents)
  return documents as { sbom: Record<string, unknown>; provenance: Record<string, unknown> }
}

t.test('the same sources give the same bytes: again, in another directory, and after a commit elsewhere', async (t) => {
  const one = checkout(t)
  const first = (await buildBundle(hello(one))).file
  t.same((await buildBundle(hello(one))).file, first, 'again')
  const other = join(one, '..', 'a-longer-name-for-another-place')
  git(one, 'clone', '-q', one, other)
  cpSync(join(root, 'node_modules/long'), join(other, 'node_modules/long'), { recursive: true })
  t.same((await buildBundle(hello(other))).file, first, 'in a clone, whose node_modules are no link')
  writeFileSync(join(one, 'unrelated.txt'), 'x')
  git(one, 'add', '.')
  git(one, 'commit', '-q', '-m', 'unrelated')
  t.same((await buildBundle(hello(one))).file, first, 'after a commit that touches nothing of it')
  const here = process.cwd()
  process.chdir(hello(one))
  t.teardown(() => process.chdir(here))
  t.same((await buildBundle('.')).file, first, 'from the folder itself')
})

t.test('the SBOM lists what is in the payload and nothing else', async (t) => {
  const built = await buildBundle(hello(checkout(t)))
  const { sbom } = documentsOf(built)
  t.match(sbom, { bomFormat: 'CycloneDX', specVersion: '1.6', version: 1, metadata: { component: { name: 'hello', version: '1.0.0' } } })
  const components = sbom['components'] as { type: string; name: string; 'bom-ref': string; purl?: string; hashes: { alg: string; content: string }[] }[]
  t.same(
    components.map(({ type, name }) => `${type} ${name}`),
    ['library long', 'file services/hello/manifest.json', 'file services/hello/service.ts'],
    'a file of types is not',
  )
  t.match(components[0], { purl: /^pkg:npm\/long@\d/, hashes: [{ alg: 'SHA-512', content: /^[0-9a-f]{128}$/ }] })
  const refs = [...components.map((one) => one['bom-ref']), (sbom['metadata'] as { component: { 'bom-ref': string } }).component['bom-ref']]
  t.equal(new Set(refs).size, refs.length, 'references are unique')
  const edges = sbom['dependencies'] as { ref: string; dependsOn: string[] }[]
  t.ok(
    edges.every(({ ref, dependsOn }) => refs.includes(ref) && dependsOn.every((one) => refs.includes(one))),
    'and point to what is there',
  )
  t.notMatch(JSON.stringify(documentsOf(built)), new RegExp(`${tmpdir()}|${root}|\\d\\d:\\d\\d:\\d\\d`), 'no path of this machine, no time')
})

t.test('the provenance names commit, tools and digests, and admits to changes that no commit has', async (t) => {
  const one = checkout(t)
  const clean = inspectBundle(signBundle((await buildBundle(hello(one))).file, signer), { trusted }).build
  t.match(clean, { commit: git(one, 'log', '-1', '--format=%H').trim(), dirty: false, folder: 'services/hello', lockSha256: /^[0-9a-f]{64}$/ })
  t.match(clean, { builder: { version: { node: process.versions.node, esbuild: /^\d/ } } })
  writeFileSync(join(hello(one), 'service.ts'), 'export const create = () => 2\n')
  const built = await buildBundle(hello(one))
  t.match(inspectBundle(signBundle(built.file, signer), { trusted }).build, { dirty: true, packages: [] })
  const statement = documentsOf(built).provenance as unknown as { subject: { digest: { sha256: string } }[]; _type: string }
  t.equal(statement.subject[0]?.digest.sha256, built.manifest.payload.sha256)
  rmSync(join(one, '.git'), { recursive: true })
  t.match(inspectBundle(signBundle((await buildBundle(hello(one))).file, signer), { trusted }).build, { commit: null, dirty: null })
})

t.test('documents that the manifest was not signed with are refused, here and on a device', async (t) => {
  const file = signBundle((await buildBundle(hello(checkout(t)))).file, signer)
  t.equal(readBundle(file, trusted).service, 'hello')
  t.equal(verifyBundle(file, trusted).manifest.name, 'hello')
  const { documents: _, ...sections } = splitBundle(file)
  const wrong: [string, Uint8Array][] = [
    ['a flipped bit', flipBit(file, -3)],
    ['none', joinBundle(sections)],
    ['others', joinBundle({ ...sections, documents: new TextEncoder().encode('{"sbom":{},"provenance":{}}') })],
  ]
  for (const [what, one] of wrong) {
    t.throws(() => readBundle(one, trusted), { code: 'BUNDLE_CORRUPT' }, what)
    t.throws(() => verifyBundle(one, trusted), { code: 'BUNDLE_CORRUPT' }, `${what}, on a device`)
  }
  t.throws(() => splitBundle(new Uint8Array([...joinBundle(sections), 0, 0, 0, 0])), { code: 'BUNDLE_MALFORMED' }, 'an empty section')
  t.throws(() => splitBundle(new Uint8Array([...file, 0])), { code: 'BUNDLE_MALFORMED' }, 'bytes after them')
})

t.test('a bundle without documents is read as before, and may not have any slipped in', async (t) => {
  const old = makeBundle(key, { name: 'hello', version: '1.0.0' })
  t.equal(readBundle(old, trusted).service, 'hello')
  t.match(inspectBundle(old, { trusted }), { verdict: { accepted: true }, build: null, sbom: null })
  const added = joinBundle({ ...splitBundle(old), documents: new TextEncoder().encode('{"sbom":{},"provenance":{}}') })
  t.throws(() => verifyBundle(added, trusted), { code: 'BUNDLE_CORRUPT' })
})

t.test('inspect gives the verdict of a device, and parses nothing that no trusted key signed', async (t) => {
  const file = signBundle((await buildBundle(hello(checkout(t)))).file, signer)
  t.match(inspectBundle(file, { trusted }), { verdict: { accepted: true }, trusted: true, sbom: { bomFormat: 'CycloneDX' } })
  t.match(inspectBundle(file, { trusted: trust(makeKey()) }), {
    verdict: { accepted: false, code: 'BUNDLE_UNTRUSTED' },
    trusted: false,
    build: null,
    sbom: null,
  })
  const rolled = inspectBundle(file, { trusted, floors: { version: 1, floors: { hello: '1.0.1' } } })
  t.match(rolled, { verdict: { accepted: false, code: 'BUNDLE_ROLLBACK' }, trusted: true, sbom: { bomFormat: 'CycloneDX' } })
  t.match(inspectBundle(flipBit(file, -3), { trusted }), { verdict: { accepted: false, code: 'BUNDLE_CORRUPT' }, build: null })
  t.equal(inspectBundle(file, { trusted }).publishedBy, undefined)
  const targets = { 'services/hello/1.0.0.offbox': { length: file.length, hashes: { sha256: inspectBundle(file, { trusted }).sha256 }, custom: {} as never } }
  const role = { signed: { _type: 'targets' as const, spec_version: '1.0.31', version: 1, expires: '2030-01-01T00:00:00Z', targets } }
  t.equal(inspectBundle(file, { trusted, roles: new Map([['service-hello', role]]) }).publishedBy, 'service-hello')
  t.equal(inspectBundle(signBundle(file, { ...signer, keyId: '0'.repeat(64) }), { trusted, roles: new Map([['service-hello', role]]) }).publishedBy, null)
})
