import { execFile } from 'node:child_process'
import { appendFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import t from 'tap'
import { writeCpio, type Entry } from '../../image/cpio.ts'
import { readCpio } from '../../image/cpio-read.ts'
import type { ImageDescription } from '../../image/facts.ts'
import { verifyImage } from '../../image/verify.ts'
import { privateKeyPem, standIn } from './stand-in.ts'

const ROOT = join(import.meta.dirname, '../..')
const BUILD_TIMEOUT_MS = 280_000
t.setTimeout(BUILD_TIMEOUT_MS)

const dir = await mkdtemp(join(tmpdir(), 'offbox-image-'))
t.teardown(() => rm(dir, { recursive: true, force: true }))
const { homeDir, agentDir } = await standIn(dir, 'console.log("agent")\n')

/** As the CLI does it: a program of its own. */
async function build(args: string[]): Promise<{ code: number; stderr: string; last: Record<string, unknown> }> {
  const command = ['image/build.ts', '--home', homeDir, '--agent', agentDir, '--json', ...args]
  const result = await promisify(execFile)(process.execPath, command, { cwd: ROOT }).then(
    (output) => ({ ...output, code: 0 }),
    (error) => error as { code: number; stdout: string; stderr: string },
  )
  return { code: result.code, stderr: result.stderr, last: JSON.parse(result.stdout.trim().split('\n').at(-1) ?? '{}') }
}

const first = await build(['--out', join(dir, 'first')])
const missing = (first.last['error'] as { code?: string; message?: string } | undefined)?.code === 'SETUP_MISSING'
const skip = missing ? `this machine cannot build an image: ${first.stderr.trim().split('\n').at(-1)}` : false

t.test('an image builds and passes its own verification', { skip }, async (t) => {
  t.equal(first.code, 0, first.stderr)
  t.match(first.last, { format: 1, imageSha256: /^[0-9a-f]{64}$/, artifacts: { vmlinuz: {}, 'initrd.img': {} } })
  t.same(await verifyImage(join(dir, 'first')), [])
})

t.test('two builds of the same input are equal to the bit', { skip }, async (t) => {
  const second = await build(['--out', join(dir, 'second')])
  t.equal(second.code, 0, second.stderr)
  for (const name of ['vmlinuz', 'initrd.img', 'image.json']) {
    t.ok((await readFile(join(dir, 'first', name))).equals(await readFile(join(dir, 'second', name))), name)
  }
})

t.test('the image holds the agent, Node, BIRD, ip, what confines processes and their libraries, and no other program', { skip }, async (t) => {
  const entries = readCpio(zstdDecompressSync(await readFile(join(dir, 'first/initrd.img'))))
  const programs = entries.filter((entry) => entry.type === 'file' && (entry.mode & 0o111) !== 0 && !entry.path.includes('/lib'))
  t.same(
    programs.map((entry) => entry.path),
    ['/bin/node', '/bin/prlimit', '/bin/setpriv', '/bin/unshare', '/init', '/sbin/ip', '/usr/sbin/bird'],
  )
  const paths = entries.map((entry) => entry.path)
  for (const path of [
    '/app/main.mjs',
    '/app/worker-host.js',
    '/app/process-host.js',
    '/app/examiner.js',
    '/etc/offbox/anchors.json',
    '/etc/offbox/image.json',
    '/dev/console',
    '/state',
  ]) {
    t.ok(paths.includes(path), path)
  }
  t.notOk(paths.some((path) => /libgcrypt|libkrb5|libcrypto/.test(path)))
  const modules = Buffer.from(dataOf(entries, '/etc/offbox/modules')).toString().trim().split('\n')
  for (const module of modules) t.ok(paths.includes(module), module)
  const at = (name: string) => modules.findIndex((module) => module.endsWith(`/${name}.ko`))
  t.ok(at('failover') < at('net_failover') && at('net_failover') < at('virtio_net') && at('virtio') < at('virtio_pci'), 'dependencies first')
})

t.test('the facts inside the image are those beside it', { skip }, async (t) => {
  const entries = readCpio(zstdDecompressSync(await readFile(join(dir, 'first/initrd.img'))))
  const { artifacts: _artifacts, ...facts } = JSON.parse(await readFile(join(dir, 'first/image.json'), 'utf8')) as ImageDescription
  t.same(JSON.parse(Buffer.from(dataOf(entries, '/etc/offbox/image.json')).toString()), facts)
  t.equal(JSON.stringify(facts).includes(dir), false, 'no path of the machine that built it')
})

t.test('an image that was changed after the build is found out', { skip }, async (t) => {
  const image = join(dir, 'changed')
  await cp(join(dir, 'first'), image, { recursive: true })
  const initrd = await readFile(join(image, 'initrd.img'))
  const entries = readCpio(zstdDecompressSync(initrd))
  const extra: Entry = { path: '/bin/sh', mode: 0o4755, type: 'file', data: Buffer.from('#!') }
  await writeFile(join(image, 'initrd.img'), zstdCompressSync(Buffer.concat([...writeCpio([...entries, extra])])))
  const found = (await verifyImage(image)).map((violation) => violation.rule)
  for (const rule of ['shell', 'setuid', 'unexpected', 'digest']) t.ok(found.includes(rule), rule)
  await writeFile(join(image, 'initrd.img'), initrd.subarray(0, 100_000))
  await t.rejects(verifyImage(image), { code: 'IMAGE_INVALID' })
  await writeFile(join(image, 'initrd.img'), initrd)
  await appendFile(join(image, 'vmlinuz'), 'x')
  t.match(await verifyImage(image), [{ rule: 'digest', path: 'vmlinuz' }])
})

t.test('a private key in the agent or the anchors stops the build, and the image before it stays', { skip }, async (t) => {
  const out = join(dir, 'first')
  const before = await readFile(join(out, 'image.json'))
  const main = join(agentDir, 'main.mjs')
  const source = await readFile(main)
  await appendFile(main, `const key = \`${privateKeyPem()}\`\n`)
  const refused = await build(['--out', out])
  t.equal(refused.code, 1)
  t.match(refused.last, { error: { code: 'IMAGE_INVALID', message: /private key: \/app\/main\.mjs/ } })
  t.ok((await readFile(join(out, 'image.json'))).equals(before))
  await writeFile(main, source)
})

t.test('without anchors of a trust repository there is an image for development alone', { skip }, async (t) => {
  const bare = join(dir, 'bare')
  await mkdir(bare)
  const { trust: _, ...anchors } = JSON.parse(await readFile(join(homeDir, 'anchors.json'), 'utf8'))
  await writeFile(join(bare, 'anchors.json'), JSON.stringify(anchors))
  const args = ['--out', join(dir, 'development'), '--home', bare]
  t.match(await build(args), { code: 1, last: { error: { code: 'HOME_INVALID', message: /offbox trust init/ } } })
  t.match(await build([...args, '--development']), { code: 0, last: { format: 1 } })
})

t.test('what is missing is named', { skip }, async (t) => {
  const out = join(dir, 'none')
  t.match(await build(['--out', out, '--home', join(dir, 'nowhere')]), { code: 1, last: { error: { code: 'HOME_INVALID', message: /offbox init/ } } })
  t.match(await build(['--out', out, '--agent', join(dir, 'nowhere')]), { code: 1, last: { error: { code: 'SETUP_MISSING', message: /npm run build/ } } })
  t.match(await build(['--out', out, '--zstd-level', '99']), { code: 1, last: { error: { code: 'ARGUMENT_INVALID' } } })
  t.match(await build(['--out', out, '--nonsense']), { code: 1, last: { error: { code: 'ARGUMENT_INVALID' } } })
  await writeFile(join(dir, 'file'), '')
  t.match(await build(['--out', join(dir, 'file/image')]), { code: 1, last: { error: { message: /ENOTDIR/ } } })
})

function dataOf(entries: Entry[], path: string): Uint8Array {
  const entry = entries.find((one) => one.path === path)
  if (entry?.type !== 'file') throw new Error(`${path} is not in the image`)
  return entry.data
}
