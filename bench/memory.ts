/**
 * Memory of a whole agent (its process with three sandboxed worker services, and one service in a process of its own) after a minute of
 * load and one swap of each, beside a floor in the same run: the same libraries loaded, three empty SES workers, a bare child node.
 * Summed PSS of every process, once the agent has been left alone for as long as it takes to see that it is idle and to collect its garbage
 * (agent/supervisor/limits.ts). `rightAfterMB` is before that, and `ratioCollected` is to a floor that was made to collect its own. The flags are those that the product starts its
 * agent with; `--flags "..."` tries others, `--seconds N` a shorter load.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { build } from 'esbuild'
import { messageOf } from '../core/errors.ts'
import { LifecycleMethods } from '../proto/gen/lifecycle.ts'
import { SecretsMethods } from '../proto/gen/secrets.ts'
import { TelemetryMethods } from '../proto/gen/telemetry.ts'
import { connect, FLEET, freePort, isServing, type Lab, makeLab, nodeStart, type NodeStart, send, startAgent } from '../test/agent/agent-process.ts'
import { makeBundle, type ManifestParts } from '../test/fixtures/bundles.ts'
import { COUNTER_METHODS, payloadOf } from '../test/fixtures/services/counter/bundle.ts'
import { Back } from '../test/fixtures/services/pair/methods.ts'
import { frame, Load } from './load.ts'
import { memoryOf, type ProcessMemory, sumMb } from './memory/pss.ts'
import { report } from './report.ts'

const SECONDS = 60
/** For what is queued to be done. */
const SETTLE_MS = 2_000
/** After the load, for the agent to collect of its own accord: idle for 4.5 s, seen in readings of a second; then V8 frees its spare pages within 8 s. */
const IDLE_MS = 16_000

interface Subject {
  readonly manifest: Omit<ManifestParts, 'version'>
  readonly entry: string
  /** Called all the time. */
  readonly path: string
  readonly inFlight: number
}

const methodsOf = (methods: Readonly<Record<string, { path: string; kind: string }>>) =>
  Object.values(methods).map(({ path, kind }) => ({ path, kind })) as ManifestParts['methods'] & {}

const SUBJECTS: readonly Subject[] = [
  {
    manifest: { name: 'counter', methods: COUNTER_METHODS, capabilities: ['proc'], snapshot: { writes: [1], reads: [1] }, heapMbMax: 64 },
    ...{ entry: 'test/fixtures/services/counter/service.ts', path: '/test.Counter/Next', inFlight: 8 },
  },
  {
    manifest: { name: 'meter', methods: methodsOf({ get: TelemetryMethods.Get, stream: TelemetryMethods.Stream }), heapMbMax: 64 },
    ...{ entry: 'bench/meter/service.ts', path: TelemetryMethods.Get.path, inFlight: 8 },
  },
  {
    manifest: { name: 'back', methods: methodsOf(Back), snapshot: { writes: [1], reads: [1] }, heapMbMax: 64 },
    ...{ entry: 'test/fixtures/services/pair/back.ts', path: Back.Add.path, inFlight: 8 },
  },
  {
    manifest: { name: 'secrets', tier: 'process', methods: methodsOf(SecretsMethods), capabilities: ['keystore'], heapMbMax: 64 },
    ...{ entry: 'services/secrets/service.ts', path: SecretsMethods.Status.path, inFlight: 2 },
  },
]

const option = (name: string) => {
  const at = process.argv.indexOf(name)
  return at < 0 ? undefined : process.argv[at + 1]
}
const seconds = Number(option('--seconds') ?? SECONDS)
const flags = option('--flags')?.split(' ').filter(Boolean)

const lab = await makeLab()
try {
  const usual = await nodeStart(lab)
  const used = flags ? { ...usual, flags } : usual
  const agent = await agentMemory(lab, used)
  const floor = await floorMemory(lab, used)
  process.stdout.write(`started with: ${JSON.stringify(used)}\nagent: ${listed(agent.processes)}\nfloor: ${listed(floor.processes)}\n`)
  const [agentMB, floorMB, floorCollectedMB] = [sumMb(agent.processes), sumMb(floor.processes), sumMb(floor.collected)]
  const rows = { agent: { samples: [agentMB], unit: 'MiB' }, floor: { samples: [floorMB], unit: 'MiB' } }
  report('memory', rows, {
    agentMB,
    floorMB,
    ratio: agentMB / floorMB,
    beforeLoadMB: agent.beforeLoadMb,
    rightAfterMB: agent.rightAfterMb,
    ratioCollected: agentMB / floorCollectedMB,
    calls: agent.calls,
    failed: agent.failed,
    swaps: agent.swaps,
  })
} finally {
  await lab.close()
}
process.exit(0)

