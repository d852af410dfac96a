/** What the agent tells in numbers: its own process, and every service with its bounds. Pure: facts come through `parts`. */
import type { ErrorCode } from '../../core/errors.ts'
import type { RunningService } from '../supervisor/types.ts'
import type { Family, Sample } from './open-metrics.ts'

const MIB = 2 ** 20
const STATES: readonly RunningService['state'][] = ['loaded', 'starting', 'ready', 'quiescing', 'backoff', 'stopped', 'failed']
const HEALTHS = ['healthy', 'degraded', 'unhealthy'] as const
/** Shown with 0 from the start, so that an alert on their rise sees the first one. */
const BOUNDS: readonly ErrorCode[] = ['MEMORY_EXCEEDED', 'CPU_EXCEEDED', 'RATE_EXCEEDED', 'STREAMS_EXCEEDED', 'LOGS_EXCEEDED']

export interface MetricsParts {
  readonly services: () => readonly RunningService[]
  /** Of the agent's process. */
  readonly agent: () => { readonly memoryBytes: number; readonly cpuMs: number; readonly uptimeMs: number; readonly starts: number }
}

export function agentFamilies({ agent }: MetricsParts): Family[] {
  const one = (read: () => number) => () => [{ value: read() }]
  return [
    {
      name: 'offbox_agent_memory_bytes',
      type: 'gauge',
      unit: 'bytes',
      help: 'Resident memory of the agent and its workers.',
      read: one(() => agent().memoryBytes),
    },
    {
      name: 'offbox_agent_cpu_seconds',
      type: 'counter',
      unit: 'seconds',
      help: 'CPU time of the agent and its workers.',
      read: one(() => agent().cpuMs / 1_000),
    },
    { name: 'offbox_agent_uptime_seconds', type: 'gauge', unit: 'seconds', help: 'Since the agent started.', read: one(() => agent().uptimeMs / 1_000) },
    { name: 'offbox_agent_starts', type: 'gauge', help: 'Starts of the agent since the machine booted.', read: one(() => agent().starts) },
  ]
}

export function serviceFamilies({ services }: MetricsParts): Family[] {
  const each = (read: (one: RunningService) => number) => () => services().map((one): Sample => ({ labels: { service: one.service }, value: read(one) }))
  const several = (read: (one: RunningService) => Sample[]) => () =>
    services().flatMap((one) => read(one).map(({ labels, value }): Sample => ({ labels: { service: one.service, ...labels }, value })))
  return [
    {
      name: 'offbox_service_info',
      type: 'gauge',
      help: 'Always 1; its labels say which version runs.',
      read: several(({ version, manifestSha256 }) => [{ labels: { version, manifest_sha256: manifestSha256 }, value: 1 }]),
    },
    {
      name: 'offbox_service_state',
      type: 'gauge',
      help: '1 for the state the service is in (docs/lifecycle.md), 0 for the others.',
      read: several(({ state }) => STATES.map((name) => ({ labels: { state: name }, value: Number(name === state) }))),
    },
    {
      name: 'offbox_service_health',
      type: 'gauge',
      help: '1 for what the service says of itself, 0 for the rest; all 0 until it was asked.',
      read: several(({ health }) => HEALTHS.map((name) => ({ labels: { health: name }, value: Number(name === health?.status) }))),
    },
    {
      name: 'offbox_service_evidence',
      type: 'gauge',
      help: 'The numbers that its health rests on.',
      read: several(({ health }) => Object.entries(health?.evidence ?? {}).map(([name, value]) => ({ labels: { name }, value }))),
    },
    { name: 'offbox_service_starts', type: 'gauge', help: 'Starts of the version that serves, crashes included.', read: each(({ starts }) => starts) },
    {
      name: 'offbox_service_memory_bytes',
      type: 'gauge',
      unit: 'bytes',
      help: 'Heap and buffers; in the process tier resident memory.',
      read: each(({ use }) => use.memoryBytes),
    },
    {
      name: 'offbox_service_memory_limit_bytes',
      type: 'gauge',
      unit: 'bytes',
      help: 'limits.memoryMbMax of its manifest.',
      read: each(({ use }) => use.limits.memoryMbMax * MIB),
    },
    {
      name: 'offbox_service_cpu_ratio',
      type: 'gauge',
      unit: 'ratio',
      help: 'Share of one core over the last few seconds.',
      read: each(({ use }) => use.cpuPercent / 100),
    },
    {
      name: 'offbox_service_cpu_limit_ratio',
      type: 'gauge',
      unit: 'ratio',
      help: 'limits.cpuPercentMax of its manifest.',
      read: each(({ use }) => use.limits.cpuPercentMax / 100),
    },
    { name: 'offbox_service_streams_open', type: 'gauge', help: 'Streaming calls under way.', read: each(({ use }) => use.streamsOpen) },
    { name: 'offbox_service_messages', type: 'counter', help: 'Messages delivered to the version that serves.', read: each(({ use }) => use.messages) },
    {
      name: 'offbox_service_limit_exceeded',
      type: 'counter',
      help: 'How often the version that serves met a bound, by error code (docs/errors.md); for LOGS_EXCEEDED lines that were dropped.',
      read: several(({ use }) => {
        const codes = new Set<string>([...BOUNDS, ...Object.keys(use.exceeded)])
        return [...codes].map((code) => ({ labels: { code }, value: use.exceeded[code as ErrorCode] ?? 0 }))
      }),
    },
  ]
}
