/** A lab with trust, small services, and devices that are started as often as a test wants. */
import t from 'tap'
import type { RpcClient } from '../../../fleet/rpc/client.ts'
import { LifecycleMethods } from '../../../proto/gen/lifecycle.ts'
import { makeBundle, type ManifestParts, type SigningKey } from '../../fixtures/bundles.ts'
import { type AgentProcess, connect, freePort, isServing, type Lab, makeLab, startAgent } from '../agent-process.ts'
import type { TrustLab } from '../trust-lab.ts'

const SERVICE = `{ methods: [], check: (raw) => raw, start: async () => {}, stop: async () => {}, health: () => ({ status: 'healthy', evidence: {} }) }`
const CODE = `var offboxService = { create: () => (${SERVICE}) }`

/** Nothing that one test does to the store of a device is left for the next. */
export interface Device {
  client: RpcClient
  agent: AgentProcess
  /** Kills the agent, then starts it on what it left. */
  again(before?: () => Promise<unknown>): Promise<void>
  close(): void
}

export interface OrdersLab {
  readonly lab: Lab
  readonly fleet: TrustLab
  bundle(name: string, version: string, over?: Partial<ManifestParts>, key?: SigningKey): Uint8Array
  device(name: string): Promise<Device>
  confirm(agent: AgentProcess, changeId: string): Promise<void>
}

/** For the whole file that calls it; ends with it. */
export async function ordersLab(): Promise<OrdersLab> {
  const lab = await makeLab([], { trust: true })
  const fleet = lab.trust as TrustLab
  const agents: AgentProcess[] = []
  t.teardown(async () => {
    for (const agent of agents) await agent.kill()
    await lab.close()
  })
  const device = async (name: string): Promise<Device> => {
    const port = await freePort()
    const up = async () => {
      made.client?.close()
      made.agent = await startAgent(lab, name, port)
      agents.push(made.agent)
      await made.agent.line(isServing)
      if (!fleet.silent && !lab.withholding) await made.agent.line(({ msg }) => msg === 'the repository is known as it is now')
      made.client = await connect(lab, port)
    }
    const made: Device = {
      client: undefined as unknown as RpcClient,
      agent: undefined as unknown as AgentProcess,
      again: async (before = async () => undefined) => {
        await made.agent.kill()
        await before()
        await up()
      },
      close: () => made.client.close(),
    }
    await up()
    return made
  }
  return {
    ...{ lab, fleet, device },
    bundle: (name, version, over = {}, key = lab.key) => makeBundle(key, { name, version, heapMbMax: 32, ...over }, CODE),
    confirm: async (agent, changeId) => {
      const fresh = await connect(lab, agent.port)
      await fresh.unary(LifecycleMethods.Confirm, { changeId })
      fresh.close()
    },
  }
}

export const orderOf = (service: string, version: string, more: object = {}) => ({ service, version, bakeMs: 0, confirmTimeoutMs: 60_000, ...more })
