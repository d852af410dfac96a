/** Control groups, version 2 (Linux, Documentation/admin-guide/cgroup-v2.rst): one for each process of a service. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { readFile, rmdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { messageOf } from '../../core/errors.ts'
import type { ServiceLimits } from '../../core/manifest.ts'
import { THREADS_MAX } from './confinement.ts'
import type { Usage } from './transport.ts'

const CONTROLLERS = ['memory', 'pids', 'cpu'] as const
type Controller = (typeof CONTROLLERS)[number]

/** A group that was killed is empty as soon as its processes are reaped. */
const REMOVE_TRIES = 200
const REMOVE_PAUSE_MS = 10
const MAKE_TRIES = 5

export interface Cgroups {
  /** Those that the kernel offers here. */
  readonly controllers: ReadonlySet<Controller>
  /** "no cgroup memory.max: why", one for each that is missing. */
  readonly missing: readonly string[]
  /** A new, empty group. Synchronous: a few writes to the kernel, none to a disk. @throws Error */
  make(name: string, limits: Pick<ServiceLimits, 'memoryMbMax' | 'cpuPercentMax'>): Cgroup
}

/**
 * Opens this agent's part of the tree and ends what an earlier agent with the same key left there.
 * @param key of the agent: two on one machine do not see each other's groups
 * @returns why not, in words, when this machine has no version 2 or does not let us use it
 */
export function openCgroups(key: string): Cgroups | string {
  const mount = /^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 /m.exec(readFileSync('/proc/self/mountinfo', 'utf8'))?.[1]
  if (mount === undefined) return 'version 2 is not mounted'
  const base = join(mount, `offbox-${key}`)
  const refused = new Map<Controller, string>()
  /** Goes when it is empty (Cgroup.end), and comes again. */
  const prepare = () => {
    mkdirSync(base, { recursive: true })
    for (const controller of CONTROLLERS) {
      const why = refused.has(controller) ? undefined : enable(base, controller)
      if (why !== undefined) refused.set(controller, why)
    }
  }
  try {
    const offered = readWords(join(mount, 'cgroup.controllers'))
    for (const controller of CONTROLLERS) {
      const why = offered.includes(controller) ? enable(mount, controller) : 'the kernel does not offer it to version 2'
      if (why !== undefined) refused.set(controller, why)
    }
    sweep(mount)
    prepare()
    for (const name of directories(base)) void new Cgroup(join(base, name), []).end()
  } catch (error) {
    return messageOf(error)
  }
  let made = 0
  const controllers = new Set(CONTROLLERS.filter((one) => !refused.has(one)))
  return {
    controllers,
    missing: [...refused].map(([controller, why]) => `no cgroup ${controller}.max: ${why}`),
    make: (name, { memoryMbMax, cpuPercentMax }) => {
      // Not those of an earlier agent, which may be ending still.
      const path = join(base, `${name}-${process.pid}-${++made}`)
      makeDirectory(path, prepare)
      const words: string[] = []
      const bound = (controller: Controller, text: string, files: Readonly<Record<string, string>>) => {
        if (!controllers.has(controller)) return
        for (const [file, value] of Object.entries(files)) writeFileSync(join(path, file), value)
        words.push(`cgroup ${controller}.max ${text}`)
      }
      bound('memory', `${memoryMbMax} MiB`, { 'memory.max': `${memoryMbMax * 1024 * 1024}`, 'memory.oom.group': '1' })
      if (controllers.has('memory')) writeIfThere(join(path, 'memory.swap.max'), '0')
      bound('pids', `${THREADS_MAX}`, { 'pids.max': `${THREADS_MAX}` })
      bound('cpu', `${cpuPercentMax} %`, { 'cpu.max': `${cpuPercentMax * 1_000} 100000` })
      return new Cgroup(path, words)
    },
  }
}

