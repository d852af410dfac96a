/** One device of the drill: an agent process that can be told where to die, and what a client does to it. */
import { rmSync } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Plugin } from 'esbuild'
import type { RpcClient } from '../../../fleet/rpc/client.ts'
import { ChangeState, LifecycleMethods } from '../../../proto/gen/lifecycle.ts'
import { type AgentProcess, connect, freePort, isServing, type Lab, makeLab, send, startAgent } from '../../agent/agent-process.ts'
import { makeBundle } from '../../fixtures/bundles.ts'
import { COUNTER_METHODS, payloadOf } from '../../fixtures/services/counter/bundle.ts'
import { type CrashPlan, type CrashTrace, type Fault, PLAN_FILE, TRACE_FILE } from './crash-point.ts'

export const SERVICE = 'counter'
const deathTimeoutMs = 60_000

export interface DrillLab {
  readonly lab: Lab
  readonly identity: { keyPem: string; certificatePem: string }
  readonly code: string
  readonly running: Set<AgentProcess>
  /** Ends and removes everything at once, for a drill that is stopped. */
  abandon(): void
}

/** Ways in which the drill's agent does wrong, so that the drill must fail; each a file beside this one. */
export const SABOTAGES = ['skip-confirmed', 'skip-receipt'] as const
export type Sabotage = (typeof SABOTAGES)[number]

export async function makeDrillLab(sabotage: Sabotage | null): Promise<DrillLab> {
  const lab = await makeLab([instead(`${import.meta.dirname}/${sabotage ?? 'crash-point'}.ts`)])
  const code = Buffer.from(await payloadOf('test/fixtures/services/counter/service.ts')).toString()
  const running = new Set<AgentProcess>()
  const abandon = () => {
    for (const { child } of running) child.kill('SIGKILL')
    rmSync(lab.directory, { recursive: true, force: true })
  }
  return { lab, code, identity: await lab.identity('operator', 'drill'), running, abandon }
}

/** Makes every import of agent/store/file-system.ts one of `file`, but for those of the drill itself. */
function instead(file: string): Plugin {
  return {
    name: 'file system of the drill',
    setup: ({ onResolve }) => {
      onResolve({ filter: /\/file-system\.ts$/ }, ({ importer }) => (importer.startsWith(import.meta.dirname) ? null : { path: file }))
    },
  }
}

export class Device {
  readonly #drill: DrillLab
  readonly #name: string
  #agent: AgentProcess | undefined
  #run = 0
  #minor = 0

  constructor(drill: DrillLab, name: string) {
    this.#drill = drill
    this.#name = name
  }

  get home(): string {
    return join(this.#drill.lab.directory, this.#name)
  }

  get stateDir(): string {
    return join(this.home, 'state')
  }

  /** Starts the agent on what is there, with no plan. Resolves when it serves. */
  async start(): Promise<void> {
    await rm(join(this.home, PLAN_FILE), { force: true })
    // A port of its own each time: the one before may be somebody else's by now.
    const agent = await startAgent(this.#drill.lab, this.#name, await freePort())
    this.#agent = agent
    this.#drill.running.add(agent)
    void agent.exited.then(() => this.#drill.running.delete(agent))
    await agent.line(isServing)
  }

  /** How the agent ended, if it has. */
  get ended(): NodeJS.Signals | number | null {
    return this.#agent?.child.signalCode ?? this.#agent?.child.exitCode ?? null
  }

  async kill(): Promise<void> {
    await this.#agent?.kill('SIGKILL')
  }

  async connected<T>(act: (client: RpcClient) => Promise<T>): Promise<T> {
    const { lab, identity } = this.#drill
    const client = await connect(lab, this.#agent?.port ?? 0, identity)
    try {
      return await act(client)
    } finally {
      client.close()
    }
  }

  nextVersion(): string {
    this.#minor += 1
    return `1.${this.#minor}.0`
  }

  /** Until the change is provisional; its id. */
  async order(kind: 'Install' | 'Upgrade', version: string): Promise<string> {
    const { lab, code } = this.#drill
    const snapshot = { writes: [1], reads: [1] }
    const file = makeBundle(lab.key, { name: SERVICE, version, methods: COUNTER_METHODS, capabilities: ['proc'], snapshot, heapMbMax: 32 }, code)
    const order = { service: SERVICE, version, bakeMs: 0, confirmTimeoutMs: 600_000, reason: 'drill' }
    return (await this.connected(async (client) => await send(client, kind, order, file))).id
  }

  async confirm(changeId: string): Promise<void> {
    await this.connected(async (client) => await client.unary(LifecycleMethods.Confirm, { changeId }))
  }

  async revert(changeId: string): Promise<void> {
    await this.connected(async (client) => await client.unary(LifecycleMethods.Revert, { changeId, reason: 'drill' }))
  }

  /** Ends a change that is live, as a restart would; false when there is nothing that could be asked. */
  async undoOpen(): Promise<boolean> {
    return await this.connected(async (client) => {
      const { services } = await client.unary(LifecycleMethods.List, {})
      const open = services.flatMap(({ change }) => (change?.state === ChangeState.PROVISIONAL ? [change.id] : []))
      for (const changeId of open) await client.unary(LifecycleMethods.Revert, { changeId, reason: 'drill' })
      return true
    }).catch(() => false)
  }

  async remove(): Promise<void> {
    await this.connected(async (client) => await client.unary(LifecycleMethods.Remove, { service: SERVICE, reason: 'drill' }))
  }

  /** Runs `act` under a plan. `told`: it was answered without an error. */
  async under(at: number, fault: Fault, act: () => Promise<unknown>): Promise<{ told: boolean; trace: CrashTrace }> {
    this.#run += 1
    const plan: CrashPlan = { run: this.#run, at, fault }
    await writeFile(join(this.home, PLAN_FILE), JSON.stringify(plan))
    const told = await act().then(
      () => true,
      () => false,
    )
    await rm(join(this.home, PLAN_FILE))
    const trace = await this.#trace()
    if (trace.run !== this.#run) throw new Error(`${this.#name}: the agent did nothing durable under the plan`)
    // The client may learn of the end before this process does.
    if (trace.hit && (fault === 'before' || fault === 'after')) await this.#died()
    return { told, trace }
  }

  /** An agent that lives on may be writing it. */
  async #trace(): Promise<CrashTrace> {
    for (let attempt = 1; ; attempt++) {
      const text = await readFile(join(this.home, TRACE_FILE), 'utf8')
      if (text.endsWith('}') || attempt === 10) return JSON.parse(text) as CrashTrace
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  async #died(): Promise<void> {
    const late = new Promise<never>((_, reject) => {
      setTimeout(() => reject(new Error(`${this.#name}: the agent lives on after its SIGKILL`)), deathTimeoutMs).unref()
    })
    await Promise.race([this.#agent?.exited, late])
  }
}
