/**
 * Hot swaps of a stateful service under calls at a fixed rate and open resumable streams, every swap confirmed over a fresh connection
 * before the next, as fast as the rules allow. Counted over all of it: calls and streams that failed, numbers given twice, replies out of
 * the order of their key, numbers and updates lost. flipP99Ms: from holding the first call to releasing the last.
 * latencyRatio: p99 latency of calls in windows around a swap (order to flip + 1 s) to that in paired windows of the same length in which a
 * bare sandboxed worker is started and discarded on the same machine; medians over the pairs. The client is a process of its own.
 *
 *   npm run bench -- swap [--json] [--swaps 500] [--rate 2000] [--streams 20] [--pairs 25]
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { LifecycleMethods, type Change } from '../proto/gen/lifecycle.ts'
import { connect, FLEET, send } from '../test/agent/agent-process.ts'
import { makeBundle } from '../test/fixtures/bundles.ts'
import { payloadOf } from '../test/fixtures/services/counter/bundle.ts'
import { agentUnderLoad } from './agent-under-load.ts'
import { median, quantile, report } from './report.ts'
import { startBareWorker } from './swap/bare-worker.ts'
import type { ClientResult } from './swap/client.ts'

/** Steps while calls are held: how long each takes until the next. */
const PHASES: readonly string[] = ['drain', 'hand over', 'start', 'flip']
const WINDOW_AFTER_MS = 1_000
const options = {
  json: { type: 'boolean' },
  swaps: { type: 'string' },
  rate: { type: 'string' },
  streams: { type: 'string' },
  pairs: { type: 'string' },
} as const
const { values } = parseArgs({ options })
const [swaps, rate, streams, pairs] = [Number(values.swaps ?? 500), Number(values.rate ?? 2_000), Number(values.streams ?? 20), Number(values.pairs ?? 25)]

interface Window {
  readonly fromMs: number
  readonly toMs: number
}

const methods = [
  { path: '/bench.Ledger/Add', kind: 'unary' },
  { path: '/bench.Ledger/Updates', kind: 'serverStream', resumable: true },
] as const
const now = () => performance.timeOrigin + performance.now()

const agent = await agentUnderLoad()
let client: ChildProcess | undefined
try {
  const code = Buffer.from(await payloadOf('bench/swap/service.ts')).toString()
  const operator = await agent.lab.identity('operator', 'swap')
  const dial = async () => await connect(agent.lab, agent.port, operator)
  const bundles = ['1.0.0', '1.1.0'].map((version) =>
    makeBundle(agent.lab.key, { name: 'ledger', version, methods: [...methods], snapshot: { writes: [1], reads: [1] }, heapMbMax: 32 }, code),
  )
  const bring = async (kind: 'Install' | 'Upgrade', at: number): Promise<Change> => {
    const order = { service: 'ledger', version: `1.${at}.0`, bakeMs: 0, confirmTimeoutMs: 60_000, allowDowngrade: true, reason: 'bench' }
    const before = await dial()
    const change = await send(before, kind, order, bundles[at] ?? new Uint8Array()).finally(() => before.close())
    const fresh = await dial()
    await fresh.unary(LifecycleMethods.Confirm, { changeId: change.id }).finally(() => fresh.close())
    return change
  }
  await bring('Install', 0)
  client = spawn(process.execPath, [`${import.meta.dirname}/swap/client.ts`], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: client.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]()
  const target = { port: agent.port, serverName: `sw1.${FLEET}.offbox`, caPem: agent.lab.ca.certificatePem, ...operator }
  client.stdin?.write(`${JSON.stringify({ ...target, ratePerSecond: rate, streams })}\n`)
  await lines.next()
  await delay(3_000)

  const phases: Record<string, number[]> = Object.fromEntries(PHASES.map((step) => [step, []]))
  const heldMs: number[] = []
  const heldCalls: number[] = []
  let version = 0
  const swap = async () => {
    version = 1 - version
    const change = await bring('Upgrade', version)
    heldMs.push(change.heldMs)
    heldCalls.push(change.heldCalls)
    const flip = change.steps.find(({ step }) => step === 'flip')
    for (const [at, { step, atMs }] of change.steps.entries()) {
      const next = change.steps[at + 1]
      if (next) phases[step]?.push(next.atMs - atMs)
    }
    return { orderedAtMs: change.proposedAtMs, flipAtMs: change.proposedAtMs + (flip?.atMs ?? 0) }
  }
  // Until what is hot is compiled.
  for (let turn = 0; turn < 5; turn++) await swap()
  for (const samples of [heldMs, heldCalls, ...Object.values(phases)]) samples.length = 0

  const windows: { readonly swap: Window; readonly bare: Window }[] = []
  for (let pair = 0; pair < pairs; pair++) {
    const fromMs = now()
    const { flipAtMs } = await swap()
    const toMs = flipAtMs + WINDOW_AFTER_MS
    await delay(Math.max(0, toMs - now()))
    const bareMs = now()
    const endBare = await startBareWorker()
    await endBare()
    await delay(Math.max(0, toMs - fromMs - (now() - bareMs)))
    windows.push({ swap: { fromMs, toMs }, bare: { fromMs: bareMs, toMs: bareMs + toMs - fromMs } })
  }
  while (heldMs.length < swaps) await swap()

  client.stdin?.write('stop\n')
  const seen = JSON.parse((await lines.next()).value as string) as ClientResult
  const latencyIn = ({ fromMs, toMs }: Window) => seen.latencyMs.filter((_, at) => (seen.atMs[at] ?? 0) >= fromMs && (seen.atMs[at] ?? 0) < toMs)
  const p99 = (which: 'swap' | 'bare') => windows.map((pair) => quantile(latencyIn(pair[which]), 0.99))
  const done = seen.doneMs.toSorted((one, other) => one - other)
  const silences = done.map((at, index) => at - (done[index - 1] ?? at))
  if (seen.lostNumbers > 0) process.stderr.write(`${seen.lostNumbers} calls were counted and not answered\n`)
  for (const failure of seen.failures) process.stderr.write(`failed: ${failure}\n`)
  const ofPhases = Object.fromEntries(Object.entries(phases).map(([step, samples]) => [`  ${step}`, { samples, unit: 'ms' }]))
  const rows = {
    'calls held for': { samples: heldMs, unit: 'ms' },
    ...ofPhases,
    'number of calls held': { samples: heldCalls, unit: 'calls' },
    'latency, all calls': { samples: seen.latencyMs, unit: 'ms' },
    'p99 in windows of a swap': { samples: p99('swap'), unit: 'ms' },
    'p99 in windows of a worker': { samples: p99('bare'), unit: 'ms' },
  }
  const { sent, failed, duplicated, reordered, answered, updates } = seen
  report('swap', rows, {
    ...{ swaps: heldMs.length, sent, answered, updates, ratePerSecond: rate, failed, duplicated, reordered, lostUpdates: seen.lostUpdates + seen.lostNumbers },
    flipP99Ms: quantile(heldMs, 0.99),
    latencyRatio: median(p99('swap')) / median(p99('bare')),
    longestSilenceMs: quantile(silences, 1),
  })
} finally {
  client?.kill()
  await agent.close()
}
process.exit(0)
