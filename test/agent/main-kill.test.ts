import t from 'tap'
import { LifecycleMethods } from '../../proto/gen/lifecycle.ts'
import { makeBundle } from '../fixtures/bundles.ts'
import { COUNTER_METHODS, payloadOf } from '../fixtures/services/counter/bundle.ts'
import { type AgentProcess, ask, connect, freePort, isServing, type Lab, makeLab, send, startAgent } from './agent-process.ts'

const rounds = 7
let lab: Lab
let code: string
const agents: AgentProcess[] = []

t.setTimeout(290_000)

t.before(async () => {
  lab = await makeLab([], { trust: true })
  code = Buffer.from(await payloadOf('test/fixtures/services/counter/service.ts')).toString()
})

t.teardown(async () => {
  for (const agent of agents) await agent.kill()
  await lab?.close()
})

function counter(version: string): Uint8Array {
  const parts = { name: 'counter', version, methods: COUNTER_METHODS, capabilities: ['proc'], snapshot: { writes: [1], reads: [1] }, heapMbMax: 32 } as const
  return makeBundle(lab.key, parts, code)
}
const order = (version: string) => ({ service: 'counter', version, bakeMs: 0, confirmTimeoutMs: 60_000, reason: 'kill' })

async function start(name: string, port: number): Promise<AgentProcess> {
  const agent = await startAgent(lab, name, port)
  agents.push(agent)
  await agent.line(isServing)
  return agent
}

async function confirm(port: number, changeId: string): Promise<void> {
  const fresh = await connect(lab, port)
  try {
    await fresh.unary(LifecycleMethods.Confirm, { changeId })
  } finally {
    fresh.close()
  }
}

/** Runs `act`, kills the agent `afterMs` into it, and says how `act` ended. */
async function killDuring(agent: AgentProcess, afterMs: number, act: () => Promise<unknown>): Promise<'done' | 'lost'> {
  const acted = act().then(
    () => 'done' as const,
    () => 'lost' as const,
  )
  await new Promise((resolve) => setTimeout(resolve, afterMs))
  await agent.kill('SIGKILL')
  return await acted
}

/** What runs and answers on a device that has just started again. */
async function found(port: number): Promise<{ versions: string[]; answer: string }> {
  const client = await connect(lab, port)
  try {
    const { services } = await client.unary(LifecycleMethods.List, {})
    const versions = services.map(({ version, state }) => (state === 3 ? version : `${version} in state ${state}`))
    const answer = versions.length > 0 ? await ask(lab, client, '/test.Counter/Next') : ''
    return { versions, answer }
  } finally {
    client.close()
  }
}

const bundles: Record<string, Uint8Array> = {}
const bundleOf = (version: string) => {
  bundles[version] ??= counter(version)
  return bundles[version]
}

// Spread over what each step takes here (about 550 ms, 550 ms, 60 ms), and moved at random within each part.
const moments = (spanMs: number) => Array.from({ length: rounds }, (_, at) => ((at + Math.random()) * spanMs) / rounds)

t.test(`an agent killed during install, at ${rounds} moments: what was not confirmed is gone, and the order can be given again`, async (t) => {
  for (const [round, afterMs] of moments(650).entries()) {
    const port = await freePort()
    const agent = await start(`install-${round}`, port)
    const client = await connect(lab, port)
    await lab.trust?.supply(bundleOf('1.0.0'))
    const outcome = await killDuring(agent, afterMs, async () => await send(client, 'Install', order('1.0.0'), bundleOf('1.0.0')))
    client.close()
    const again = await start(`install-${round}`, port)
    t.same((await found(port)).versions, [], `killed after ${Math.round(afterMs)} ms, the order was ${outcome}`)
    const fresh = await connect(lab, port)
    const change = await send(fresh, 'Install', order('1.0.0'), bundleOf('1.0.0'))
    fresh.close()
    await confirm(port, change.id)
    t.match(await found(port), { versions: ['1.0.0'], answer: /^1\.0\.0 \d+$/ })
    await again.kill('SIGTERM')
  }
})

t.test(`an agent killed during upgrade and during confirm, at ${2 * rounds} moments: one active version each time, never lost`, async (t) => {
  const port = await freePort()
  let agent = await start('upgrade', port)
  const first = await connect(lab, port)
  const installed = await send(first, 'Install', order('1.0.0'), bundleOf('1.0.0'))
  first.close()
  await confirm(port, installed.id)
  let active = '1.0.0'
  const upgrades = moments(650).map((afterMs) => ({ step: 'upgrade' as const, afterMs }))
  const confirms = moments(60).map((afterMs) => ({ step: 'confirm' as const, afterMs }))
  for (const [round, { step, afterMs }] of [...upgrades, ...confirms].entries()) {
    const next = `1.${round + 1}.0`
    const client = await connect(lab, port)
    let outcome: 'done' | 'lost'
    await lab.trust?.supply(bundleOf(next))
    if (step === 'upgrade') {
      outcome = await killDuring(agent, afterMs, async () => await send(client, 'Upgrade', order(next), bundleOf(next)))
    } else {
      const change = await send(client, 'Upgrade', order(next), bundleOf(next))
      // Confirmed from here on, whatever the client learns of it, once the device has it on disk.
      outcome = await killDuring(agent, afterMs, async () => await confirm(port, change.id))
    }
    client.close()
    agent = await start('upgrade', port)
    const { versions, answer } = await found(port)
    const allowed = step === 'upgrade' ? [active] : outcome === 'done' ? [next] : [active, next]
    t.ok(
      versions.length === 1 && allowed.includes(versions[0] ?? ''),
      `${step} killed after ${Math.round(afterMs)} ms (${outcome}): ${versions.join()} of ${allowed.join(' or ')}`,
    )
    t.match(answer, new RegExp(`^${versions[0]?.replaceAll('.', '\\.')} \\d+$`), 'and it answers')
    active = versions[0] ?? ''
  }
  await agent.kill('SIGTERM')
})
