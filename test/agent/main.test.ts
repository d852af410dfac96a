import t from 'tap'
import { DeviceMethods } from '../../proto/gen/device.ts'
import { ChangeState, LifecycleMethods } from '../../proto/gen/lifecycle.ts'
import { TrustMethods } from '../../proto/gen/trust.ts'
import { flipBit, makeBundle, makeFloors, makeKey, type ManifestParts, type SigningKey } from '../fixtures/bundles.ts'
import { COUNTER_METHODS, payloadOf } from '../fixtures/services/counter/bundle.ts'
import { type AgentProcess, ask, connect, freePort, isServing, type Lab, makeLab, send, startAgent } from './agent-process.ts'

let lab: Lab
let code: string
const agents: AgentProcess[] = []

t.setTimeout(240_000)

t.before(async () => {
  lab = await makeLab()
  code = Buffer.from(await payloadOf('test/fixtures/services/counter/service.ts')).toString()
})

t.teardown(async () => {
  for (const agent of agents) await agent.kill()
  await lab?.close()
})

const start = async (...args: Parameters<typeof startAgent>): Promise<AgentProcess> => {
  const agent = await startAgent(...args)
  agents.push(agent)
  return agent
}

function counter(version: string, key: SigningKey = lab.key, over: Partial<ManifestParts> = {}): Uint8Array {
  const parts = { name: 'counter', version, methods: COUNTER_METHODS, capabilities: ['proc'], snapshot: { writes: [1], reads: [1] }, heapMbMax: 32 } as const
  return makeBundle(key, { ...parts, ...over }, code)
}

const order = (version: string, over: object = {}) => ({ service: 'counter', version, bakeMs: 0, confirmTimeoutMs: 60_000, reason: 'test', ...over })

t.test('a device enrols, runs a service, upgrades it, and keeps only what a fresh connection confirms', async (t) => {
  const port = await freePort()
  lab.floors = makeFloors(lab.key, 1, { counter: '1.0.0' })
  const agent = await start(lab, 'one', port)
  const serving = await agent.line(isServing)
  t.match(serving, { deviceId: 'sw1', address: '127.0.0.1', port, sinceStartMs: Number, uptimeMs: Number })
  t.match(lab.enrolments[0], { serial: 'SN-one', mac: '02:00:00:00:00:01', address: '127.0.0.1', port, boot: 'local' })

  const old = await connect(lab, port)
  t.teardown(() => old.close())
  await agent.line(({ level, msg }) => level === 'warn' && /no trust anchors/.test(String(msg)))
  t.match(await old.unary(TrustMethods.Status, {}), { enforced: false, policyVersion: 0 })
  await t.rejects(old.unary(TrustMethods.Update, {}), { code: 'STATE_REFUSED' }, 'nothing from the network switches trust on or off')
  await t.rejects(old.unary(TrustMethods.Challenge, {}), { code: 'STATE_REFUSED' })
  const info = await old.unary(DeviceMethods.Info, {})
  t.match(info, { deviceId: 'sw1', fleet: 'lab', boot: 'local', agentStarts: 1, floors: { counter: '1.0.0' }, attestation: 'none', imageSha256: '' })
  t.match(
    info.listeners.filter((listener) => listener.port === port),
    [{ protocol: 'tcp', address: '127.0.0.1', port, process: 'offbox-agent' }],
  )

  const installed = await send(old, 'Install', order('1.0.0'), counter('1.0.0'))
  t.match(installed, { kind: 'install', from: '', to: '1.0.0', state: ChangeState.PROVISIONAL, author: 'spiffe://lab/operator/test' })
  t.match(await ask(lab, old, '/test.Counter/Next'), /1/)
  const again = await send(old, 'Install', order('1.0.0'), counter('1.0.0'))
  t.equal(again.id, installed.id, 'the same order again is answered with the same change')
  await t.rejects(old.unary(LifecycleMethods.Confirm, { changeId: installed.id }), { code: 'CONFIRM_NOT_FRESH', status: 9 })

  const fresh = await connect(lab, port)
  t.teardown(() => fresh.close())
  t.match(await fresh.unary(LifecycleMethods.Confirm, { changeId: installed.id }), { state: ChangeState.CONFIRMED })
  t.match(await fresh.unary(LifecycleMethods.Confirm, { changeId: installed.id }), { state: ChangeState.CONFIRMED }, 'twice is the same')
  await t.rejects(fresh.unary(LifecycleMethods.Revert, { changeId: installed.id, reason: '' }), { code: 'STATE_REFUSED' })

  const upgraded = await send(fresh, 'Upgrade', order('1.1.0'), counter('1.1.0'))
  t.match(upgraded, { kind: 'upgrade', from: '1.0.0', to: '1.1.0', state: ChangeState.PROVISIONAL })
  t.match(await fresh.unary(LifecycleMethods.Get, { service: 'counter' }), { version: '1.1.0', previousVersion: '1.0.0', floor: '1.0.0' })
  await t.rejects(send(fresh, 'Upgrade', order('1.2.0'), counter('1.2.0')), { code: 'SWAP_IN_PROGRESS', status: 10 })
  t.match(await fresh.unary(LifecycleMethods.Revert, { changeId: upgraded.id, reason: 'a change of mind' }), { state: ChangeState.REVERTED })
  t.match(await fresh.unary(LifecycleMethods.Get, { service: 'counter' }), { version: '1.0.0', previousVersion: '' })

  const silent = await send(fresh, 'Upgrade', order('1.1.0', { confirmTimeoutMs: 1_000 }), counter('1.1.0'))
  await agent.line((line) => line['msg'] === 'change' && line['change'] === silent.id && line['state'] === 'reverted')
  t.match(await ask(lab, fresh, '/test.Counter/Next'), /\d/, 'what ran before answers')
  t.match(await fresh.unary(LifecycleMethods.Get, { service: 'counter' }), { version: '1.0.0' })

  const audited: Record<string, unknown>[] = []
  for await (const { fieldsJson } of fresh.serverStream(DeviceMethods.Logs, { auditOnly: true })) audited.push(JSON.parse(fieldsJson))
  t.ok(audited.some((line) => line['decision'] === 'intent' && line['method'] === '/offbox.v1.Lifecycle/Install'))
  t.ok(audited.some((line) => line['method'] === '/test.Counter/Next' && line['status'] === 'OK' && line['principal'] === 'spiffe://lab/operator/test'))
  t.ok(audited.some((line) => line['method'] === '/offbox.v1.Lifecycle/Confirm' && line['status'] === 'CONFIRM_NOT_FRESH'))
  t.ok(agent.lines.some((line) => line['audit'] === true && line['status'] === 'CONFIRM_NOT_FRESH'))
  t.notOk(
    agent.lines.some((line) => line['audit'] === true && line['method'] === '/test.Counter/Next'),
    'reads do not fill the console',
  )
  await agent.kill('SIGTERM')
})

