/**
 * Calls through the agent (TLS, authorization, audit, the hop to the worker and back) beside a plain grpc-js server that answers the same
 * method over the same TLS, in alternating slices of one run. ratio64 and ratio1: calls per second with 64 and 1 in flight, to plain.
 * mainCpuRatio: CPU time per call of the agent's main thread to that of the plain server's, at 64 in flight. One client process calls both
 * and has a core's worth of work of its own, so that on two cores the agent's worker competes with it: see both kinds of figures.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { RpcClient } from '../fleet/rpc/client.ts'
import { connect } from '../test/agent/agent-process.ts'
import { agentUnderLoad, callsPerSecond } from './agent-under-load.ts'
import { mainThreadNs } from './cpu-time.ts'
import { median, report } from './report.ts'

/** Odd, so that the median is a measured slice; each peer goes first in every other one. */
const SLICES = 9
const SLICE_MS = 1_500

interface Peer {
  readonly name: string
  readonly client: RpcClient
  readonly pid: number
}

const agent = await agentUnderLoad()
const identity = await agent.lab.identity('device', 'sw1')
const plain = spawn(process.execPath, [`${import.meta.dirname}/plain-server.ts`], { stdio: ['pipe', 'pipe', 'inherit'] })
try {
  plain.stdin.end(JSON.stringify({ caPem: agent.lab.ca.certificatePem, ...identity }))
  const [line] = await once(plain.stdout, 'data')
  await agent.bring('Install', '1.0.0')
  const peers: Peer[] = [
    { name: 'agent', client: await agent.connect(), pid: agent.pid },
    { name: 'plain', client: await connect(agent.lab, Number(String(line).trim())), pid: plain.pid ?? 0 },
  ]
  const samples: Record<string, { samples: number[]; unit: string }> = {}
  const keep = (name: string, value: number, unit: string) => {
    samples[name] ??= { samples: [], unit }
    samples[name].samples.push(value)
  }
  const slice = async ({ name, client, pid }: Peer, inFlight: number) => {
    const startNs = mainThreadNs(pid)
    const startMs = performance.now()
    const perSecond = await callsPerSecond(client, inFlight, SLICE_MS)
    const calls = (perSecond * (performance.now() - startMs)) / 1_000
    keep(`${name}, ${inFlight} in flight`, perSecond, 'calls/s')
    keep(`${name}, main thread, ${inFlight}`, (mainThreadNs(pid) - startNs) / calls / 1_000, 'us CPU/call')
  }
  // Until both have compiled what is hot.
  for (const { client } of peers) await callsPerSecond(client, 64, 2_000)
  for (let turn = 0; turn < SLICES; turn++) {
    for (const inFlight of [64, 1]) for (const peer of turn % 2 === 0 ? peers : peers.toReversed()) await slice(peer, inFlight)
  }
  const ratio = (what: string) => median(samples[`agent, ${what}`]?.samples ?? []) / median(samples[`plain, ${what}`]?.samples ?? [])
  report('calls', samples, { ratio64: ratio('64 in flight'), ratio1: ratio('1 in flight'), mainCpuRatio: ratio('main thread, 64') })
  for (const { client } of peers) client.close()
} finally {
  plain.kill()
  await agent.close()
}
process.exit(0)
