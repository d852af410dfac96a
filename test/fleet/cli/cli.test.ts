import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import type { Command } from 'commander'
import t from 'tap'
import { mergeServices } from '../../../fleet/cli/commands/device.ts'
import { program } from '../../../fleet/cli/main.ts'
import { printable, table, time, toJson } from '../../../fleet/cli/output.ts'
import { CONFIG_SCHEMA } from '../../../fleet/config/schema.ts'

const root = join(import.meta.dirname, '../../..')
const offbox = join(root, 'fleet/cli/offbox.mjs')

// Every step is a process of its own.
t.setTimeout(300_000)

interface Ran {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

async function run(...args: string[]): Promise<Ran> {
  const child = spawn(process.execPath, [offbox, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  let err = ''
  child.stdout.on('data', (chunk) => (out += chunk))
  child.stderr.on('data', (chunk) => (err += chunk))
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  return { code, out, err }
}

/** Every command that does something, by its whole name. */
function* leaves(command: Command, path: string): Generator<{ name: string; command: Command }> {
  for (const child of command.commands) {
    const name = `${path} ${child.name()}`
    if (child.commands.length === 0) yield { name, command: child }
    else yield* leaves(child, name)
  }
}

t.test('every command is in docs/cli.md with its options, and has an example in its help', async (t) => {
  const docs = readFileSync(join(root, 'docs/cli.md'), 'utf8')
  for (const { name, command } of leaves(program(), 'offbox')) {
    t.ok(docs.includes(`\`${name}`), `${name} is documented`)
    let help = ''
    command.configureOutput({ writeOut: (text) => (help += text) }).outputHelp()
    t.match(help, new RegExp(`\\$ ${name}`), `${name} has an example`)
    for (const option of command.options) t.ok(docs.includes(option.long ?? ''), `${name} ${option.long}`)
  }
})

t.test('every setting and its default is in docs/configuration.md', async (t) => {
  const docs = readFileSync(join(root, 'docs/configuration.md'), 'utf8')
  for (const [part, schema] of Object.entries(CONFIG_SCHEMA.properties)) {
    if (!('properties' in schema)) continue
    for (const [name, rule] of Object.entries(schema.properties)) {
      t.ok(docs.includes(`| \`${part}.${name}\` | \`${(rule as { default: unknown }).default}\` |`), `${part}.${name}`)
    }
  }
})

t.test('wrong usage exits 2 and says what is wrong; errors exit 1 with code and next step, as JSON too', async (t) => {
  const home = join(t.testdir(), 'home')
  const [unknown, missing, bad, noHome, json] = await Promise.all([
    run('device', 'frob'),
    run('device', 'add', 'sw1', '--home', home),
    run('rollout', 'start', 'telemetry', '1.0.0', '--bake', 'long', '--home', home),
    run('device', 'list', '--home', home),
    run('device', 'list', '--home', home, '--json'),
  ])
  t.match(unknown, { code: 2, err: /unknown command 'frob'/ })
  t.match(missing, { code: 2, err: /required option '--serial <serial>'/ })
  t.match(bad, { code: 2, err: /must be a number of seconds/ })
  t.match(noHome, { code: 1, err: /^HOME_INVALID: .*anchors\.json is missing\n {2}next: run offbox init/ })
  t.match(JSON.parse(json?.out.trim().split('\n').at(-1) ?? ''), { error: 'HOME_INVALID', next: /offbox init/ })
  t.match(await run('--help'), { code: 0, out: /Exit codes/ })
})

t.test('from init to a registered device and a clean end', async (t) => {
  const directory = t.testdir()
  const home = join(directory, 'home')
  const made = await run('init', '--fleet', 'lab', '--home', home, '--json')
  t.equal(JSON.parse(made.out).fleet, 'lab')
  t.match(
    await run('device', 'list', '--home', home),
    { code: 4, err: /^CONTROLLER_UNREACHABLE: (.|\n)*next: start it: offbox controller serve/ },
    'no controller yet',
  )
  const config = join(home, 'offbox.yaml')
  const text = await readFile(config, 'utf8')
  await writeFile(config, text.replace('apiPort: 9340', 'apiPort: lots'))
  t.match(await run('controller', 'serve', '--home', home), { code: 1, err: /CONFIG_INVALID: .*offbox\.yaml:\d+:12: controller\.apiPort must be an integer/ })
  await writeFile(config, text.replace('9340', String(await freePort())).replace('9341', String(await freePort())))

  const controller = spawn(process.execPath, [offbox, '--home', home, 'controller', 'serve', '--json'], { stdio: ['ignore', 'pipe', 'ignore'] })
  try {
    const [line] = await firstLine(controller)
    t.match(JSON.parse(line ?? ''), { serving: 'controller', fleet: 'lab', address: '127.0.0.1' })
    t.match(await run('controller', 'serve', '--home', home), { code: 1, err: /^HOME_IN_USE: / })
    t.match(await run('device', 'add', 'sw1', '--serial', 'SN-1', '--mac', '52:54:00:00:00:01', '--home', home), { code: 0, out: /sw1 is registered/ })
    t.match(await run('device', 'get', 'sw1', '--home', home), { code: 0, out: /phase +registered: it has never enrolled/ })
    t.match(await run('rollout', 'watch', '--home', home), { code: 1, err: /ROLLOUT_NOT_FOUND/ })
    t.match(await run('device', 'logs', 'sw1', '--home', home), { code: 4, err: /DEVICE_UNREACHABLE: sw1 has never enrolled/ })
  } finally {
    controller.kill('SIGTERM')
    const code = await new Promise((resolve) => controller.once('exit', resolve))
    t.equal(code, 0, 'it ends cleanly')
  }
  t.match(await run('device', 'list', '--home', home), { code: 4 })
})

t.test('a bundle is built, signed, inspected and its floor raised without a controller', async (t) => {
  const directory = t.testdir({
    service: {
      'service.ts': 'export const create = (): string => "a service"\n',
      'manifest.json': JSON.stringify({ name: 'x', version: '1.0.0', methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32 }),
    },
  })
  const home = join(directory, 'home')
  const file = join(directory, 'x.offbox')
  await run('init', '--home', home)
  t.match(await run('bundle', 'build', join(directory, 'service'), '--out', file, '--version', '1.2.0', '--home', home), {
    code: 0,
    out: /x 1\.2\.0, \d+ bytes, not signed/,
  })
  t.match(await run('bundle', 'inspect', file, '--home', home), { code: 0, out: /trusted +false/ })
  t.match(await run('bundle', 'sign', file, '--home', home), { code: 0 })
  t.match(JSON.parse((await run('bundle', 'inspect', file, '--home', home, '--json')).out), { trusted: true, manifest: /"version":"1\.2\.0"/ })
  t.match(await run('bundle', 'floor', 'x', '1.1.0', '--home', home), { code: 0, out: /floors, statement 1: x 1\.1\.0/ })
  t.match(await run('bundle', 'floor', 'x', '1.0.0', '--home', home), { code: 2, err: /a floor never falls/ })
})

t.test('text of devices cannot steer the terminal, and what is printed can be cut', async (t) => {
  t.equal(printable('a\u001b[2Jb\u0007\u009b c\td'), 'a?[2Jb?? c\td')
  t.equal(table(['id', 'x'], [['sw1', 2]]), 'ID   X\nsw1  2')
  t.equal(table(['id'], [], 'no device'), 'no device')
  t.equal(time(0), '-')
  t.equal(time(1_000), '1970-01-01T00:00:01Z')
  t.equal(toJson({ bytes: new Uint8Array([1]), buffer: Buffer.from([2]), list: [Buffer.from([3])] }), '{"bytes":"AQ==","buffer":"Ag==","list":["Aw=="]}')
})

t.test('desired services are merged by name, and dropping what is not there is a mistake', async (t) => {
  const now = [
    { service: 'a', version: '1.0.0' },
    { service: 'b', version: '1.0.0' },
  ]
  t.same(mergeServices(now, [{ service: 'b', version: '2.0.0' }], ['a']), [{ service: 'b', version: '2.0.0' }])
  t.throws(() => mergeServices(now, [], ['c']), { code: 'ARGUMENT_INVALID' })
})

async function firstLine(child: ChildProcess): Promise<string[]> {
  let out = ''
  return await new Promise((resolve, reject) => {
    child.stdout?.on('data', (chunk) => {
      out += chunk
      if (out.includes('\n')) resolve(out.split('\n'))
    })
    child.once('exit', (code) => reject(new Error(`it ended with ${code}: ${out}`)))
  })
}

async function freePort(): Promise<number> {
  return await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