t.test('a bundle that must not run is refused with its code and status, and the service that runs never notices', async (t) => {
  const port = await freePort()
  lab.floors = makeFloors(lab.key, 1, { counter: '1.0.0' })
  const agent = await start(lab, 'refusals', port)
  await agent.line(isServing)
  const client = await connect(lab, port)
  t.teardown(() => client.close())
  const good = counter('1.1.0')
  const installed = await send(client, 'Install', order('1.1.0'), good)
  const fresh = await connect(lab, port)
  await fresh.unary(LifecycleMethods.Confirm, { changeId: installed.id })
  fresh.close()

  const manifestAt = Buffer.from(good).indexOf('"counter"') + 1
  const cases: [string, 'Install' | 'Upgrade', object, Uint8Array, string, number][] = [
    ['a flipped payload bit', 'Upgrade', order('1.2.0'), flipBit(counter('1.2.0'), -10), 'BUNDLE_CORRUPT', 15],
    ['a flipped manifest bit', 'Upgrade', order('1.2.0'), flipBit(counter('1.2.0'), manifestAt), 'BUNDLE_UNTRUSTED', 7],
    ['an unknown key', 'Upgrade', order('1.2.0'), counter('1.2.0', makeKey()), 'BUNDLE_UNTRUSTED', 7],
    ['below the floor', 'Upgrade', order('0.9.0', { allowDowngrade: true }), counter('0.9.0'), 'BUNDLE_ROLLBACK', 9],
    ['older than what runs', 'Upgrade', order('1.0.0'), counter('1.0.0'), 'BUNDLE_DOWNGRADE', 9],
    ['not what was ordered', 'Upgrade', order('1.3.0'), counter('1.2.0'), 'ARGUMENT_INVALID', 3],
    ['no bundle at all', 'Upgrade', order('1.2.0'), Buffer.from('hello'), 'BUNDLE_MALFORMED', 3],
    ['installed already', 'Install', order('1.2.0'), counter('1.2.0'), 'SERVICE_EXISTS', 6],
    [
      'a method of the agent',
      'Upgrade',
      order('1.2.0'),
      counter('1.2.0', lab.key, { methods: [{ path: '/offbox.v1.Device/Info', kind: 'unary' }] }),
      'METHOD_CONFLICT',
      9,
    ],
    ['floors of nobody', 'Upgrade', order('1.2.0', { floors: makeFloors(makeKey(), 9, {}) }), counter('1.2.0'), 'FLOORS_UNTRUSTED', 7],
    ['older floors', 'Upgrade', order('1.2.0', { floors: makeFloors(lab.key, 1, { counter: '0.1.0' }) }), counter('1.2.0'), 'FLOORS_UNTRUSTED', 7],
    ['it throws at start', 'Upgrade', order('1.2.0', { config: Buffer.from('{"misbehave":"throwAtStart"}') }), counter('1.2.0'), 'SWAP_ROLLED_BACK', 9],
    ['a bake that nobody can wait for', 'Upgrade', order('1.2.0', { bakeMs: 60_000 }), counter('1.2.0'), 'ARGUMENT_INVALID', 3],
  ]
  let last = Number((await ask(lab, client, '/test.Counter/Next')).split(' ')[1])
  for (const [what, kind, wanted, file, expected, status] of cases) {
    await t.rejects(send(client, kind, wanted as never, file), { code: expected, status }, what)
    const next = Number((await ask(lab, client, '/test.Counter/Next')).split(' ')[1])
    t.equal(next, last + 1, `${what}: the same worker answers`)
    last = next
  }
  t.match(await client.unary(LifecycleMethods.Get, { service: 'counter' }), { version: '1.1.0', starts: 1 })
  await t.rejects(client.unary(LifecycleMethods.Get, { service: 'nothing' }), { code: 'SERVICE_NOT_FOUND', status: 5 })
  await t.rejects(client.unary(LifecycleMethods.Confirm, { changeId: 'c-1' }), { code: 'CHANGE_NOT_FOUND', status: 5 })
  await t.rejects(client.unary(DeviceMethods.Reboot, { delayMs: 0, reason: 'test' }), { code: 'STATE_REFUSED' }, 'a local agent does not own the machine')

  const downgraded = await send(client, 'Upgrade', order('1.0.0', { allowDowngrade: true }), counter('1.0.0'))
  t.match(downgraded, { from: '1.1.0', to: '1.0.0', state: ChangeState.PROVISIONAL }, 'at or above the floor an order may downgrade')
  await client.unary(LifecycleMethods.Revert, { changeId: downgraded.id, reason: '' })

  const removed = await client.unary(LifecycleMethods.Remove, { service: 'counter', reason: 'done' })
  t.match(removed, { kind: 'remove', from: '1.1.0', to: '', state: ChangeState.CONFIRMED })
  t.match(await client.unary(LifecycleMethods.List, {}), { services: [] })
  await agent.kill('SIGTERM')
})

