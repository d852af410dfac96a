/** Child processes of the lab: started without a shell, ended by pid, never left behind by a lab that is killed. */
import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { OffboxError } from '../../core/errors.ts'

/** Receives what happens, one event a call. */
export type LabLog = (message: string, fields?: Readonly<Record<string, unknown>>) => void

const OUTPUT_BYTES_MAX = 256 * 1024
/** Also of an install on a machine under TCG, with two others on the same cores. */
const COMMAND_TIMEOUT_MS = 90_000
const TERM_GRACE_MS = 2_000

/**
 * Runs a command to its end.
 * @returns its standard output
 * @throws SETUP_MISSING it cannot be run or fails; the message has its last lines
 */
export async function command(program: string, args: readonly string[], options: { input?: string; signal?: AbortSignal } = {}): Promise<string> {
  options.signal?.throwIfAborted()
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' }, timeout: COMMAND_TIMEOUT_MS })
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] = (output[name] + text).slice(-OUTPUT_BYTES_MAX)
    })
  }
  child.stdin.on('error', () => {}) // a command that ends early says so by its exit code
  child.stdin.end(options.input ?? '')
  const { promise, resolve } = Promise.withResolvers<string | null>()
  child.once('error', (error) => resolve(error.message))
  child.once('close', (code, signal) => resolve(code === 0 ? null : `${signal ?? `exit code ${code}`}`))
  const failed = await promise
  if (failed === null) return output.stdout
  throw new OffboxError('SETUP_MISSING', `${program} ${args.join(' ')}: ${failed}: ${output.stderr.trim().split('\n').slice(-3).join(' | ')}`)
}

export interface LongRunning {
  readonly pid: number
  /** Settles when the process is gone, with how. Never rejects. */
  readonly exited: Promise<string>
  /** Ends it: the signal, and SIGKILL 2 s later. Resolves when it is gone. Safe to call twice. */
  stop(signal?: NodeJS.Signals): Promise<void>
}

export interface LongRunningOptions {
  /** Network namespace to run in; default: ours. */
  readonly namespace?: string
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** One line of standard output or standard error, without its end. */
  readonly onLine: (line: string, from: 'stdout' | 'stderr') => void
}

/**
 * Starts a process that the kernel kills as soon as this one is gone, however that happens.
 * @throws SETUP_MISSING it cannot be started
 */
export async function longRunning(program: string, args: readonly string[], options: LongRunningOptions): Promise<LongRunning> {
  // Both `ip netns exec` and setpriv replace themselves by what they run: the pid is the program's own.
  const words = ['setpriv', '--pdeathsig', 'KILL', '--', program, ...args]
  if (options.namespace !== undefined) words.unshift('ip', 'netns', 'exec', options.namespace)
  const [first = '', ...rest] = words
  const child: ChildProcessByStdio<null, Readable, Readable> = spawn(first, rest, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    cwd: options.cwd,
  })
  const started = Promise.withResolvers<void>()
  const exited = Promise.withResolvers<string>()
  child.once('spawn', started.resolve)
  child.once('error', (error) => {
    started.reject(new OffboxError('SETUP_MISSING', `${first} cannot be started: ${error.message}`, { cause: error }))
    exited.resolve(error.message)
  })
  child.once('exit', (code, signal) => exited.resolve(signal ?? `exit code ${code}`))
  for (const name of ['stdout', 'stderr'] as const) createInterface({ input: child[name] }).on('line', (line) => options.onLine(line, name))
  await started.promise
  const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    const late = setTimeout(() => child.kill('SIGKILL'), TERM_GRACE_MS)
    await exited.promise
    clearTimeout(late)
  }
  return { pid: child.pid ?? -1, exited: exited.promise, stop }
}
