/** What a service uses of its limits, in words. Pure. */
import type { ServiceStatus, ServiceUsage } from '../../proto/gen/lifecycle.ts'

const MIB = 2 ** 20

/** A row for a table: memory, CPU share, streams, messages, bounds met. */
export function usageRow({ service, version, usage }: ServiceStatus): string[] {
  if (!usage) return [service, version, '-', '-', '-', '-', '-']
  const { streamsOpen, streamsMax, messages } = usage
  return [service, version, memoryText(usage), cpuText(usage), `${streamsOpen} of ${streamsMax}`, String(messages), exceededText(usage) || 'none']
}

export const USAGE_HEAD = ['service', 'version', 'memory', 'CPU of one core', 'streams', 'messages', 'limits met']

/** Sentences for whoever asks why a service is as it is; none while it keeps within its limits. */
export function usageWords({ usage }: ServiceStatus): string[] {
  if (!usage) return []
  const met = exceededText(usage)
  const near = usage.memoryBytes > usage.memoryBytesMax * 0.8 ? [`it uses ${memoryText(usage)} of memory and is ended when it uses more`] : []
  return [...(met === '' ? [] : [`limits that this version met since it was installed: ${met}`]), ...near]
}

const memoryText = ({ memoryBytes, memoryBytesMax }: ServiceUsage) => `${Math.round(memoryBytes / MIB)} of ${Math.round(memoryBytesMax / MIB)} MiB`
const cpuText = ({ cpuPercent, cpuPercentMax }: ServiceUsage) => `${Math.round(cpuPercent)} of ${Math.round(cpuPercentMax)} %`

function exceededText({ exceeded }: ServiceUsage): string {
  return Object.entries(exceeded)
    .filter(([, count]) => count > 0)
    .map(([code, count]) => `${code} ${count === 1 ? 'once' : `${count} times`}`)
    .join(', ')
}
