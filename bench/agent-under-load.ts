/** A real agent on loopback with a small stateful service on it, and callers that keep a number of calls in flight. */
import type { RpcClient } from '../fleet/rpc/client.ts'
import { buildAll } from '../build.mjs'
import { LifecycleMethods, type Change } from '../proto/gen/lifecycle.ts'
import { type AgentProcess, connect, freePort, isServing, type Lab, makeLab, send, startAgent } from '../test/agent/agent-process.ts'
import { makeBundle, type ManifestParts } from '../test/fixtures/bundles.ts'
import { COUNTER_METHODS, payloadOf } from '../test/fixtures/services/counter/bundle.ts'

const raw = { encode: (value: string) => new TextEncoder().encode(value), decode: (bytes: Uint8Array) => Buffer.from(bytes).toString() }
/** Answers "VERSION COUNT"; the count is the service's state. */
const NEXT = { path: '/test.Counter/Next', kind: 'unary', request: raw, response: raw } as never

export interface AgentUnderLoad {
  readonly lab: Lab
  readonly port: number
  /** Of the agent's process. */
  readonly pid: number
  connect(): Promise<RpcClient>
  /** Makes `version` the one that runs, confirmed. */
  bring(kind: 'Install' | 'Upgrade', version: string): Promise<Change>
  /** Installs a service, confirmed. */
  install(manifest: ManifestParts, code: string): Promise<Change>
  close(): Promise<void>
}

export async function agentUnderLoad(): Promise<AgentUnderLoad> {
  await buildAll()
  const lab = await makeLab()
  const port = await freePort()
  let agent: AgentProcess | undefined
  const close = async () => {
    await agent?.kill()
    await lab.close()
  }
  try {
    agent = await startAgent(lab, 'bench', port)
    await agent.line(isServing)
    const code = Buffer.from(await payloadOf('test/fixtures/services/counter/service.ts')).toString()
    const bundle = (version: string) =>
      makeBundle(
        lab.key,
        { name: 'counter', version, methods: COUNTER_METHODS, capabilities: ['proc'], snapshot: { writes: [1], reads: [1] }, heapMbMax: 32 },
        code,
      )
    const change = async (kind: 'Install' | 'Upgrade', service: string, version: string, file: Uint8Array) => {
      const before = await connect(lab, port)
      const order = { service, version, bakeMs: 0, confirmTimeoutMs: 60_000, allowDowngrade: true, reason: 'bench' }
      const change = await send(before, kind, order, file).finally(() => before.close())
      const fresh = await connect(lab, port)
      await fresh.unary(LifecycleMethods.Confirm, { changeId: change.id }).finally(() => fresh.close())
      return change
    }
    const bring = async (kind: 'Install' | 'Upgrade', version: string) => await change(kind, 'counter', version, bundle(version))
    const install = async (manifest: ManifestParts, code: string) =>
      await change('Install', manifest.name, manifest.version, makeBundle(lab.key, manifest, code))
    return { lab, port, pid: agent.child.pid ?? 0, connect: async () => await connect(lab, port), bring, install, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** One call; the count that the service gave it. */
export async function next(client: RpcClient): Promise<number> {
  const text = (await client.unary(NEXT, '' as never, { deadlineMs: 60_000 })) as unknown as string
  return Number(text.split(' ').at(-1))
}

/** Keeps `inFlight` calls under way for `ms`; calls per second. */
export async function callsPerSecond(client: RpcClient, inFlight: number, ms: number): Promise<number> {
  const startMs = performance.now()
  let calls = 0
  await Promise.all(
    Array.from({ length: inFlight }, async () => {
      for (; performance.now() - startMs < ms; calls++) await next(client)
    }),
  )
  return (calls * 1000) / (performance.now() - startMs)
}
