/**
 * The same load through what others do to replace a running program, and through our swap: a constant rate of calls over a few kept
 * connections, one replacement after another. Failed calls, calls that a careful client had to send again because their connection was
 * closed under them, and the longest that a call took around each replacement, beside the same without one. Not like for like: each speaks
 * its own protocol, only Erlang and Offbox keep state, and a pm2 or nginx that serves real work has old processes to wait for.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { freePort } from '../test/agent/agent-process.ts'
import { erlang } from './peers/erlang.ts'
import { nginx } from './peers/nginx.ts'
import { offbox } from './peers/offbox.ts'
import { OpenLoop } from './peers/open-loop.ts'
import { Missing, type Peer } from './peers/peer.ts'
import { pm2 } from './peers/pm2.ts'
import { median, report } from './report.ts'

const REPLACEMENTS = 10
const PER_SECOND = 400
const CONNECTIONS = 8
/** Watched before each replacement, and again from its begin until so long after its end. */
const WINDOW_MS = 1_500
const WARM_MS = 2_000

const MAKERS: Readonly<Record<string, (directory: string, port: number, connections: number) => Promise<Peer>>> = { offbox, nginx, pm2, erlang }

const samples: Record<string, { samples: number[]; unit: string }> = {}
const figures: Record<string, number | string> = { replacements: REPLACEMENTS, callsPerSecond: PER_SECOND }
for (const [key, make] of Object.entries(MAKERS)) {
  const directory = await mkdtemp(join(tmpdir(), 'obx-peers-'))
  let peer: Peer | undefined
  try {
    peer = await make(directory, await freePort(), CONNECTIONS)
    await measure(key, peer)
  } catch (error) {
    if (!(error instanceof Missing)) throw error
    process.stdout.write(`${key} skipped: ${error.message}\n`)
    figures[`${key}Skipped`] = error.message
  } finally {
    await peer?.close()
    await rm(directory, { recursive: true, force: true })
  }
}
report('peers', samples, figures)
process.exit(0)

async function measure(key: string, peer: Peer): Promise<void> {
  const load = new OpenLoop(peer, PER_SECOND)
  await delay(WARM_MS)
  const [warmCalls, warmFailed, warmAgain] = [load.calls, load.failed, load.again]
  const windows: { beforeMs: number; startMs: number; endMs: number }[] = []
  for (let turn = 0; turn < REPLACEMENTS; turn++) {
    const beforeMs = performance.now()
    await delay(WINDOW_MS)
    const startMs = performance.now()
    await peer.replace()
    await delay(WINDOW_MS)
    windows.push({ beforeMs, startMs, endMs: performance.now() })
  }
  await load.stop()
  const stallMs = windows.map(({ startMs, endMs }) => load.worstMs(startMs, endMs))
  const quietMs = windows.map(({ beforeMs, startMs }) => load.worstMs(beforeMs, startMs))
  process.stdout.write(`${peer.name}: ${peer.protocol}\n`)
  for (const [text, count] of load.failures) process.stdout.write(`  ${count} failed: ${text}\n`)
  samples[`${peer.name}, longest call`] = { samples: stallMs, unit: 'ms' }
  samples[`${peer.name}, without`] = { samples: quietMs, unit: 'ms' }
  figures[`${key}Calls`] = load.calls - warmCalls
  figures[`${key}Failed`] = load.failed - warmFailed
  figures[`${key}SentAgain`] = load.again - warmAgain
  figures[`${key}StallMs`] = median(stallMs)
  figures[`${key}LongestMs`] = Math.max(...stallMs)
  figures[`${key}QuietMs`] = median(quietMs)
}
