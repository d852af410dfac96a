/** Erlang/OTP: new code is loaded into the running machine, and one process changes its state between two of its messages. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { LineCaller } from './lines.ts'
import type { Peer } from './peer.ts'
import { listening, needDebian, run } from './run.ts'

const ERL = '/usr/bin/erl'
const ERLC = '/usr/bin/erlc'

export async function erlang(directory: string, port: number, connections: number): Promise<Peer> {
  needDebian(ERLC, 'erlang-base')
  const releases = [1, 2].map((release) => join(directory, `release-${release}`))
  for (const [index, release] of releases.entries()) {
    await mkdir(release)
    await run(ERLC, [`-DRELEASE=${index + 1}`, '-o', release, join(import.meta.dirname, 'counter.erl')])
  }
  await run(ERLC, ['-o', directory, join(import.meta.dirname, 'front.erl')])
  const env = { HOME: directory, PATH: '/usr/bin:/bin' }
  const words = ['-noshell', '-pa', directory, releases[0] ?? '', '-s', 'front', 'main', String(port)]
  const machine = spawn(ERL, words, { env, stdio: ['pipe', 'pipe', 'inherit'] })
  const gone = once(machine, 'exit')
  const lines = createInterface({ input: machine.stdout })
  const stop = async () => {
    machine.stdin.end()
    machine.kill('SIGKILL')
    await gone
  }
  const caller = await listening(port)
    .then(async () => await LineCaller.open(port, connections))
    .catch(async (error) => {
      await stop()
      throw error
    })
  let changes = 0
  return {
    name: 'Erlang code_change',
    protocol: 'a line over TCP, a count that is kept, gen_server',
    call: () => caller.call(),
    replace: async () => {
      const changed = once(lines, 'line')
      machine.stdin.write(`${releases[++changes % 2]}\n`)
      await Promise.race([changed, gone.then(() => Promise.reject(new Error('the Erlang machine ended')))])
    },
    close: async () => {
      caller.close()
      await stop()
    },
  }
}
