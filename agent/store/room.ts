/** How much memory and disk there is: the facts that change/preflight.ts judges. */
import { readFile, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Room } from '../change/preflight.ts'

/** @param roots where /proc and /sys/fs/cgroup are, for tests */
export async function readRoom(stateDir: string, roots = { proc: '/proc', cgroup: '/sys/fs/cgroup' }): Promise<Room> {
  const { bavail, bsize, blocks } = await statfs(stateDir)
  const memory = Math.min(await memoryOfMachine(roots.proc), await memoryOfGroup(roots))
  // ramfs has no size of its own and says 0.
  return { memoryAvailableBytes: memory, stateAvailableBytes: blocks === 0 ? undefined : bavail * bsize }
}

/** proc(5), MemAvailable. */
async function memoryOfMachine(proc: string): Promise<number> {
  const found = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile(join(proc, 'meminfo'), 'utf8'))
  if (!found) throw new Error('/proc/meminfo has no MemAvailable')
  return Number(found[1]) * 1024
}

/** What control group v2 leaves this process: in its group, or in one above it. Infinity without a bound. */
async function memoryOfGroup({ proc, cgroup }: { proc: string; cgroup: string }): Promise<number> {
  const own = /^0::(\/.*)$/m.exec(await readFile(join(proc, 'self/cgroup'), 'utf8').catch(() => ''))?.[1]
  let least = Number.POSITIVE_INFINITY
  for (let path = own ?? '/'; path !== '/' && path !== '.'; path = join(path, '..')) {
    const [max, current] = await Promise.all(['memory.max', 'memory.current'].map(async (name) => await readNumber(join(cgroup, path, name))))
    if (max !== undefined && current !== undefined) least = Math.min(least, Math.max(0, max - current))
  }
  return least
}

/** Undefined: there is no such file, or it says "max". */
async function readNumber(path: string): Promise<number | undefined> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return /^\d+\s*$/.test(text) ? Number(text) : undefined
}
