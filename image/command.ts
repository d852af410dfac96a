/** Runs the build's tools: no shell, a fixed environment, their output only when they fail. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { BUILD_NEEDS } from './profile.ts'
import { ImageFailure } from './failure.ts'

const OUTPUT_BYTES_MAX = 1024 * 1024
const COMMAND_TIMEOUT_MS = 300_000

export interface CommandOptions {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
}

/**
 * @returns standard output, at most 1 MiB
 * @throws SETUP_MISSING the program is not there, failed or took longer than 5 minutes
 */
export async function run(program: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: options.cwd,
    // LC_ALL: messages are parsed. SOURCE_DATE_EPOCH: some tools write times. Proxies: apt needs them.
    env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', SOURCE_DATE_EPOCH: '0', ...proxies(), ...options.env },
    timeout: COMMAND_TIMEOUT_MS,
  })
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] = (output[name] + text).slice(-OUTPUT_BYTES_MAX)
    })
  }
  const { promise, resolve } = Promise.withResolvers<string | null>()
  child.once('error', (error) => resolve(error.message))
  child.once('close', (code, signal) => resolve(code === 0 ? null : `it ended with ${signal ?? `exit code ${code}`}`))
  const failed = await promise
  if (failed === null) return output.stdout
  const detail = output.stderr.trim().split('\n').slice(-5).join('\n  ')
  throw new ImageFailure('SETUP_MISSING', `${program} ${args.join(' ')}: ${failed}${detail ? `\n  ${detail}` : ''}`)
}

/** @throws SETUP_MISSING naming every Debian package to install */
export function checkNeeds(): void {
  const missing = BUILD_NEEDS.filter((need) => !existsSync(need.file))
  if (missing.length === 0) return
  const list = missing.map((need) => `${need.file} (${need.why})`).join(', ')
  throw new ImageFailure('SETUP_MISSING', `not on this machine: ${list}. Install: apt-get install -y ${missing.map((need) => need.package).join(' ')}`)
}

function proxies(): Record<string, string> {
  const names = ['http_proxy', 'https_proxy', 'no_proxy', 'HOME']
  return Object.fromEntries(names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])))
}