/** Removes what agents left that were killed and do not come back. A group that holds a process stays: the kernel sees to it. */
function sweep(mount: string): void {
  for (const key of directories(mount).filter((one) => one.startsWith('offbox-'))) {
    const groups = directories(join(mount, key)).filter((name) => !existsSync(`/proc/${/-(\d+)-\d+$/.exec(name)?.[1] ?? 'self'}`))
    for (const path of [...groups.map((name) => join(mount, key, name)), join(mount, key)]) {
      try {
        rmdirSync(path)
      } catch {
        // In use.
      }
    }
  }
}

/** The directory above may go between its making and this: another agent sweeps, or the last group in it ended. */
function makeDirectory(path: string, prepare: () => void): void {
  for (let tries = 1; ; tries++) {
    prepare()
    try {
      mkdirSync(path)
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || tries === MAKE_TRIES) throw error
    }
  }
}

function directories(path: string): string[] {
  return readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []))
}

/** What the kernel did to a group because of its bounds. */
export interface Met {
  /** Processes ended for want of memory. */
  readonly memory: number
  /** Threads refused. */
  readonly pids: number
}

export class Cgroup {
  /** The bounds it has, for Transport.confinement. */
  readonly words: readonly string[]
  readonly #path: string

  constructor(path: string, words: readonly string[]) {
    this.#path = path
    this.words = words
  }

  /** Moves a process in; those that it starts later follow it. @throws Error when it is gone */
  async join(pid: number): Promise<void> {
    await this.#write('cgroup.procs', `${pid}`)
  }

  async pids(): Promise<number[]> {
    return (await this.#read('cgroup.procs')).split('\n').filter(Boolean).map(Number)
  }

  /** @throws Error when it was removed */
  async usage(): Promise<Usage> {
    const [memory, cpu] = await Promise.all([this.#read('memory.current'), this.#read('cpu.stat')])
    return { memoryBytes: Number(memory), cpuMs: field(cpu, 'usage_usec') / 1_000 }
  }

  async met(): Promise<Met> {
    const [memory, pids] = await Promise.all(['memory.events', 'pids.events'].map((file) => this.#read(file).catch(() => '')))
    return { memory: field(memory ?? '', 'oom_kill'), pids: field(pids ?? '', 'max') }
  }

  kill(): void {
    // Gone already, or a kernel before 5.14: the processes are killed one by one as well.
    this.#write('cgroup.kill', '1').catch(() => {})
  }

  /** Kills what is in it and removes it. @returns whether it is gone */
  async end(): Promise<boolean> {
    this.kill()
    for (let tries = 0; tries < REMOVE_TRIES; tries++) {
      const error = await rmdir(this.#path).then(
        () => undefined,
        (error: NodeJS.ErrnoException) => error,
      )
      if (error === undefined || error.code === 'ENOENT') {
        // The directory above goes with the last one in it.
        await rmdir(dirname(this.#path)).catch(() => {})
        return true
      }
      await new Promise((resolve) => setTimeout(resolve, REMOVE_PAUSE_MS))
    }
    return false
  }

  async #read(file: string): Promise<string> {
    return await readFile(join(this.#path, file), 'utf8')
  }

  async #write(file: string, text: string): Promise<void> {
    await writeFile(join(this.#path, file), text, { flag: 'r+' })
  }
}

/** Why not, or undefined. */
function enable(directory: string, controller: Controller): string | undefined {
  const file = join(directory, 'cgroup.subtree_control')
  if (readWords(file).includes(controller)) return undefined
  try {
    writeFileSync(file, `+${controller}`)
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

function writeIfThere(file: string, text: string): void {
  try {
    writeFileSync(file, text, { flag: 'r+' })
  } catch (error) {
    // A kernel without swap has no such file.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

function readWords(file: string): string[] {
  return readFileSync(file, 'utf8').trim().split(/\s+/)
}

/** A value of a flat keyed file, 0 without one. */
function field(text: string, name: string): number {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
}
