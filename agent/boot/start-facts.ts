/** What tells this start of the machine, and of the agent on it, from others. Lives in the run directory, which a boot empties. */
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { uptime } from 'node:os'
import { join } from 'node:path'
import type { AtomicFiles } from '../store/atomic.ts'

export interface StartFacts {
  /** Random at each start of the machine (a local agent: of its run directory), 32 hex digits. */
  readonly bootId: string
  /** Starts of the agent since then, this one included. */
  readonly agentStarts: number
}

export async function readStartFacts(files: AtomicFiles, runDir: string, boot: 'pxe' | 'local'): Promise<StartFacts> {
  const path = join(runDir, 'start-facts')
  // A file that fails its check is set aside and counted from anew; it holds nothing else.
  const before = (await files.readJson(path).catch(() => null)) as StartFacts | null
  const bootId = before?.bootId ?? (boot === 'pxe' ? await machineBootId() : randomUUID()).replaceAll('-', '')
  const facts: StartFacts = { bootId, agentStarts: (before?.agentStarts ?? 0) + 1 }
  await files.writeJson(path, facts)
  return facts
}

/** Milliseconds since power-on; for a local agent since its process started. */
export function uptimeMsOf(boot: 'pxe' | 'local'): number {
  return (boot === 'pxe' ? uptime() : process.uptime()) * 1000
}

async function machineBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
}
