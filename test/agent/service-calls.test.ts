import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { ChangeState, LifecycleMethods, type ServiceEvent } from '../../proto/gen/lifecycle.ts'
import { makeBundle } from '../fixtures/bundles.ts'
import { pairBundle } from '../fixtures/services/pair/bundle.ts'
import { Back, Front } from '../fixtures/services/pair/methods.ts'
import { type AgentProcess, ask, connect, freePort, isServing, type Lab, makeLab, send, startAgent } from './agent-process.ts'

let lab: Lab
const agents: AgentProcess[] = []
t.setTimeout(240_000)
t.before(async () => {
  lab = await makeLab([], { trust: true })
})
t.teardown(async () => {
  for (const agent of agents) await agent.kill()
  await lab?.close()
})

/** Signed by the lab's key. */
async function signed(name: 'front' | 'back', version: string): Promise<Uint8Array> {
  const { manifest, payload } = await pairBundle(
    name,
    version,
    name === 'back' ? { requires: {} } : { requires: { kernel: '^1.0.0', apis: { 'test.Back': '^1.0.0' } } },
  )
  const { schema: _, payload: __, ...parts } = manifest
  return makeBundle(lab.key, parts, Buffer.from(payload).toString())
}

const order = (service: string, version: string) => ({ service, version, bakeMs: 0, confirmTimeoutMs: 60_000, reason: 'test' })

t.test('a real agent refuses what does not fit, carries calls between services, shows their circuits and counts them', async (t) => {
  const port = await freePort()
  const agent = await startAgent(lab, 'pair', port)
  agents.push(agent)
  await agent.line(isServing)
  const client = await connect(lab, port)
  t.teardown(() => client.close())
  const confirm = async (changeId: string) => {
    const fresh = await connect(lab, port)
    const change = await fresh.unary(LifecycleMethods.Confirm, { changeId })
    fresh.close()
    t.equal(change.state, ChangeState.CONFIRMED)
  }
  const supply = async (how: 'Install' | 'Upgrade', name: 'front' | 'back', version: string) =>
    await confirm((await send(client, how, order(name, version), await signed(name, version))).id)

  const refused = { code: 'DEPENDENCY_UNSATISFIED', status: 9, message: /front 1\.0\.0 requires test\.Back \^1\.0\.0; nothing here provides it/ }
  await t.rejects(send(client, 'Install', order('front', '1.0.0'), await signed('front', '1.0.0')), refused)
  t.same((await client.unary(LifecycleMethods.List, {})).services, [], 'nothing was touched')
  await supply('Install', 'back', '1.0.0')
  await supply('Install', 'front', '1.0.0')
  t.equal(await ask(lab, client, Front.Ask.path, JSON.stringify({ call: 'Add' })), '1.0.0 1')
  const who = JSON.parse(await ask(lab, client, Front.Ask.path, JSON.stringify({ call: 'Who' })))
  t.match(who, { principal: 'spiffe://lab/service/front', onBehalfOf: 'spiffe://lab/operator/test' })
  t.match(await client.unary(LifecycleMethods.Get, { service: 'front' }), {
    requires: { kernel: '^1.0.0', 'test.Back': '^1.0.0' },
    provides: { 'test.Front': '1.0.0' },
    circuits: [{ api: 'test.Back', service: 'back', state: 'closed', failures: 0 }],
  })

  await t.rejects(send(client, 'Upgrade', order('back', '2.0.0'), await signed('back', '2.0.0')), {
    code: 'DEPENDENCY_UNSATISFIED',
    message: /front 1\.0\.0 requires test\.Back \^1\.0\.0; back 2\.0\.0 provides 2\.0\.0/,
  })
  await t.rejects(client.unary(LifecycleMethods.Remove, { service: 'back', reason: '' }), { code: 'DEPENDENCY_UNSATISFIED' })
  await supply('Upgrade', 'back', '1.1.0')
  t.equal(await ask(lab, client, Front.Ask.path, JSON.stringify({ call: 'Add' })), '1.1.0 2', 'its count went with it')

  const events: ServiceEvent[] = []
  const gone = new AbortController()
  const watching = (async () => {
    for await (const event of client.serverStream(LifecycleMethods.Watch, { service: 'front' }, { signal: gone.signal })) events.push(event)
  })().catch(() => {})
  const fails = JSON.stringify({ call: 'Fail', request: 'SERVICE_DOWN' })
  for (let call = 0; call < 5; call++) await t.rejects(ask(lab, client, Front.Ask.path, fails), { code: 'SERVICE_DOWN' })
  await t.rejects(ask(lab, client, Front.Ask.path, fails), { code: 'CIRCUIT_OPEN', status: 9, message: /the next call is let through in \d+ ms/ })
  t.match((await client.unary(LifecycleMethods.Get, { service: 'front' })).circuits, [{ state: 'open', failures: 5, retryAtMs: Number }])
  while (!events.some(({ circuit }) => circuit?.state === 'open')) await new Promise((resolve) => setTimeout(resolve, 10))
  t.equal(await ask(lab, client, Back.Fail.path), 'fine', 'its other callers are not concerned')
  gone.abort()
  await watching

  await agent.kill('SIGTERM')
  const kept = join(lab.directory, 'pair/state/audit')
  const [segment = ''] = (await readdir(kept)).filter((name) => name.endsWith('.log'))
  const audit = (await readFile(join(kept, segment), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ principal }) => principal === 'spiffe://lab/service/front')
  t.match(
    audit.find(({ method, status }) => method === Back.Add.path && status === 'OK'),
    { calls: 2, decision: 'allow' },
  )
  t.match(
    audit.find(({ status }) => status === 'SERVICE_DOWN'),
    { method: Back.Fail.path, calls: 5 },
  )

  const again = await startAgent(lab, 'pair', port)
  agents.push(again)
  await again.line(isServing)
  const after = await connect(lab, port)
  t.teardown(() => after.close())
  t.equal(await ask(lab, after, Front.Ask.path, JSON.stringify({ call: 'Add' })), '1.1.0 1', 'after a restart of the agent both are there')
})
