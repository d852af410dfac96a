import t from 'tap'
import { DeviceMethods } from '../../proto/gen/device.ts'
import { LifecycleMethods, ServiceState, type ServiceStatus } from '../../proto/gen/lifecycle.ts'
import { makeBundle } from '../fixtures/bundles.ts'
import { COUNTER_METHODS, payloadOf } from '../fixtures/services/counter/bundle.ts'
import { ask, connect, freePort, isServing, makeLab, send, startAgent } from './agent-process.ts'

t.test('a real agent whose confirmed version crashes too often goes back to the last good one, says so, and starts with it again', async (t) => {
  const lab = await makeLab([], { trust: true })
  const port = await freePort()
  let agent = await startAgent(lab, 'last-good', port)
  t.teardown(async () => {
    await agent.kill()
    await lab.close()
  })
  await agent.line(isServing)
  const code = Buffer.from(await payloadOf('test/fixtures/services/counter/service.ts')).toString()
  const about = { name: 'counter', methods: COUNTER_METHODS, capabilities: ['proc' as const], snapshot: { writes: [1], reads: [1] }, heapMbMax: 32 }
  const bring = async (kind: 'Install' | 'Upgrade', version: string) => {
    const client = await connect(lab, port)
    const order = { service: 'counter', version, bakeMs: 0, confirmTimeoutMs: 60_000, reason: 'test' }
    const { id } = await send(client, kind, order, makeBundle(lab.key, { ...about, version }, code)).finally(() => client.close())
    const fresh = await connect(lab, port)
    await fresh.unary(LifecycleMethods.Confirm, { changeId: id }).finally(() => fresh.close())
  }
  await bring('Install', '1.0.0')
  await bring('Upgrade', '1.1.0')
  let client = await connect(lab, port)
  t.teardown(() => client.close())
  const status = async () => await client.unary(LifecycleMethods.Get, { service: 'counter' })
  const until = async (what: string, holds: (status: ServiceStatus) => boolean) => {
    for (const endMs = Date.now() + 60_000; ; ) {
      const now = await status()
      if (holds(now)) return now
      if (Date.now() > endMs) throw new Error(`never happened: ${what}; ${JSON.stringify(now)}`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  for (let starts = 1; starts <= 6; starts++) {
    await until(`start ${starts}`, (one) => one.version === '1.1.0' && one.state === ServiceState.READY && one.starts === starts)
    await ask(lab, client, '/test.Counter/Do', 'crash')
  }
  const back = await until('the way back', (one) => one.version === '1.0.0' && one.change === null)
  t.equal(back.state, ServiceState.READY)
  t.ok(back.history.some(({ to, version }) => to === ServiceState.FAILED && version === '1.1.0'))
  t.match(await ask(lab, client, '/test.Counter/Next'), /^1\.0\.0 /)
  const told = agent.lines.filter(({ msg, to, reason }) => msg === 'change' && to === '1.0.0' && /crashed too often/.test(String(reason)))
  t.same(
    told.map(({ state }) => state),
    ['staged', 'provisional', 'confirmed'],
  )
  await until('a reading', ({ usage }) => (usage?.memoryBytes ?? 0) > 0)
  const { text, contentType } = await client.unary(DeviceMethods.Metrics, {})
  t.match(contentType, /openmetrics-text/)
  t.match(text, /^offbox_service_info\{service="counter",version="1\.0\.0",.*\} 1$/m)
  t.match(text, /^offbox_service_memory_bytes\{service="counter"\} \d{7,}$/m)
  t.match(text, /# EOF\n$/)
  client.close()
  await agent.kill()
  agent = await startAgent(lab, 'last-good', port)
  await agent.line(isServing)
  client = await connect(lab, port)
  await until('the start', (one) => one.version === '1.0.0' && one.state === ServiceState.READY)
})
