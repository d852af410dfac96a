import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { TelemetryMethods } from '../../../proto/gen/telemetry.ts'
import { conformance, runService, type RunOptions, type ServiceManifest, type TestRun } from '../../../services/sdk/testing.ts'
import { reservedBlock } from '../../../services/telemetry/counter.ts'
import { create as create100 } from '../../../services/telemetry/releases/1.0.0/service.ts'
import { create } from '../../../services/telemetry/service.ts'
import { sessionsAgeMaxMs } from '../../../services/telemetry/sampler.ts'
import { fakes, session } from '../fakes.ts'

const folder = join(import.meta.dirname, '../../../services/telemetry')
const read = (path: string): ServiceManifest => JSON.parse(readFileSync(join(folder, path), 'utf8'))
const manifest = read('manifest.json')
const manifest100 = read('releases/1.0.0/manifest.json')
const { Get, Stream } = TelemetryMethods

const run = async (over: Partial<RunOptions> = {}) => await runService({ create }, { manifest, config: {}, capabilities: fakes().capabilities, ...over })
const next = async (one: TestRun) => (await one.unary(Get, {})).sequence

const use = async (one: TestRun) => {
  for (let call = 0; call < 5; call += 1) await next(one)
}
const capabilities = () => fakes().capabilities

t.test('1.1.0 is a service', async (t) => {
  const predecessor = { module: { create: create100 }, manifest: manifest100 }
  conformance(t, { create }, { manifest, config: {}, capabilities, use, predecessor })
})

t.test('1.0.0 is a service', async (t) => {
  conformance(t, { create: create100 }, { manifest: manifest100, config: {}, capabilities, use })
})

t.test('a sample holds what the drivers read', async (t) => {
  const one = await run({ nowMs: () => 1_700_000_000_000 })
  t.teardown(one.stop)
  t.match(await one.unary(Get, { callSequence: 42 }), {
    ...{ sequence: 1, callSequence: 42, serviceVersion: '1.1.0', atMs: 1_700_000_000_000, load1: 0.5, cpuBusyMs: 10, memoryTotalBytes: 30 },
    interfaces: [{ name: 'eth0', inOctets: 1, outDiscards: 8 }],
    bgpSessions: [{ name: 'bgp_sw2', neighborAddress: '10.77.0.12', state: 'Established', routesImported: 3 }],
  })
  const old = await runService({ create: create100 }, { manifest: manifest100, config: {}, capabilities: capabilities() })
  t.teardown(old.stop)
  t.match(await old.unary(Get, {}), { serviceVersion: '1.0.0', load1: 0 })
})

t.test('calls and streams share one count, and none of them sees a number twice', async (t) => {
  const one = await run()
  t.teardown(one.stop)
  const seen: number[] = []
  const streaming = (async () => {
    for await (const { sequence } of one.serverStream(Stream, { intervalMs: 100, samples: 3 })) seen.push(sequence)
  })()
  await Promise.all(Array.from({ length: 500 }, async () => seen.push(await next(one))))
  await streaming
  t.same(
    seen.toSorted((a, b) => a - b),
    Array.from({ length: 503 }, (_, index) => index + 1),
  )
})

t.test('hundreds of calls are answered from a few readings', async (t) => {
  const machine = fakes()
  let nowMs = 0
  const one = await run({ capabilities: machine.capabilities, nowMs: () => nowMs })
  t.teardown(one.stop)
  const asked = (operation: string) => machine.calls.filter((call) => call.operation === operation).length
  for (let call = 0; call < 300; call += 1) await next(one)
  t.equal(asked('bird.protocols'), 1)
  t.equal(asked('proc.read'), 1)
  t.equal(asked('state.set'), 1, 'numbers are reserved in blocks')
  machine.protocols = [session('bgp_sw2', 'Active')]
  nowMs = sessionsAgeMaxMs + 1
  t.match(await one.unary(Get, {}), { bgpSessions: [{ state: 'Active' }] })
})

t.test('a crash skips numbers and repeats none', async (t) => {
  const { state } = fakes()
  const first = await run({ capabilities: fakes(state).capabilities })
  t.equal(await next(first), 1)
  t.equal(await next(first), 2)
  // No hand-over: the worker is gone with what it knew.
  const second = await run({ capabilities: fakes(state).capabilities })
  const afterCrash = await next(second)
  t.ok(afterCrash > 2 && afterCrash <= reservedBlock + 1)
  await Promise.all([first.stop(), second.stop()])
})

t.test('a hand-over skips nothing, in either schema, and a rehearsed start without a call costs nothing', async (t) => {
  const { state } = fakes()
  const old = await runService({ create: create100 }, { manifest: manifest100, config: {}, capabilities: fakes(state).capabilities })
  await use(old)
  const rehearsal = await run({ capabilities: fakes(state).capabilities })
  await rehearsal.service.selfTest?.()
  await rehearsal.stop()
  await old.service.quiesce?.()
  const given = old.service.snapshot?.(1)
  await old.stop()
  const successor = await run({ capabilities: fakes(state).capabilities, ...(given ? { inherited: given } : {}) })
  t.equal(await next(successor), 6)
  const back = successor.service.snapshot?.(2)
  await successor.stop()
  const again = await run({ capabilities: fakes(state).capabilities, ...(back ? { inherited: back } : {}) })
  t.equal(await next(again), 7)
  await again.stop()
})

t.test('a state that no version wrote is refused instead of counting from zero', async (t) => {
  for (const text of ['{}', 'null', '{"sequence":-1}', '{"sequence":1.5}', '{"sequence":5,"reservedTo":4,"lastAtMs":0}']) {
    await t.rejects(run({ inherited: { schema: 2, bytes: new TextEncoder().encode(text) } }), { code: 'ARGUMENT_INVALID' }, text)
  }
})

t.test('times do not go back when the clock does', async (t) => {
  let nowMs = 1_700_000_000_000
  const one = await run({ nowMs: () => nowMs })
  t.teardown(one.stop)
  t.equal((await one.unary(Get, {})).atMs, nowMs)
  nowMs -= 60_000
  t.equal((await one.unary(Get, {})).atMs, nowMs + 60_000)
})

t.test('without BIRD a sample has no sessions and the service is degraded; without the store it goes on counting', async (t) => {
  const machine = fakes()
  const one = await run({ capabilities: machine.capabilities })
  t.teardown(one.stop)
  t.equal(one.health().status, 'healthy')
  machine.fails.add('bird.protocols').add('state.set')
  t.match(await one.unary(Get, {}), { sequence: 1, bgpSessions: [] })
  t.match(one.health(), { status: 'degraded', evidence: { birdAnswers: 0, durable: 0, samples: 1 } })
  machine.fails.add('proc.read')
  await new Promise((resolve) => setTimeout(resolve, 300))
  await t.rejects(one.unary(Get, {}), { code: 'DRIVER_FAILED' })
})

t.test('an interval out of range is refused', async (t) => {
  const one = await run()
  t.teardown(one.stop)
  for (const intervalMs of [1, 99, 3_600_001]) await t.rejects(one.serverStream(Stream, { intervalMs }).next(), { code: 'ARGUMENT_INVALID' })
})

t.test('a stream ends when its caller leaves, also between two samples', async (t) => {
  const one = await run()
  t.teardown(one.stop)
  for await (const { sequence } of one.serverStream(Stream, { intervalMs: 3_600_000 })) {
    t.equal(sequence, 1)
    break
  }
  t.equal(await next(one), 2)
})