t.test('who watches sees every step of a change, and who follows the log sees it happen', async (t) => {
  const port = await freePort()
  lab.floors = new Uint8Array()
  const agent = await start(lab, 'watch', port)
  await agent.line(isServing)
  const client = await connect(lab, port)
  t.teardown(() => client.close())
  const ended = new AbortController()
  const states: string[] = []
  const transitions: number[] = []
  const watching = (async () => {
    for await (const event of client.serverStream(LifecycleMethods.Watch, { service: 'counter' }, { signal: ended.signal })) {
      if (event.change) states.push(`${event.change.kind} ${event.change.state}`)
      if (event.transition) transitions.push(event.transition.to)
      // The revert of an install removes the service as well.
      if (event.removed && states.at(-1)?.startsWith('remove')) return
    }
  })()
  const followed: string[] = []
  const following = (async () => {
    for await (const record of client.serverStream(DeviceMethods.Logs, { follow: true, contains: 'c-00000000' }, { signal: ended.signal }))
      followed.push(record.message)
  })()
  // Both have begun once the device has answered a later call on the same connection.
  await client.unary(DeviceMethods.Ping, { payload: new Uint8Array() })
  const change = await send(client, 'Install', order('1.0.0'), counter('1.0.0'))
  await client.unary(LifecycleMethods.Revert, { changeId: change.id, reason: 'seen enough' })
  const again = await send(client, 'Install', order('1.0.0'), counter('1.0.0'))
  const fresh = await connect(lab, port)
  await fresh.unary(LifecycleMethods.Confirm, { changeId: again.id })
  await fresh.unary(LifecycleMethods.Remove, { service: 'counter', reason: '' })
  fresh.close()
  await watching
  ended.abort()
  await following
  const { PROPOSED, STAGED, PROVISIONAL, CONFIRMED, REVERTED } = ChangeState
  const first = [PROPOSED, STAGED, PROVISIONAL, REVERTED].map((state) => `install ${state}`)
  const second = [PROPOSED, STAGED, PROVISIONAL, CONFIRMED].map((state) => `install ${state}`)
  const steps = states.filter((state, at) => state !== states[at - 1])
  t.same(steps.slice(0, 8), [...first, ...second])
  t.ok(transitions.includes(3), 'it was seen ready')
  t.ok(followed.filter((message) => message === 'change').length >= 6)
  await agent.kill('SIGTERM')
})

