/**
 * Takes the place of agent/store/file-system.ts in the drill's own build of the agent: counts the durable operations and, at the
 * one that a plan beside the configuration file names, kills this process or fails as a disk does. The shipped agent has none of it.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { type FileSystem, nodeFileSystem as real } from '../../../agent/store/file-system.ts'

/** `none`: only count. `before` and `after`: SIGKILL around the operation. The others: it fails with this errno. */
export type Fault = 'none' | 'before' | 'after' | 'ENOSPC' | 'EIO'

export interface CrashPlan {
  /** Operations are counted anew from the first one that sees another number. */
  readonly run: number
  /** 1 is the first operation. */
  readonly at: number
  readonly fault: Fault
}

/** What the drill reads afterwards: how many operations there were, and which one the fault hit. */
export interface CrashTrace {
  readonly run: number
  readonly operations: number
  /** Its name and file; null: none was hit. */
  readonly hit: string | null
  /** It came to the operation, which a disk of this fault lets pass. */
  readonly spared: boolean
}

export const PLAN_FILE = 'crash-plan.json'
export const TRACE_FILE = 'crash-trace.json'

const home = dirname(process.argv[process.argv.indexOf('--config') + 1] ?? '')
let run = 0
let operations = 0
let hitWhat: string | null = null
let spared = false
let intent = ''

function plan(): CrashPlan | null {
  const file = join(home, PLAN_FILE)
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as CrashPlan) : null
}

async function step<T>(name: string, path: string, act: () => Promise<T>): Promise<T> {
  const planned = plan()
  // The identity is renewed beside everything else, whenever the controller answers.
  if (!planned || /\/identity(\/|$)/.test(path)) return await act()
  if (planned.run !== run) {
    run = planned.run
    operations = 0
    hitWhat = null
    spared = false
  }
  operations += 1
  // Removing needs no space.
  const harmless = planned.fault === 'none' || (planned.fault === 'ENOSPC' && name.startsWith('remove'))
  const hit = operations === planned.at && !harmless
  if (operations === planned.at && harmless) spared = true
  if (hit) hitWhat = `${name} ${basename(dirname(path))}/${basename(path)}`
  const seen: CrashTrace = { run, operations, hit: hitWhat, spared }
  writeFileSync(join(home, TRACE_FILE), JSON.stringify(seen))
  if (hit && planned.fault === 'before') die()
  if (hit && planned.fault !== 'after') throw Object.assign(new Error(`${planned.fault}: injected`), { code: planned.fault })
  try {
    return await act()
  } finally {
    // Also after one that failed, such as the sync of a directory that is not there.
    if (hit) die()
  }
}

function die(): never {
  process.kill(process.pid, 'SIGKILL')
  for (;;);
}

/** Audit records of calls come in batches whenever a timer says; only those of intents belong to a step. */
const audits = (path: string): boolean => /\/audit(\/|$)/.test(path)

export function crashing(files: FileSystem): FileSystem {
  return {
    read: files.read,
    list: files.list,
    sizeBytes: files.sizeBytes,
    create: async (path, bytes, mode) => await step('create', path, async () => await files.create(path, bytes, mode)),
    append: async (path, bytes, mode) => {
      intent = ''
      if (audits(path) && !Buffer.from(bytes).includes('"intent"')) return await files.append(path, bytes, mode)
      if (audits(path)) intent = path
      return await step('append', path, async () => await files.append(path, bytes, mode))
    },
    sync: async (path) => {
      if (audits(path) && path !== intent) return await files.sync(path)
      return await step('sync', path, async () => await files.sync(path))
    },
    rename: async (from, to) => await step('rename', to, async () => await files.rename(from, to)),
    // What changes nothing is no step.
    remove: async (path) => (existsSync(path) ? await step('remove', path, async () => await files.remove(path)) : await files.remove(path)),
    removeTree: async (path) => (existsSync(path) ? await step('removeTree', path, async () => await files.removeTree(path)) : await files.removeTree(path)),
    makeDirectory: async (path) =>
      existsSync(path) ? await files.makeDirectory(path) : await step('makeDirectory', path, async () => await files.makeDirectory(path)),
  }
}

export const nodeFileSystem: FileSystem = crashing(real)
