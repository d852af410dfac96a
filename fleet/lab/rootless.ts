/** A lab without root: everything runs in a user namespace in which we are root, with a network and mounts of its own (unshare(1)). */
import { spawn, spawnSync } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { OffboxError } from '../../core/errors.ts'
import { command } from './process.ts'

/** Set in the process that runs inside: it is root there, and nowhere else. */
export const UNSHARED = 'OFFBOX_UNSHARED'
const UNSHARE = ['--user', '--map-root-user', '--net', '--mount']

/** Whether this process has to go on inside a user namespace. */
export function needsUserNamespace(): boolean {
  return process.getuid?.() !== 0 && process.env[UNSHARED] === undefined
}

/**
 * Runs `program` again inside; resolves with its exit code. Signals of the terminal reach it by themselves, others are passed on.
 * @throws SETUP_MISSING this machine gives no user namespaces to us
 */
export async function runUnshared(program: string, args: readonly string[]): Promise<number> {
  const probe = spawnSync('unshare', [...UNSHARE, 'true'], { encoding: 'utf8' })
  if (probe.status !== 0) {
    const why = (probe.stderr || probe.error?.message || `exit ${probe.status}`).trim()
    throw new OffboxError('SETUP_MISSING', `the lab needs root, or user namespaces for ordinary users (sysctl kernel.unprivileged_userns_clone=1): ${why}`)
  }
  const child = spawn('unshare', [...UNSHARE, process.execPath, program, ...args], { stdio: 'inherit', env: { ...process.env, [UNSHARED]: '1' } })
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.on(signal, () => child.kill(signal))
  return await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve(code ?? 1))
  })
}

/** Inside: `ip netns` keeps its names below /run, which is not ours to write; a fresh one is, and ends with us. */
export async function prepareUnshared(): Promise<void> {
  if (process.env[UNSHARED] === undefined) return
  await command('mount', ['-t', 'tmpfs', 'tmpfs', '/run'])
  await mkdir('/run/netns', { recursive: true })
}
