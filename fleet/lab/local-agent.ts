/**
 * A device as a process: the agent in a network namespace of its own, started again one second after it ends, as /init does it
 * in the image. What an agent starts detached (BIRD) lives on when the agent is killed, and ends with the "power".
 */
import { mkdir, readFile, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { ConsoleLines } from './lines.ts'
import type { LabNetwork, Port } from './network.ts'
import { command, longRunning, type LabLog, type LongRunning } from './process.ts'

const RESPAWN_DELAY_MS = 1_000
const END_TIMEOUT_MS = 5_000

interface NodeStart {
  readonly flags: readonly string[]
  readonly environment: Readonly<Record<string, string>>
}

export interface LocalAgentOptions {
  /** For logs only. */
  readonly name: string
  readonly network: LabNetwork
  readonly port: Port
  /** Node to run it with; default: ours. */
  readonly node?: string
  /** The agent's program, dist/agent/main.mjs. */
  readonly program: string
  /** Its configuration, written by the caller. */
  readonly configFile: string
  /** Removed at power-off when `diskless`: everything the device keeps. */
  readonly stateDirs: readonly string[]
  /** A device with no disk forgets everything when its power goes. Default true. */
  readonly diskless?: boolean
  /** Appended to: the agent's pino lines. */
  readonly consoleFile: string
  readonly signal?: AbortSignal
  readonly log: LabLog
}

export interface LocalAgent {
  readonly name: string
  readonly port: Port
  readonly console: ConsoleLines
  /** Monotonic time (performance.now) of the last power-on, milliseconds. */
  readonly poweredOnAtMs: number
  readonly running: boolean
  /** Of the agent's process while it runs. */
  readonly pid: number | null
  powerOn(): Promise<void>
  /** Kills the agent and all it started, and stays off. */
  powerOff(): Promise<void>
  /** Sends the agent a signal; it is started again when it ends. @returns false when none runs */
  signal(name: NodeJS.Signals): boolean
  close(): Promise<void>
}

/** Makes the namespace; the agent is off until `powerOn`. `signal` cuts its power. */
export async function createLocalAgent(options: LocalAgentOptions): Promise<LocalAgent> {
  options.signal?.throwIfAborted()
  await mkdir(dirname(options.consoleFile), { recursive: true })
  return new AgentProcess(options, await options.network.agentNamespace(options.port))
}

class AgentProcess implements LocalAgent {
  readonly name: string
  readonly port: Port
  readonly console: ConsoleLines
  poweredOnAtMs = Number.NaN
  readonly #options: LocalAgentOptions
  readonly #namespace: string
  #agent: LongRunning | null = null
  #power: AbortController | null = null
  #respawning: Promise<void> = Promise.resolve()
  #turn: Promise<void> = Promise.resolve()
  readonly #abort = () => void this.close()

  constructor(options: LocalAgentOptions, namespace: string) {
    this.name = options.name
    this.port = options.port
    this.console = new ConsoleLines(options.consoleFile)
    this.#options = options
    this.#namespace = namespace
    options.signal?.addEventListener('abort', this.#abort, { once: true })
  }

  get running(): boolean {
    return this.#power !== null
  }

  get pid(): number | null {
    return this.#agent?.pid ?? null
  }

  powerOn(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#power) return
      this.#options.signal?.throwIfAborted()
      for (const dir of this.#options.stateDirs) await mkdir(dir, { recursive: true, mode: 0o700 })
      this.#power = new AbortController()
      this.poweredOnAtMs = performance.now()
      const first = await this.#start()
      this.#respawning = this.#keepRunning(first, this.#power.signal)
    })
  }

  powerOff(): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#power) return
      this.#power.abort()
      this.#power = null
      await this.#agent?.stop('SIGKILL')
      await this.#respawning
      await this.#endAll()
      for (const dir of (this.#options.diskless ?? true) ? this.#options.stateDirs : []) await rm(dir, { recursive: true, force: true })
      this.#options.log('powered off', { device: this.name })
    })
  }

  signal(name: NodeJS.Signals): boolean {
    if (!this.#agent) return false
    process.kill(this.#agent.pid, name)
    return true
  }

  async close(): Promise<void> {
    this.#options.signal?.removeEventListener('abort', this.#abort)
    await this.powerOff()
    this.console.end()
  }

  async #start(): Promise<LongRunning> {
    const { node = process.execPath, program, configFile, log } = this.#options
    // As in the image: what Node is started with is part of the agent's build.
    const { flags, environment } = JSON.parse(await readFile(join(dirname(program), 'node.json'), 'utf8')) as NodeStart
    const agent = await longRunning(node, [...flags, program, '--config', configFile], {
      namespace: this.#namespace,
      // What the lab's own process was told is none of the device's business.
      env: { ...environment, NODE_OPTIONS: '', NODE_V8_COVERAGE: '' },
      onLine: (line) => this.console.push(line),
    })
    this.#agent = agent
    log('agent started', { device: this.name, pid: agent.pid })
    return agent
  }

  async #keepRunning(first: LongRunning, power: AbortSignal): Promise<void> {
    for (let agent = first; ; agent = await this.#start()) {
      const how = await agent.exited
      this.#agent = null
      if (power.aborted) return
      this.#options.log('agent ended', { device: this.name, how })
      await delay(RESPAWN_DELAY_MS, undefined, { signal: power }).catch(() => {})
      if (power.aborted) return
    }
  }

  /** Whatever is left in the namespace: the agent's BIRD, its `ip` calls. */
  async #endAll(): Promise<void> {
    const deadlineMs = performance.now() + END_TIMEOUT_MS
    for (;;) {
      const pids = (await command('ip', ['netns', 'pids', this.#namespace])).split('\n').filter(Boolean).map(Number)
      if (pids.length === 0 || performance.now() > deadlineMs) return
      for (const pid of pids) killQuietly(pid)
      await delay(20)
    }
  }

  #inTurn(step: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(step)
    this.#turn = done.catch(() => {}) // the caller has it from `done`
    return done
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
