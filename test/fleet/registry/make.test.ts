import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Home } from '../../../fleet/home/home.ts'
import { initHome } from '../../../fleet/home/init.ts'
import { readSigningKey } from '../../../fleet/home/keys.ts'
import { buildBundle, signBundle } from '../../../fleet/registry/make.ts'
import { makeBundle, makeKey } from '../../fixtures/bundles.ts'

function service(t: { testdir(): string }, code: string): string {
  const folder = join(t.testdir(), 'service')
  mkdirSync(folder, { recursive: true })
  const manifest = { name: 'one', version: '1.0.0', methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32 }
  writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest))
  writeFileSync(join(folder, 'other.ts'), `export const other = 1\n\n${code}\n`)
  writeFileSync(join(folder, 'service.ts'), `import { other } from './other.ts'\nexport const create = () => other\n`)
  return folder
}

for (const [what, code, place] of [
  ['import() of a module of Node', `globalThis.a = () => import('node:' + other)`, 'other.ts:3'],
  ['import() in a text', `globalThis.a = 'import(x)'`, 'other.ts:3'],
  ['a direct eval', `globalThis.a = (b: string) => eval(b)`, 'other.ts:3'],
  ['an HTML comment in a text', `globalThis.a = '<!-- x'`, 'other.ts:3'],
] as const) {
  t.test(`code with ${what} is refused when it is built, with its place in the source`, async (t) => {
    await t.rejects(buildBundle(service(t, code)), { code: 'BUNDLE_MALFORMED', message: new RegExp(`${place}:.*refused`) })
  })
}

t.test('the same words in a comment, or as part of others, are no reason', async (t) => {
  const folder = service(t, `// import('x') and eval('y') <!--\nglobalThis.a = { import: () => 1, reval: () => 2 }.import()`)
  t.equal((await buildBundle(folder)).manifest.name, 'one')
})

t.test('such code is not signed, wherever the bundle comes from', async (t) => {
  const home = new Home(join(t.testdir(), 'home'))
  await initHome(home.path, { nowMs: Date.now() })
  const key = await readSigningKey(home)
  const file = makeBundle(makeKey(), { name: 'one', version: '1.0.0' }, `var a = 1\nvar b = eval('a')`)
  t.throws(() => signBundle(file, key), { code: 'BUNDLE_MALFORMED', message: /line 2 of the payload/ })
})
