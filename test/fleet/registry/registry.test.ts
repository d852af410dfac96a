import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { joinBundle, splitBundle } from '../../../core/bundle-format.ts'
import { readFloors } from '../../../core/floors.ts'
import { Home, readAnchors } from '../../../fleet/home/home.ts'
import { initHome } from '../../../fleet/home/init.ts'
import { makeSigningKey, readSigningKey } from '../../../fleet/home/keys.ts'
import { raiseFloor, readFloorsFile } from '../../../fleet/registry/floors.ts'
import { buildBundle, signBundle } from '../../../fleet/registry/make.ts'
import { gather, Registry } from '../../../fleet/registry/registry.ts'
import { testBundle } from '../harness.ts'

async function setUp(t: { testdir(): string }) {
  const home = new Home(join(t.testdir(), 'home'))
  await initHome(home.path, { nowMs: Date.now() })
  const trusted = (await readAnchors(home)).bundleKeys
  return { home, trusted, key: await readSigningKey(home), registry: new Registry(home.registry, trusted) }
}

t.test('a bundle is kept once under its name and version, and other bytes there are refused', async (t) => {
  const { registry, key } = await setUp(t)
  const file = testBundle(key, 'telemetry', '1.0.0')
  const facts = await registry.put(file)
  t.same(await registry.put(file), facts)
  await t.rejects(registry.put(testBundle(key, 'telemetry', '1.0.0', '// other')), { code: 'BUNDLE_EXISTS' })
  t.equal(Buffer.compare(await registry.read('telemetry', '1.0.0'), file), 0)
  await registry.put(testBundle(key, 'telemetry', '1.10.0'))
  await registry.put(testBundle(key, 'telemetry', '1.9.0'))
  t.same(
    (await registry.list()).map((one) => one.version),
    ['1.0.0', '1.9.0', '1.10.0'],
    'by version, not by text',
  )
})

t.test('what a device would refuse never gets into the registry', async (t) => {
  const { home, registry, key } = await setUp(t)
  const good = testBundle(key, 'telemetry', '1.0.0')
  const sections = splitBundle(good)
  const stranger = await makeSigningKey(home)
  await t.rejects(registry.put(joinBundle({ ...sections, signatures: [] })), { code: 'BUNDLE_UNTRUSTED', message: /not signed/ })
  await t.rejects(registry.put(signBundle(joinBundle({ ...sections, signatures: [] }), stranger)), { code: 'BUNDLE_UNTRUSTED' })
  const flip = (at: number) => good.map((byte, index) => (index === at ? byte ^ 1 : byte))
  await t.rejects(registry.put(flip(20)), { code: 'BUNDLE_UNTRUSTED' })
  await t.rejects(registry.put(flip(good.length - 1)), { code: 'BUNDLE_CORRUPT' })
  await t.rejects(registry.put(flip(0)), { code: 'BUNDLE_MALFORMED' })
  await t.rejects(registry.put(good.subarray(0, 50)), { code: 'BUNDLE_MALFORMED' })
  await t.rejects(registry.put(new Uint8Array()), { code: 'BUNDLE_MALFORMED' })
  t.same(await registry.list(), [])
})

t.test('a bundle that rots on disk is not supplied, and the same release put again cures it', async (t) => {
  const { home, registry, key } = await setUp(t)
  const file = testBundle(key, 'telemetry', '1.0.0')
  await registry.put(file)
  const path = join(home.registry, 'telemetry/1.0.0.offbox')
  const rotten = await readFile(path)
  rotten[rotten.length - 1] = 0
  await writeFile(path, rotten)
  await t.rejects(registry.read('telemetry', '1.0.0'), { code: 'BUNDLE_CORRUPT' })
  await registry.put(file)
  await registry.require('telemetry', '1.0.0')
})

t.test('names from outside cannot leave the registry', async (t) => {
  const { registry } = await setUp(t)
  for (const [service, version] of [
    ['../ca', '1.0.0'],
    ['telemetry', '../../ca/ca'],
    ['', ''],
    ['telemetry', '1'],
  ] as const) {
    await t.rejects(registry.read(service, version), { code: 'BUNDLE_NOT_FOUND' })
  }
})

