/** pm2 in cluster mode: one new process after another takes the place of an old one, which finishes what it has. */
import { existsSync } from 'node:fs'
import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { messageOf } from '../../core/errors.ts'
import { HttpCaller } from './http.ts'
import { Missing, type Peer } from './peer.ts'
import { listening, run } from './run.ts'

/** Installed into a temporary directory: no dependency of ours. */
const VERSION = '7.0.4'
const PROCESSES = 2

export async function pm2(directory: string, port: number, connections: number): Promise<Peer> {
  const command = await install()
  const app = join(directory, 'app.cjs')
  await copyFile(join(import.meta.dirname, 'pm2-app.cjs'), app)
  const env = { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, HOME: directory, PM2_HOME: join(directory, 'pm2'), PORT: String(port) }
  const tell = async (...args: string[]) => await run(process.execPath, [command, ...args], { cwd: directory, env })
  const close = async () => void (await tell('kill'))
  try {
    await tell('start', app, '--name', 'app', '-i', String(PROCESSES), '--wait-ready', '--kill-timeout', '5000')
    await listening(port)
  } catch (error) {
    await close()
    throw error
  }
  const caller = new HttpCaller(port, connections)
  return {
    name: 'pm2 reload',
    protocol: `GET, a count that each process loses, HTTP/1.1, ${PROCESSES} processes`,
    call: () => caller.call(),
    replace: async () => void (await tell('reload', 'app')),
    close: async () => {
      caller.close()
      await close()
    },
  }
}

/** @throws Missing */
async function install(): Promise<string> {
  // Not in a directory that anybody else can make first.
  const home = join(import.meta.dirname, `../../node_modules/.cache/offbox-bench-pm2-${VERSION}`)
  const command = join(home, 'node_modules/pm2/bin/pm2')
  if (existsSync(command)) return command
  process.stderr.write(`installing pm2 ${VERSION} into ${home}\n`)
  await mkdir(home, { recursive: true })
  await writeFile(join(home, 'package.json'), '{"private":true}')
  try {
    await run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', `pm2@${VERSION}`], { cwd: home })
  } catch (error) {
    throw new Missing(`pm2 cannot be installed: ${messageOf(error)}`)
  }
  return command
}
