import t from 'tap'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness } from './harness.ts'

/** Each is run inside the service; what it answers must match. */
const probes: Record<string, { code: string; answer: RegExp }> = {
  'the process object': { code: 'return typeof process', answer: /^undefined$/ },
  'require and Buffer': { code: 'return [typeof require, typeof module, typeof Buffer, typeof global]', answer: /^undefined,undefined,undefined,undefined$/ },
  'network clients': { code: 'return [typeof fetch, typeof WebSocket, typeof BroadcastChannel, typeof MessageChannel]', answer: /^(undefined,){3}undefined$/ },
  'reading files': { code: `return (await import('node:fs')).readFileSync('/etc/hostname')`, answer: /ERR_ACCESS_DENIED|restricted/ },
  'writing files': { code: `return (await import('node:fs')).writeFileSync('/tmp/offbox-escape', '')`, answer: /ERR_ACCESS_DENIED|restricted/ },
  'starting programs': { code: `return (await import('node:child_process')).execSync('id')`, answer: /ERR_ACCESS_DENIED|restricted/ },
  'starting workers': { code: `return new (await import('node:worker_threads')).Worker('1', { eval: true })`, answer: /ERR_ACCESS_DENIED|restricted/ },
  'connecting out': {
    code: `const { connect } = await import('node:net'); return await new Promise((resolve) => connect(9, '127.0.0.1').on('error', resolve))`,
    answer: /ERR_ACCESS_DENIED|restricted/,
  },
  listening: {
    code: `const { createServer } = await import('node:net'); return await new Promise((resolve) => createServer().on('error', resolve).listen(0, () => resolve('listens')))`,
    answer: /ERR_ACCESS_DENIED|restricted/,
  },
  'the environment': { code: `return JSON.stringify((await import('node:process')).env)`, answer: /^\{\}$/ },
  'the port to the agent': { code: `return JSON.stringify((await import('node:worker_threads')).workerData)`, answer: /^\{\}$/ },
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
