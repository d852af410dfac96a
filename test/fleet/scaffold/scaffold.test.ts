import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { newService } from '../../../fleet/scaffold/scaffold.ts'
import { rpcName, serviceFiles } from '../../../fleet/scaffold/templates.ts'
import { root } from '../../tidy/sources.ts'

// Codecs, compilers and formatters run as processes of their own.
t.setTimeout(300_000)

/** What a service and its tests need of a checkout, outside any checkout. */
async function checkout(t: Test, parts: readonly string[]): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'offbox-scaffold-'))
  t.teardown(async () => await rm(directory, { recursive: true, force: true }))
  for (const part of parts) await cp(join(root, part), join(directory, part), { recursive: true, preserveTimestamps: true })
  await symlink(join(root, 'node_modules'), join(directory, 'node_modules'))
  return directory
}

/** Enough for the checks that come before anything is written. */
async function bareCheckout(t: Test): Promise<string> {
  const directory = await checkout(t, ['services/sdk/service.ts', 'proto/offbox'])
  await writeFile(join(directory, 'proto/generate.mjs'), 'process.exitCode = 1\nprocess.stderr.write("no compiler")\n')
  return directory
}

async function run(file: string, args: readonly string[], cwd: string): Promise<{ code: number; out: string }> {
  const { TAP: _, ...env } = process.env
  return await new Promise((resolve) => {
    execFile(file, args, { cwd, env: { ...env, TAP_TIMEOUT: '300' } }, (error, out, err) =>
      resolve({ code: error ? Number(error.code ?? 1) : 0, out: `${out}${err}` }),
    )
  })
}

const listing = async (directory: string) => (await readdir(directory, { recursive: true })).filter((path) => !path.startsWith('node_modules')).sort()

t.test('a new service builds into a bundle, passes its tests, its types, the linter and the tidy tests', async (t) => {
  const folders = ['agent', 'core', 'docs', 'fleet', 'image', 'proto', 'services', 'bench', 'test/tidy', 'test/services', 'test/fixtures/services']
  const directory = await checkout(t, [...folders, 'package.json', 'tsconfig.json', 'biome.json'])
  const bin = (name: string) => join(root, 'node_modules/.bin', name)
  const offbox = (...args: string[]) => run(process.execPath, [join(root, 'fleet/cli/offbox.mjs'), ...args], directory)
  // The shortest and the longest name: no line may need another break for it.
  const longest = `link-${'watcher'.repeat(5)}`
  for (const name of ['a', longest]) {
    t.match(await offbox('service', 'new', name, '--dir', directory), { code: 0, out: new RegExp(`wrote services/${name}/service\\.ts, `) })
    const built = await offbox('bundle', 'build', `services/${name}`, '--out', 'x.offbox', '--json')
    t.match(JSON.parse(built.out.trim().split('\n').at(-1) ?? ''), { service: name, version: '1.0.0' })
    const tested = await run(process.execPath, [`test/services/${name}/${name}.test.ts`], directory)
    t.equal(tested.code, 0, tested.code === 0 ? `the tests of ${name}` : tested.out)
    t.match(tested.out, /survives a hand-over/, 'the conformance suite has run')
  }
  const own = ['a', longest].flatMap((name) => [...serviceFiles(name).keys()].filter((path) => /\.(ts|json)$/.test(path)))
  const linted = await run(bin('biome'), ['check', '--error-on-warnings', ...own], directory)
  t.equal(linted.code, 0, linted.code === 0 ? 'the linter' : linted.out)
  const types = { extends: './tsconfig.json', include: own.filter((path) => path.endsWith('.ts')) }
  await writeFile(join(directory, 'tsconfig.new.json'), JSON.stringify(types))
  // tap gives every child a loader by NODE_OPTIONS, and under that one TypeScript's compiler does not start.
  const typed = await run('env', ['-u', 'NODE_OPTIONS', bin('tsc'), '-p', 'tsconfig.new.json'], directory)
  t.equal(typed.code, 0, typed.code === 0 ? 'the types' : typed.out)
  for (const rule of ['test/tidy/imports.test.ts', 'test/services/bundling.test.ts']) {
    const tidy = await run(process.execPath, [rule], directory)
    t.equal(tidy.code, 0, tidy.code === 0 ? rule : tidy.out)
  }
})

t.test('a name that is unfit or taken is refused, and nothing is written', async (t) => {
  const directory = await bareCheckout(t)
  await mkdir(join(directory, 'services/telemetry'))
  await mkdir(join(directory, 'test/services/tested'), { recursive: true })
  await writeFile(join(directory, 'proto/offbox/v1/other.proto'), 'service A1 {\n}\n')
  const before = await listing(directory)
  const unfit = ['', 'A', '1a', 'a_b', 'a--b', 'a-', '-a', '../a', 'a/b', 'a b', 'é', 'agent', 'sdk', 'gen', 'dist', 'net-utils', 'x'.repeat(41)]
  const taken = ['telemetry', 'tested', 'lifecycle', 'routing', 'other', 'a-1']
  for (const name of [...unfit, ...taken]) await t.rejects(newService(name, directory), { code: 'ARGUMENT_INVALID' }, JSON.stringify(name))
  await t.rejects(newService('hello', join(directory, 'proto')), { code: 'ARGUMENT_INVALID', message: /is no checkout/ })
  t.same(await listing(directory), before)
})

t.test('what fails halfway is taken back, and only that', async (t) => {
  const directory = await bareCheckout(t)
  const before = await listing(directory)
  await t.rejects(newService('hello', directory), { code: 'SETUP_MISSING', message: /no compiler/ })
  t.same(await listing(directory), before, 'the compiler failed')
  // A file where a folder has to be: the last of the files cannot be written.
  await writeFile(join(directory, 'test'), 'mine')
  await t.rejects(newService('hello', directory))
  t.same(await listing(directory), [...before, 'test'].sort())
  t.equal(await readFile(join(directory, 'test'), 'utf8'), 'mine')
})

t.test('of two at once one is refused, and the other one is whole', async (t) => {
  const directory = await bareCheckout(t)
  await writeFile(join(directory, 'proto/generate.mjs'), '')
  const both = await Promise.allSettled([newService('hello', directory), newService('hello', directory)])
  t.same(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  t.match(
    both.find(({ status }) => status === 'rejected'),
    { reason: { code: 'ARGUMENT_INVALID' } },
  )
  for (const [path, text] of serviceFiles('hello')) t.equal(await readFile(join(directory, path), 'utf8'), text, path)
})

t.test('a gRPC service is named after its service', async (t) => {
  t.equal(rpcName('hello'), 'Hello')
  t.equal(rpcName('link-watch-2'), 'LinkWatch2')
})
