/** A real agent with the meter service and a plain grpc-js server with the same methods, over the same TLS, for benches that compare the two. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { COLLECTOR_ID } from '../core/audit/statements.ts'
import { FLEET } from '../test/agent/agent-process.ts'
import type { ManifestParts } from '../test/fixtures/bundles.ts'
import { payloadOf } from '../test/fixtures/services/counter/bundle.ts'
import { agentUnderLoad, type AgentUnderLoad } from './agent-under-load.ts'
import { mainThreadNs } from './cpu-time.ts'
import type { CollectorOrder } from './collector.ts'
import { Load } from './load.ts'
import meter from './meter/manifest.json' with { type: 'json' }

export interface Peer {
  readonly name: 'agent' | 'plain'
  readonly load: Load
  readonly pid: number
}

export interface BesidePlain {
  readonly peers: readonly [Peer, Peer]
  readonly agent: AgentUnderLoad
  close(): Promise<void>
}

export async function besidePlain(): Promise<BesidePlain> {
  const agent = await agentUnderLoad()
  const identity = await agent.lab.identity('device', 'sw1')
  const collector = await collecting(agent)
  const plain = spawn(process.execPath, [`${import.meta.dirname}/plain-server.ts`], { stdio: ['pipe', 'pipe', 'inherit'] })
  const close = async () => {
    plain.kill()
    await collector.close()
    await agent.close()
  }
  try {
    plain.stdin.end(JSON.stringify({ caPem: agent.lab.ca.certificatePem, ...identity }))
    const died = once(plain, 'exit').then(([code]) => Promise.reject(new Error(`the plain server ended with code ${code}`)))
    died.catch(() => {})
    const [line] = await Promise.race([once(plain.stdout, 'data'), died])
    const code = Buffer.from(await payloadOf('bench/meter/service.ts')).toString()
    await agent.install(meter as ManifestParts, code)
    const own = await agent.lab.identity('operator', 'bench')
    const open = async (port: number) => await Load.open({ port, serverName: `sw1.${FLEET}.offbox`, caPem: agent.lab.ca.certificatePem, identity: own })
    const peers: [Peer, Peer] = [
      { name: 'agent', load: await open(agent.port), pid: agent.pid },
      { name: 'plain', load: await open(Number(String(line).trim())), pid: plain.pid ?? 0 },
    ]
    return {
      peers,
      agent,
      close: async () => {
        for (const { load } of peers) load.close()
        await close()
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Its audit log leaves the box while it works: an agent whose log nobody fetches soon stops to record reads one by one. */
async function collecting({ lab, port }: AgentUnderLoad): Promise<{ close(): Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), 'obx-bench-audit-'))
  const [controller, signer] = await Promise.all([lab.identity('controller', 'bench'), lab.identity('service', COLLECTOR_ID)])
  const order: CollectorOrder = { fleet: FLEET, caPem: lab.ca.certificatePem, deviceId: 'sw1', port, controller, signer, directory }
  const child = spawn(process.execPath, [`${import.meta.dirname}/collector.ts`], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  child.stdin.end(JSON.stringify(order))
  await Promise.race([once(child.stdout, 'data'), ended.then(() => Promise.reject(new Error('the collector ended')))])
  ended.catch(() => {})
  return {
    close: async () => {
      child.kill()
      await ended
      await rm(directory, { recursive: true, force: true })
    },
  }
}

/** CPU time of the peer's main thread that `work` took, microseconds for each of what it did. */
export async function mainCpuUs<T extends { readonly count: number }>({ pid }: Peer, work: () => Promise<T>): Promise<T & { cpuUs: number }> {
  const startNs = mainThreadNs(pid)
  const done = await work()
  return { ...done, cpuUs: (mainThreadNs(pid) - startNs) / done.count / 1_000 }
}
