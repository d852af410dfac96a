/** What every bench prints: the machine, and for each figure its samples, median and p99. */
import { cpus, release, totalmem } from 'node:os'

/** Value below which `share` (0 to 1) of the samples lie; nearest rank. NaN without samples. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))] ?? Number.NaN
}

export const median = (samples: readonly number[]) => quantile(samples, 0.5)

/** Rounds to three significant digits: the machine is not quieter than that. */
export const short = (value: number) => Number(value.toPrecision(3))

/** Prints a table of figures, then with --json one object as the last line. */
export function report(
  name: string,
  rows: Readonly<Record<string, { samples: readonly number[]; unit: string }>>,
  figures: Readonly<Record<string, number | string>>,
): void {
  const cpu = cpus()[0]?.model ?? 'unknown CPU'
  process.stdout.write(`${name} on ${cpus().length} x ${cpu}, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.version}\n`)
  for (const [row, { samples, unit }] of Object.entries(rows)) {
    process.stdout.write(`  ${row.padEnd(28)} n=${samples.length}  median ${short(median(samples))} ${unit}  p99 ${short(quantile(samples, 0.99))} ${unit}\n`)
  }
  for (const [key, value] of Object.entries(figures)) process.stdout.write(`  ${key.padEnd(28)} ${typeof value === 'number' ? short(value) : value}\n`)
  if (process.argv.includes('--json')) {
    const rounded = Object.fromEntries(Object.entries(figures).map(([key, value]) => [key, typeof value === 'number' ? short(value) : value]))
    process.stdout.write(`${JSON.stringify(rounded)}\n`)
  }
}
