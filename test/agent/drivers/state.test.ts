import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { serviceState, stateKeysMax, stateServiceBytesMax, stateValueBytesMax } from '../../../agent/drivers/state.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import type { StateCapability } from '../../../core/capabilities.ts'

function store(t: Test) {
  const directory = mkdtempSync(join(tmpdir(), 'obx-state-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const open = () => {
    const state = serviceState(new AtomicFiles(), directory)
    const of = (service: string) =>
      Object.fromEntries(
        Object.entries(state.operations).map(([name, run]) => [name, async (input: unknown) => await run(service, input)]),
      ) as unknown as StateCapability
    return { of, forget: state.forget }
  }
  return { directory, open }
}
const bytes = (...values: number[]) => new Uint8Array(values)

t.test('values outlive the agent and belong to one service', async (t) => {
  const { open } = store(t)
  await open()
    .of('one')
    .set({ key: 'k', value: bytes(1, 2) })
  t.same(await open().of('one').get({ key: 'k' }), bytes(1, 2))
  t.equal(await open().of('two').get({ key: 'k' }), null)
  await open().of('one').delete({ key: 'k' })
  t.equal(await open().of('one').get({ key: 'k' }), null)
  await t.resolves(open().of('one').delete({ key: 'k' }), 'deleting what is not there is fine')
})

t.test('keys that could leave the directory, and values that are no bytes, are refused', async (t) => {
  const one = store(t).open().of('one')
  for (const key of ['', '../x', 'a/b', 'A', 'a.b', 'a'.repeat(65), 7 as unknown as string]) {
    await t.rejects(one.set({ key, value: bytes() }), { code: 'ARGUMENT_INVALID' }, String(key))
    await t.rejects(one.get({ key }), { code: 'ARGUMENT_INVALID' }, String(key))
  }
  await t.rejects(one.set({ key: 'k', value: 'text' as unknown as Uint8Array }), { code: 'ARGUMENT_INVALID' })
  await t.rejects(one.get(undefined as unknown as { key: string }), { code: 'ARGUMENT_INVALID' })
})

t.test('a value, a service and its number of keys are bounded, also for calls at the same time', async (t) => {
  const { open } = store(t)
  const one = open().of('one')
  await t.rejects(one.set({ key: 'k', value: new Uint8Array(stateValueBytesMax + 1) }), { code: 'LIMIT_REACHED' })
  const fit = stateServiceBytesMax / stateValueBytesMax
  const writes = await Promise.allSettled(
    Array.from({ length: fit + 2 }, async (_, index) => await one.set({ key: `k${index}`, value: new Uint8Array(stateValueBytesMax) })),
  )
  t.equal(writes.filter(({ status }) => status === 'fulfilled').length, fit)
  await t.rejects(
    open()
      .of('one')
      .set({ key: 'more', value: bytes(1) }),
    { code: 'LIMIT_REACHED' },
    'a new agent counts what is there',
  )
  await t.resolves(one.set({ key: 'k0', value: bytes(1) }), 'a value may shrink')
  await t.resolves(one.set({ key: 'more', value: bytes(1) }), 'which makes room')
  const two = open().of('two')
  for (let index = 0; index < stateKeysMax; index += 1) await two.set({ key: `k${index}`, value: bytes() })
  await t.rejects(two.set({ key: 'more', value: bytes() }), { code: 'LIMIT_REACHED' })
})

t.test('a rotten value is reported once and then gone', async (t) => {
  const { directory, open } = store(t)
  const one = open().of('one')
  await one.set({ key: 'k', value: bytes(1) })
  writeFileSync(join(directory, 'services/one/k'), 'rot')
  await t.rejects(one.get({ key: 'k' }), { code: 'STORE_CORRUPT' })
  t.equal(await one.get({ key: 'k' }), null)
  await one.set({ key: 'k', value: bytes(2) })
  t.same(await open().of('one').get({ key: 'k' }), bytes(2))
})

t.test('a removed service leaves nothing', async (t) => {
  const { open } = store(t)
  const { of, forget } = open()
  await of('one').set({ key: 'k', value: bytes(1) })
  await of('two').set({ key: 'k', value: bytes(2) })
  await forget('one')
  t.equal(await of('one').get({ key: 'k' }), null)
  t.same(await of('two').get({ key: 'k' }), bytes(2))
  await of('one').set({ key: 'k', value: bytes(3) })
  t.same(await of('one').get({ key: 'k' }), bytes(3))
})
