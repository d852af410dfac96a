/**
 * How long until a sandboxed service is ready, through the supervisor's own path (thread, sandbox, payload, start, self-test), beside a
 * bare worker that only says so. The service is telemetry as it ships, with a machine that answers at once. The samples alternate. The
 * first start since the agent's own, for which the host's script is compiled, is given apart.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { createSupervisor } from '../agent/supervisor/supervisor.ts'
import type { SupervisorHost, VerifiedBundle } from '../agent/supervisor/types.ts'
import { checkManifest } from '../core/manifest.ts'
import { hostText, payloadOf } from '../test/fixtures/services/counter/bundle.ts'
import { median, report } from './report.ts'

const SAMPLES = 15

/** What telemetry reads when it starts. */
const machine: SupervisorHost = {
  capability: async (_service, _capability, operation) => (operation === 'read' || operation === 'list' ? [] : null),
  log: () => {},
  methodsChanged: () => {},
}

const bundle = await telemetry()
const sandboxedMs: number[] = []
const bareMs: number[] = []
await bareWorker()
const supervisor = createSupervisor(machine, { hostText: await hostText() })
const firstMs = await sandboxedService()
for (let sample = 0; sample < SAMPLES; sample++) {
  bareMs.push(await bareWorker())
  sandboxedMs.push(await sandboxedService())
}
await supervisor.close()
report(
  'start',
  { 'sandboxed service ready': { samples: sandboxedMs, unit: 'ms' }, 'bare worker ready': { samples: bareMs, unit: 'ms' } },
  { firstMs, sandboxedMs: median(sandboxedMs), bareMs: median(bareMs), ratio: median(sandboxedMs) / median(bareMs) },
)
process.exit(0)

async function bareWorker(): Promise<number> {
  const startMs = performance.now()
  const worker = new Worker(`require('node:worker_threads').parentPort.postMessage('ready')`, { eval: true })
  await new Promise<void>((resolve, reject) => worker.once('message', resolve).once('error', reject))
  const tookMs = performance.now() - startMs
  await worker.terminate()
  return tookMs
}

async function sandboxedService(): Promise<number> {
  const startMs = performance.now()
  await supervisor.install(bundle, {})
  const tookMs = performance.now() - startMs
  await supervisor.remove('telemetry')
  return tookMs
}

async function telemetry(): Promise<VerifiedBundle> {
  const payload = await payloadOf('services/telemetry/service.ts')
  const parts = JSON.parse(readFileSync(join(import.meta.dirname, '../services/telemetry/manifest.json'), 'utf8'))
  const digest = { sha256: createHash('sha256').update(payload).digest('hex'), sizeBytes: payload.length }
  const manifest = checkManifest({ schema: 1, ...parts, payload: digest })
  return { manifest, manifestSha256: createHash('sha256').update(JSON.stringify(manifest)).digest('hex'), keyIds: [], payload }
}
