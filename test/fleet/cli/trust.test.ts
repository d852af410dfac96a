import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { initHome } from '../../../fleet/home/init.ts'

const root = join(import.meta.dirname, '../../..')
const offbox = join(root, 'fleet/cli/offbox.mjs')
const PASSPHRASE = 'three words and one'

// Every step is a process of its own, and some derive a key at its real cost.
t.setTimeout(300_000)

async function run(args: readonly string[], passphraseFd?: number): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [offbox, ...args], { stdio: ['ignore', 'pipe', 'pipe', passphraseFd ?? 'ignore'] })
  let [out, err] = ['', '']
  child.stdout?.on('data', (chunk) => (out += chunk))
  child.stderr?.on('data', (chunk) => (err += chunk))
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  return { code, out, err }
}

const directory = mkdtempSync(join(tmpdir(), 'offbox-cli-trust-'))
t.teardown(() => rmSync(directory, { recursive: true, force: true }))
const home = join(directory, 'home')
const passphraseFile = join(directory, 'passphrase')
writeFileSync(passphraseFile, `${PASSPHRASE}\n`, { mode: 0o644 })
await initHome(home, { fleet: 'lab', nowMs: Date.now() })
const trust = async (...args: string[]) => await run(['trust', ...args, '--home', home])

t.test('trust: from the first key to a published bundle', async (t) => {
  t.match(await trust('status'), { code: 1, err: /HOME_INVALID.*trust init/ })
  t.match(await trust('init', '--passphrase-file', passphraseFile), { code: 1, err: /HOME_INVALID: .*open to others.*chmod 600/ })
  chmodSync(passphraseFile, 0o600)
  t.match(await trust('init', '--passphrase-file', passphraseFile, '--passphrase-fd', '3'), { code: 2, err: /not both/ })

  const directories = ['a', 'b', 'c'].map((name) => join(directory, name))
  const init = await trust('init', '--passphrase-file', passphraseFile, ...directories.flatMap((one) => ['--key-dir', one]), '--json')
  t.equal(init.code, 0, init.err)
  const keys = directories.map((one) => readdirSync(one))
  t.ok(keys.every((names) => names.length === 1 && /^root-[0-9a-f]{16}\.json$/.test(names[0] as string)))
  for (const [index, one] of directories.entries()) t.equal(statSync(join(one, keys[index]?.[0] as string)).mode & 0o777, 0o600)

  const fd = openSync(passphraseFile, 'r')
  const delegated = await run(['trust', 'delegate', 'telemetry', '--passphrase-fd', '3', '--home', home], fd)
  closeSync(fd)
  t.match(delegated, { code: 0, out: /service-telemetry +1 .*services\/telemetry\/\*\.offbox \(0\)/ }, 'a passphrase from a descriptor')

  const bundle = join(directory, 'telemetry.offbox')
  const publish = ['publish', bundle, '--passphrase-file', passphraseFile]
  t.match(await run(['bundle', 'build', join(root, 'services/telemetry'), '--sign', '--out', bundle, '--home', home]), { code: 0 })
  t.match(await trust(...publish, '--sign'), {
    code: 0,
    out: /services\/telemetry\/1\.\d+\.\d+\.offbox sha256/,
    err: /Devices refuse .*no policy.*policy allow telemetry/,
  })
  const inspect = async () => await run(['bundle', 'inspect', bundle, '--home', home, '--json'])
  t.match(JSON.parse((await inspect()).out), { verdict: { accepted: false, code: 'POLICY_DENIED' }, publishedBy: 'service-telemetry' })
  const policy = async (...args: string[]) => await trust('policy', ...args, '--passphrase-file', passphraseFile)
  t.match(await policy('allow', 'telemetry', '--capability', 'link'), { code: 2, err: /give --bundle, or --key/ })
  t.match(await policy('allow', 'routing', '--bundle', bundle), { code: 2, err: /is of telemetry, not of routing/ })
  t.match(await policy('allow', 'telemetry', '--key', 'f'.repeat(16), '--tier', 'worker'), { code: 2, err: /none of the bundle keys/ })
  t.match(await policy('allow', 'telemetry', '--bundle', bundle), { code: 0, out: /policy 1 is published/ })
  const inspected = await inspect()
  t.match(JSON.parse(inspected.out), {
    verdict: { accepted: true },
    publishedBy: 'service-telemetry',
    sbom: { bomFormat: 'CycloneDX' },
    signedBy: { length: 2 },
  })

  const shownPolicy = await trust('policy', 'show', '--json')
  t.match(JSON.parse(shownPolicy.out), { version: 1, services: { telemetry: { keys: { length: 2 }, tiers: ['worker', 'process'] } } })
  const file = join(directory, 'policy.json')
  writeFileSync(file, shownPolicy.out)
  t.match(await policy('set', file), { code: 0, out: /nothing was changed/ })
  t.match(await policy('deny', 'telemetry'), { code: 0, out: /policy 2 is published.*names no service/s })
  t.match(await policy('set', file), { code: 0, out: /policy 3 is published.*telemetry/s })
  writeFileSync(file, '{"version":9,"services":{"telemetry":{"keys":["*"],"capabilities":[],"tiers":[]}}}')
  t.match(await policy('set', file), { code: 1, err: /TRUST_MALFORMED.*services\.telemetry\.keys/ })
  t.match(await trust('anchors'), { code: 0, out: /root version 1, .*witness none/ })

  const status = await trust('status', '--key-dir', directories[0] as string, '--json')
  const { roles, warnings } = JSON.parse(status.out) as { roles: { role: string; threshold: number; keys: { files: string[] }[] }[]; warnings: string[] }
  t.same(
    roles.map(({ role, threshold, keys: listed }) => `${role} ${threshold}/${listed.length} ${listed.filter(({ files }) => files.length > 0).length} here`),
    ['root 2/3 1 here', 'timestamp 1/1 1 here', 'snapshot 1/1 1 here', 'targets 1/1 1 here', 'service-telemetry 1/1 1 here'],
  )
  t.same(warnings, [])

  writeFileSync(join(directory, 'wrong'), 'not the right one\n', { mode: 0o600 })
  t.match(await trust('refresh', '--passphrase-file', join(directory, 'wrong')), { code: 1, err: /TRUST_KEY_LOCKED/ })
  t.match(await trust('rotate', 'root', '--passphrase-file', passphraseFile), { code: 1, err: /TRUST_THRESHOLD/ })
  const shown = [init, delegated, inspected, shownPolicy, status].map(({ out, err }) => out + err).join('')
  t.notOk(shown.includes(PASSPHRASE), 'the passphrase is nowhere in what was printed')
})

t.test(
  'a passphrase typed at a terminal is not echoed',
  { skip: spawnSync('script', ['--version']).status !== 0 && 'no script(1) to make a terminal' },
  async (t) => {
    const log = join(directory, 'typescript')
    const command = `${process.execPath} ${offbox} trust refresh --home ${home}`
    const child = spawn('script', ['-qefc', command, log], { stdio: ['pipe', 'pipe', 'inherit'] })
    let seen = ''
    let answered = false
    child.stdout.on('data', (chunk) => {
      seen += chunk
      // Typed only once it is asked for: before that, the terminal's own echo is still on.
      if (!answered && /Passphrase of the timestamp key/.test(seen)) {
        answered = true
        child.stdin.write(`${PASSPHRASE}X\x7f\r`)
      }
    })
    const code = await new Promise((resolve) => child.on('close', resolve))
    t.equal(code, 0, seen)
    t.match(seen, /signed anew/)
    t.notMatch(readFileSync(log, 'utf8'), new RegExp(PASSPHRASE))
  },
)
