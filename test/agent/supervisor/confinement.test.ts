import t from 'tap'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness } from './harness.ts'

/** Each is run inside the service; what it answers must match. */
const probes: Record<string, { code: string; answer: RegExp }> = {
  'the process object': { code: 'return typeof process', answer: /^undefined$/ },
  'require and Buffer': { code: 'return [typeof require, typeof module, typeof Buffer, typeof global]', answer: /^undefined,undefined,undefined,undefined$/ },
  'network clients': { code: 'return [typeof fetch, typeof WebSocket, typeof BroadcastChannel, typeof MessageChannel]', answer: /^(undefined,){3}undefined$/ },
  'modules of Node': { code: `return import('node:fs')`, answer: /^INTERNAL$/ },
  'its own evaluators': { code: `return typeof Function('return globalThis')().process`, answer: /^undefined$/ },
}

t.test('a service cannot reach the machine', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  for (const [what, { code, answer }] of Object.entries(probes)) {
    const outcome = await ask(supervisor, 'Do', `eval try { ${code} } catch (error) { return error.code + ' ' + error.message }`)
    t.match(outcome.text ?? outcome.error, answer, what)
  }
  t.match(await ask(supervisor, 'Next'), { text: '1.0.0 1' }, 'and is none the worse for it')
})

t.test('a service finds the capabilities that its manifest names, and no others', async (t) => {
  const { supervisor, capabilityCalls } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  t.same(await ask(supervisor, 'Do', 'capabilities'), { text: 'proc' })
  t.same(await ask(supervisor, 'Do', 'lend'), { text: '{"load1":1.5}' })
  t.same(capabilityCalls, ['counter proc.read'])
  await supervisor.remove('counter')
  await supervisor.install(await counterBundle('1.0.0', { capabilities: [] }), {})
  t.same(await ask(supervisor, 'Do', 'capabilities'), { text: '' })
})

t.test('a service that logs without end is cut short, and still serves', async (t) => {
  const { supervisor, logs } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  t.same(await ask(supervisor, 'Do', 'log'), { text: 'done' })
  t.same(await ask(supervisor, 'Do', 'print'), { text: 'done' })
  const lines = logs.filter(({ message }) => message === 'a line').length
  t.ok(lines > 0 && lines < 1_000, `${lines} lines of 10000`)
})