t.test('only controllers and operators of this fleet get in', async (t) => {
  const port = await freePort()
  const agent = await start(lab, 'door', port)
  await agent.line(isServing)
  const ping = async (identity?: { keyPem: string; certificatePem: string }) => {
    const client = await connect(lab, port, identity)
    try {
      return await client.unary(DeviceMethods.Ping, { payload: Buffer.from('x') }, { deadlineMs: 5_000 })
    } finally {
      client.close()
    }
  }
  t.match(await ping(), { bootId: /^[0-9a-f]{32}$/ })
  t.match(await ping(await lab.identity('controller', 'c1')), { bootId: String })
  await t.rejects(ping(await lab.identity('device', 'sw2')), 'a device cannot command another')
  await t.rejects(ping(await lab.identity('service', 'x')))
  const stranger = await makeLab()
  t.teardown(async () => await stranger.close())
  await t.rejects(ping(await stranger.identity('operator', 'test')), 'another CA of the same name')
  const { RpcClient } = await import('../../fleet/rpc/client.ts')
  const bare = new RpcClient({ target: `127.0.0.1:${port}`, serverName: 'sw1.lab.offbox', caPem: lab.ca.certificatePem })
  t.teardown(() => bare.close())
  await t.rejects(bare.unary(DeviceMethods.Ping, { payload: Buffer.alloc(0) }, { deadlineMs: 5_000 }), 'no certificate at all')
  t.match(await ping(), { bootId: String }, 'and the door still opens')
  await agent.kill('SIGTERM')
})

t.test('a second agent on the same state or the same port says so and exits', async (t) => {
  const port = await freePort()
  const agent = await start(lab, 'only', port)
  await agent.line(isServing)
  const sameState = await start(lab, 'only', await freePort())
  t.equal(await sameState.exited, 1)
  t.match(sameState.stderr, /HOME_IN_USE: another agent \(process \d+\)/)
  const samePort = await start(lab, 'other', port)
  t.equal(await samePort.exited, 1)
  t.match(samePort.stderr, /PORT_TAKEN: cannot listen on 127\.0\.0\.1/)
  await agent.kill('SIGTERM')
  t.equal(agent.child.exitCode, 0)
})

t.test('an agent that starts again serves with the identity it has, restarts its services and announces itself', async (t) => {
  const port = await freePort()
  lab.floors = new Uint8Array()
  const first = await start(lab, 'again', port)
  await first.line(isServing)
  const client = await connect(lab, port)
  const change = await send(client, 'Install', order('1.0.0'), counter('1.0.0'))
  client.close()
  const fresh = await connect(lab, port)
  await fresh.unary(LifecycleMethods.Confirm, { changeId: change.id })
  const unconfirmed = await send(fresh, 'Upgrade', order('1.1.0'), counter('1.1.0'))
  const { bootId } = await fresh.unary(DeviceMethods.Info, {})
  fresh.close()
  await first.kill('SIGKILL')

  lab.refusing = true
  const second = await start(lab, 'again', port)
  await second.line(isServing)
  await second.line((line) => line['msg'] === 'enrolment failed; trying again' && line['code'] === 'DEVICE_NOT_REGISTERED')
  const after = await connect(lab, port)
  t.teardown(() => after.close())
  t.match(await after.unary(LifecycleMethods.Get, { service: 'counter' }), { version: '1.0.0', change: null })
  t.match(await ask(lab, after, '/test.Counter/Next'), /\d/)
  t.match(
    second.lines.find((line) => line['change'] === unconfirmed.id),
    { state: 'reverted', event: 'restart' },
  )
  const before = await after.unary(DeviceMethods.Info, {})
  t.match(before, { agentStarts: 2, bootId })
  lab.refusing = false
  await second.line((line) => line['msg'] === 'announced')
  const info = await after.unary(DeviceMethods.Info, {})
  t.not(info.certificateSerial, before.certificateSerial, 'the fresh certificate is in service')
  await second.kill('SIGTERM')
})
