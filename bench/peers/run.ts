/** Programs of the peers. */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { Missing } from './peer.ts'

/** Runs a program to its end. @throws Error with what it said */
export async function run(command: string, args: readonly string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Promise<string> {
  const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += String(chunk)))
  const code = await new Promise((resolve, reject) => child.once('error', reject).once('close', resolve))
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${String(code)}: ${text.trim().slice(-2_000)}`)
  return text
}

/** Installs Debian's package if the file that proves it is missing. @throws Missing */
export function needDebian(file: string, name: string): void {
  if (existsSync(file)) return
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get'))
    throw new Missing(`${file} is missing, and without root and apt-get ${name} cannot be installed`)
  process.stderr.write(`installing Debian package ${name}\n`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  spawnSync('apt-get', ['update', '-qq'], { env })
  spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', name], { env })
  if (!existsSync(file)) throw new Missing(`Debian's package ${name} could not be installed`)
}

/** Resolves once something accepts connections there. @throws Error after half a minute */
export async function listening(port: number): Promise<void> {
  for (const endMs = Date.now() + 30_000; Date.now() < endMs; ) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1')
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
      socket.once('connect', () => socket.destroy())
    })
    if (open) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`nothing listens on port ${port}`)
}
