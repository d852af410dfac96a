/**
 * Calls through the agent (TLS, authorization, audit, the hop to the worker and back) beside a plain grpc-js server that answers the same
 * method over the same TLS, in alternating slices of one run. ratio64 and ratio1: calls per second with 64 and 1 in flight, to plain.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from '../test/agent/agent-process.ts'
import { agentUnderLoad, callsPerSecond } from './agent-under-load.ts'
import { median, report } from './report.ts'

const SLICES = 5
const SLICE_MS = 2_000

const agent = await agentUnderLoad()
const identity = await agent.lab.identity('device', 'sw1')
const plain = spawn(process.execPath, [`${import.meta.dirname}/plain-server.ts`], { stdio: ['pipe', 'pipe', 'inherit'] })
try {
  plain.stdin.end(JSON.stringify({ caPem: agent.lab.ca.certificatePem, ...identity }))
  const [line] = await once(plain.stdout, 'data')
  await agent.bring('Install', '1.0.0')
  const ours = await agent.connect()
  const peer = await connect(agent.lab, Number(String(line).trim()))
  const samples: Record<string, number[]> = { 'agent, 64 in flight': [], 'plain, 64 in flight': [], 'agent, 1 in flight': [], 'plain, 1 in flight': [] }
  for (const client of [ours, peer]) await callsPerSecond(client, 64, 1_000)
  for (let slice = 0; slice < SLICES; slice++) {
    for (const inFlight of [64, 1]) {
      samples[`agent, ${inFlight} in flight`]?.push(await callsPerSecond(ours, inFlight, SLICE_MS))
      samples[`plain, ${inFlight} in flight`]?.push(await callsPerSecond(peer, inFlight, SLICE_MS))
    }
  }
  const ratio = (inFlight: number) => median(samples[`agent, ${inFlight} in flight`] ?? []) / median(samples[`plain, ${inFlight} in flight`] ?? [])
  const rows = Object.fromEntries(Object.entries(samples).map(([name, values]) => [name, { samples: values, unit: 'calls/s' }]))
  report('calls', rows, { ratio64: ratio(64), ratio1: ratio(1) })
  ours.close()
  peer.close()
} finally {
  plain.kill()
  await agent.close()
}
process.exit(0)
