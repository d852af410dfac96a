import { spawn, spawnSync } from 'node:child_process'
import { chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { noLab } from './lab-under-test.ts'

const root = join(import.meta.dirname, '../..')

/** An ordinary user's id; nobody needs to have it. */
const USER = 4711
const AS_USER = ['setpriv', '--reuid', String(USER), '--regid', String(USER), '--clear-groups'] as const

function noUserNamespace(): string | false {
  const tried = spawnSync(
    AS_USER[0],
    [...AS_USER.slice(1), 'unshare', '--user', '--map-root-user', '--net', '--mount', process.execPath, '--check', 'fleet/lab/lab.ts'],
    { cwd: root },
  )
  return tried.status === 0 ? false : `an ordinary user gets no user namespace here, or cannot read this checkout: ${tried.stderr}`
}

function lab(home: string, args: string[], before: readonly string[] = []) {
  const [program = process.execPath, ...rest] = [...before, process.execPath]
  const child = spawn(program, [...rest, 'fleet/lab/lab.ts', '--home', home, ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  // A test that times out must not leave a lab behind.
  t.teardown(() => child.kill('SIGTERM'))
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk) => (stdout += chunk))
  child.stderr.on('data', (chunk) => (stderr += chunk))
  const ended = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) =>
    child.on('close', (code) => resolve({ code, stdout, stderr })),
  )
  return { child, ended, said: () => stdout }
}

t.test('npm start -- --local --once rolls a new version across a lab without a failed call', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const home = mkdtempSync(join(tmpdir(), 'offbox-start-'))
  t.teardown(() => rmSync(home, { recursive: true, force: true }))
  const first = lab(home, ['--local', '--once', '--json', '--devices', '3'])
  while (!first.said().includes('network namespace') && first.child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 50))
  const second = await lab(home, ['--local', '--once']).ended
  t.equal(second.code, 1, 'a second start while one runs is refused')
  t.match(second.stderr, /^HOME_IN_USE: .*process id \d+/)
  const { code, stdout, stderr } = await first.ended
  if (!t.equal(code, 0, 'and the first one goes on undisturbed')) t.comment(`${stdout}\n${stderr}`)
  const figures = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
  t.match(figures, { boot: 'local', devices: 3, services: 3, upgraded: 3, failedCalls: 0, duplicates: 0, bgpSessionEnds: 6 })
  t.ok(figures.calls > 300, `${figures.calls} calls`)
  t.ok(figures.routesLearned >= 6, `${figures.routesLearned} routes learned`)
  for (const [id, versions] of Object.entries<Record<string, number>>(figures.callsByVersion)) {
    t.ok((versions['1.0.0'] ?? 0) > 0 && (versions['1.1.0'] ?? 0) > 0, `${id} answered from both versions`)
  }
})

t.test('an ordinary user gets the same lab, in a user namespace', { skip: noLab('local') || noUserNamespace(), timeout: 800_000 }, async (t) => {
  const home = mkdtempSync(join(tmpdir(), 'offbox-start-'))
  chownSync(home, USER, USER)
  t.teardown(() => rmSync(home, { recursive: true, force: true }))
  const { code, stdout, stderr } = await lab(home, ['--once', '--json', '--devices', '2'], AS_USER).ended
  if (!t.equal(code, 0)) t.comment(`${stdout}\n${stderr}`)
  t.match(stdout, /no virtual machines here \(not root\): agents run as processes in network namespaces instead/, 'and is told why')
  t.match(JSON.parse(stdout.trim().split('\n').at(-1) ?? ''), { boot: 'local', devices: 2, upgraded: 2, failedCalls: 0, duplicates: 0, bgpSessionEnds: 2 })
})

t.test('a malformed offbox.yaml is refused with its line and column, before anything is made', { skip: noLab('local') }, async (t) => {
  const home = mkdtempSync(join(tmpdir(), 'offbox-start-'))
  t.teardown(() => rmSync(home, { recursive: true, force: true }))
  mkdirSync(home, { recursive: true })
  writeFileSync(join(home, 'offbox.yaml'), 'fleet: lab\ncontroller:\n  apiPort: many\n')
  const { code, stderr } = await lab(home, ['--local', '--once']).ended
  t.equal(code, 1)
  t.match(stderr, /CONFIG_INVALID: .*offbox\.yaml:3:12/)
})

t.test('an option that does not exist, or a count out of range, is refused with where to look', async (t) => {
  const home = mkdtempSync(join(tmpdir(), 'offbox-start-'))
  t.teardown(() => rmSync(home, { recursive: true, force: true }))
  for (const args of [
    ['--device', '3'],
    ['--devices', '0'],
    ['--devices', 'three'],
  ]) {
    const { code, stderr } = await lab(home, args).ended
    t.equal(code, 2, args.join(' '))
    t.match(stderr, /^ARGUMENT_INVALID: .*/)
  }
})
