import type { MetricsParts } from './families.ts'

/** The agent's process as it is now, its worker threads included. */
export function processNumbers(starts: number): ReturnType<MetricsParts['agent']> {
  const { user, system } = process.cpuUsage()
  return { memoryBytes: process.memoryUsage.rss(), cpuMs: (user + system) / 1_000, uptimeMs: process.uptime() * 1_000, starts }
}
