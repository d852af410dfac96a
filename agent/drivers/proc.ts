/** The `proc` capability: CPU, memory and load from /proc. Read only. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import type { Operations } from './types.ts'

/** USER_HZ, which /proc/stat counts in: 100 on every architecture Linux gives to user space (proc(5)). */
const TICK_MS = 10

interface Reading {
  readonly cpuBusyMs: number
  readonly cpuIdleMs: number
  readonly memoryTotalBytes: number
  readonly memoryAvailableBytes: number
  readonly load1: number
}

/** @param root for tests */
export function procOperations(root = '/proc'): Operations {
  let reading: Promise<Reading> | undefined
  return {
    read: async () => {
      reading ??= read(root).finally(() => {
        reading = undefined
      })
      return await reading
    },
  }
}

async function read(root: string): Promise<Reading> {
  const [stat, memory, load] = await Promise.all(['stat', 'meminfo', 'loadavg'].map(async (name) => await readFile(join(root, name), 'utf8')))
  return { ...cpu(stat ?? ''), ...memoryOf(memory ?? ''), load1: number(/^(\S+)/.exec(load ?? ''), 'loadavg') }
}

/** First line: user nice system idle iowait irq softirq steal guest guest_nice; guest time is in user and nice already. */
function cpu(stat: string): { cpuBusyMs: number; cpuIdleMs: number } {
  const line = /^cpu\s+(.+)$/m.exec(stat)
  if (!line) throw new OffboxError('DRIVER_FAILED', '/proc/stat cannot be read')
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0] = (line[1] ?? '').split(/\s+/).map(Number)
  return { cpuBusyMs: (user + nice + system + irq + softirq) * TICK_MS, cpuIdleMs: (idle + iowait) * TICK_MS }
}

function memoryOf(meminfo: string): { memoryTotalBytes: number; memoryAvailableBytes: number } {
  const bytes = (key: string) => number(new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(meminfo), key) * 1024
  return { memoryTotalBytes: bytes('MemTotal'), memoryAvailableBytes: bytes('MemAvailable') }
}

function number(match: RegExpExecArray | null, what: string): number {
  const value = Number(match?.[1])
  if (!match || !Number.isFinite(value)) throw new OffboxError('DRIVER_FAILED', `${what} cannot be read from /proc`)
  return value
}