t.test('an endless upload is cut off', async (t) => {
  async function* endless() {
    for (;;) yield { chunk: new Uint8Array(256 * 1024) }
  }
  await t.rejects(gather(endless()), { code: 'LIMIT_REACHED' })
})

t.test('a floor rises and never falls, and only a trusted key states it', async (t) => {
  const { home, trusted, key } = await setUp(t)
  const input = { path: home.floors, key, trusted }
  t.same(await raiseFloor(input, 'telemetry', '1.0.0'), { version: 1, floors: { telemetry: '1.0.0' } })
  t.same(await raiseFloor(input, 'routing', '2.0.0'), { version: 2, floors: { telemetry: '1.0.0', routing: '2.0.0' } })
  t.equal((await raiseFloor(input, 'routing', '2.0.0')).version, 2, 'saying it again states nothing new')
  await t.rejects(raiseFloor(input, 'telemetry', '0.9.0'), { code: 'ARGUMENT_INVALID', message: /never falls/ })
  await t.rejects(raiseFloor(input, 'telemetry', 'one'), { code: 'ARGUMENT_INVALID' })
  await t.rejects(raiseFloor({ ...input, key: await makeSigningKey(home) }, 'telemetry', '3.0.0'), { code: 'FLOORS_UNTRUSTED' })
  t.equal(readFloors(await readFloorsFile(home.floors), trusted).version, 2)
})

t.test('the same sources make the same bundle, and a version may be given', async (t) => {
  const folder = t.testdir({
    'service.ts': 'export const create = (): string => "a service"\n',
    'manifest.json': JSON.stringify({ name: 'x', version: '1.0.0', methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32 }),
  })
  const one = await buildBundle(folder)
  t.equal(Buffer.compare(one.file, (await buildBundle(folder)).file), 0)
  t.equal((await buildBundle(folder, '1.2.3')).manifest.version, '1.2.3')
  await t.rejects(buildBundle(folder, 'next'), { code: 'BUNDLE_MALFORMED', message: /version/ })
  const code = new TextDecoder().decode(splitBundle(one.file).payload)
  t.equal(typeof new Function(`${code}\nreturn offboxService`)().create, 'function')
})

t.test('what a service requires and provides goes into its bundle, and a range that is none is told', async (t) => {
  const methods = [{ path: '/test.X/Do', kind: 'unary' }]
  const base = { name: 'x', version: '1.0.0', methods, capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32 }
  const folder = (over: object) =>
    t.testdir({ 'service.ts': 'export const create = (): string => "a service"\n', 'manifest.json': JSON.stringify({ ...base, ...over }) })
  const asked = { provides: { 'test.X': '2.1.0' }, requires: { kernel: '^1.0.0', apis: { 'offbox.v1.Routing': '^1.0.0 || ^2.0.0' } } }
  t.match((await buildBundle(folder(asked))).manifest, asked)
  for (const [over, message] of [
    [{ requires: { apis: { 'offbox.v1.Routing': 'new' } } }, /requires\.apis\.offbox\.v1\.Routing must be a SemVer range/],
    [{ requires: { kernel: 'x.y' } }, /requires\.kernel must be a SemVer range/],
    [{ requires: { api: {} } }, /unknown field requires\.api/],
    [{ provides: { 'test.Y': '1.0.0' } }, /provides names test\.Y, of which it declares no method/],
  ] as const) {
    await t.rejects(buildBundle(folder(over)), { code: 'BUNDLE_MALFORMED', message })
  }
})

t.test('a service that cannot be built is told with file and line', async (t) => {
  const manifest = JSON.stringify({ name: 'x', version: '1.0.0', methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32 })
  await t.rejects(buildBundle(t.testdir({ 'manifest.json': manifest, 'service.ts': 'export const a = 1\nexport const b = = 2\n' })), {
    code: 'BUNDLE_MALFORMED',
    message: /service\.ts:2:18/,
  })
  const node = t.testdir({
    'manifest.json': manifest,
    'service.ts': "import { readFileSync } from 'node:fs'\nexport const create = () => readFileSync('/etc/passwd')\n",
  })
  await t.rejects(buildBundle(node), { code: 'BUNDLE_MALFORMED', message: /node:fs/ })
  await t.rejects(buildBundle(join(node, 'none')), { code: 'BUNDLE_MALFORMED', message: /manifest\.json cannot be used/ })
})
