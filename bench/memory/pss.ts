/** Memory of a process and all it started, as the kernel shares it out: pages that several processes share count once in all. */
import { readdirSync, readFileSync } from 'node:fs'

export interface ProcessMemory {
  readonly pid: number
  readonly name: string
  readonly pssMb: number
}

/** The process and its descendants. One that ends meanwhile is left out. */
export function memoryOf(pid: number): ProcessMemory[] {
  return [pid, ...descendants(pid)].flatMap((one) => {
    try {
      const kb = Number(/^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${one}/smaps_rollup`, 'utf8'))?.[1])
      return [{ pid: one, name: readFileSync(`/proc/${one}/comm`, 'utf8').trim(), pssMb: kb / 1024 }]
    } catch (error) {
      if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return []
      throw error
    }
  })
}

export const sumMb = (processes: readonly ProcessMemory[]) => processes.reduce((sum, { pssMb }) => sum + pssMb, 0)

function descendants(pid: number): number[] {
  const parents = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      // The name in brackets may hold anything; the parent is the second word after the last bracket.
      const text = readFileSync(`/proc/${name}/stat`, 'utf8')
      const parent = Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1])
      parents.set(parent, [...(parents.get(parent) ?? []), Number(name)])
    } catch {
      // It has just ended.
    }
  }
  const below = (one: number): number[] => (parents.get(one) ?? []).flatMap((child) => [child, ...below(child)])
  return below(pid)
}