async function agentMemory(lab: Lab, how: NodeStart) {
  const port = await freePort()
  const agent = await startAgent(lab, 'bench', port, {}, how)
  try {
    await agent.line(isServing)
    const bring = async (kind: 'Install' | 'Upgrade', { manifest, entry }: Subject, version: string) => {
      const file = makeBundle(lab.key, { ...manifest, version }, Buffer.from(await payloadOf(entry)).toString())
      const first = await connect(lab, port)
      const order = { service: manifest.name, version, bakeMs: 0, confirmTimeoutMs: 60_000, reason: 'bench' }
      const { id } = await send(first, kind, order, file).finally(() => first.close())
      const fresh = await connect(lab, port)
      await fresh.unary(LifecycleMethods.Confirm, { changeId: id }).finally(() => fresh.close())
    }
    for (const subject of SUBJECTS) await bring('Install', subject, '1.0.0')
    await delay(SETTLE_MS)
    const beforeLoadMb = sumMb(memoryOf(agent.child.pid ?? 0))
    const identity = await lab.identity('operator', 'bench')
    const load = await Load.open({ port, serverName: `sw1.${FLEET}.offbox`, caPem: lab.ca.certificatePem, identity })
    const endMs = performance.now() + seconds * 1_000
    const result = { calls: 0, failed: 0 }
    const callers = SUBJECTS.flatMap(({ path, inFlight }) =>
      Array.from({ length: inFlight }, async () => {
        while (performance.now() < endMs) {
          try {
            await load.call(path, frame(new Uint8Array(0)))
            result.calls++
          } catch (error) {
            if (result.failed++ === 0) process.stderr.write(`first failure: ${messageOf(error)}\n`)
          }
        }
      }),
    )
    for (const subject of SUBJECTS) {
      await delay((seconds * 1_000) / (SUBJECTS.length + 2))
      await bring('Upgrade', subject, '1.1.0')
    }
    await Promise.all(callers)
    load.close()
    await delay(SETTLE_MS)
    const rightAfterMb = sumMb(memoryOf(agent.child.pid ?? 0))
    await delay(IDLE_MS)
    return { processes: memoryOf(agent.child.pid ?? 0), beforeLoadMb, rightAfterMb, swaps: SUBJECTS.length, ...result }
  } finally {
    await agent.kill()
  }
}

async function floorMemory(lab: Lab, { flags, environment }: NodeStart): Promise<{ processes: ProcessMemory[]; collected: ProcessMemory[] }> {
  const place = (name: string) => join(lab.directory, 'floor', name)
  const shared = { bundle: true, platform: 'node', target: 'node26', logLevel: 'warning', absWorkingDir: join(import.meta.dirname, '..') } as const
  const worker = `import 'ses'; import { parentPort } from 'node:worker_threads'; const { gc } = globalThis; lockdown(); parentPort.on('message', () => gc?.({ type: 'major', flavor: 'last-resort' })); parentPort.postMessage('ready')`
  const child = `process.stdin.resume(); setInterval(() => {}, 60_000)`
  const from = (contents: string) => ({ stdin: { contents, resolveDir: import.meta.dirname } })
  const banner = { js: "import { createRequire as __createRequire } from 'node:module'\nconst require = __createRequire(import.meta.url)" }
  await Promise.all([
    build({ ...shared, ...from(worker), format: 'iife', banner: { js: '"use strict";' }, outfile: place('worker.cjs') }),
    build({ ...shared, ...from(child), format: 'cjs', outfile: place('child.cjs') }),
    build({ ...shared, entryPoints: ['bench/memory/floor.ts'], format: 'esm', banner, outfile: place('floor.mjs') }),
  ])
  const floor: ChildProcess = fork(place('floor.mjs'), [place('worker.cjs'), place('child.cjs')], {
    execArgv: [...flags],
    env: { ...process.env, ...environment },
  })
  const gone = once(floor, 'exit')
  try {
    await Promise.race([once(floor, 'message'), gone.then(([code]) => Promise.reject(new Error(`the floor ended with ${code}`)))])
    await delay(SETTLE_MS)
    const processes = memoryOf(floor.pid ?? 0)
    floor.send('collect')
    await delay(IDLE_MS)
    return { processes, collected: memoryOf(floor.pid ?? 0) }
  } finally {
    for (const { pid } of memoryOf(floor.pid ?? 0).reverse()) process.kill(pid, 'SIGKILL')
    await gone
  }
}

function listed(processes: readonly ProcessMemory[]): string {
  return processes.map(({ name, pssMb }) => `${name} ${pssMb.toFixed(1)} MiB`).join(', ')
}
