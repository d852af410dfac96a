import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import t from 'tap'
import type { Transition } from '../../../agent/supervisor/types.ts'
import { counterBundle, siblingBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, until, type Harness } from './harness.ts'

const HEAP_MB = 32

async function running(t: import('tap').Test, limits: Parameters<typeof harness>[0] = {}, over: Parameters<typeof counterBundle>[1] = {}): Promise<Harness> {
  const made = await harness({ backoffFirstMs: 1, restartsBurst: 100, ...limits })
  t.teardown(() => made.supervisor.close())
  await made.supervisor.install(await counterBundle('1.0.0', { heapMbMax: HEAP_MB, ...over }), {})
  await made.supervisor.commit('counter')
  await made.supervisor.install(await siblingBundle(), {})
  await made.supervisor.commit('sibling')
  return made
}

const ends = (history: readonly Transition[] | undefined) => history?.filter(({ event }) => event.startsWith('exit')).map(({ reason }) => reason) ?? []

const FLOODS: Readonly<Record<string, string>> = {
  'its heap with objects': 'const kept = []; for (;;) kept.push({ more: kept.length, and: [1, 2, 3] })',
  'its heap with strings': 'const kept = []; for (let n = 0; ; n++) kept.push(("x" + n).repeat(1 << 16).toUpperCase())',
  'memory with large buffers': 'const kept = []; for (;;) kept.push(new Uint8Array(8 << 20).fill(1))',
  'memory with small buffers': 'const kept = []; for (;;) kept.push(new Uint8Array(1024).fill(1))',
  'memory with one buffer that grows':
    'const kept = new ArrayBuffer(0, { maxByteLength: 2 ** 30 }); for (let n = 0; ; n += 1 << 20) { kept.resize(n); new Uint8Array(kept).fill(1) }',
  'memory a little at a time, between calls':
    'const kept = []; const more = () => { for (let n = 0; n < 4; n++) kept.push(new Uint8Array(1 << 20).fill(1)); setTimeout(more, 1) }; more(); await new Promise(() => {})',
}

for (const [what, code] of Object.entries(FLOODS)) {
  t.test(`a service that fills ${what} is ended by name and started again, and its sibling is untouched`, async (t) => {
    const { supervisor } = await running(t)
    t.match(await ask(supervisor, 'Do', `eval ${code}`), { error: 'SERVICE_CRASHED', message: /MEMORY_EXCEEDED/ })
    t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
    t.match(ends(supervisor.get('counter')?.history), [/^MEMORY_EXCEEDED: /])
    t.equal(supervisor.get('counter')?.use.exceeded.MEMORY_EXCEEDED, 1)
    t.match(supervisor.get('sibling'), { state: 'ready', starts: 1, use: { exceeded: {} } })
  })
}

t.test('what Node is started with for the agent does not lift the heap limit of its services', async (t) => {
  const { flags } = JSON.parse(readFileSync(`${import.meta.dirname}/../../../agent/node.json`, 'utf8')) as { flags: string[] }
  const told = execFileSync(process.execPath, [...flags, `${import.meta.dirname}/heap-limit.ts`], { encoding: 'utf8', timeout: 120_000 })
  t.match(told, /MEMORY_EXCEEDED: its heap of 32 MiB is full/)
})

t.test('a service that uses buffers and lets them go is left alone', async (t) => {
  const { supervisor } = await running(t)
  const code = 'for (const endMs = Date.now() + 1500; Date.now() < endMs; ) new Uint8Array(1 << 20).fill(1); return "done"'
  t.same(await ask(supervisor, 'Do', `eval ${code}`), { text: 'done' })
  t.match(supervisor.get('counter'), { starts: 1, use: { exceeded: {} } })
})

t.test('memory that no worker reports is laid at the door of the one that is at work', async (t) => {
  // One operation inside the engine: the worker cannot report before it is over.
  const { supervisor } = await running(t, { jumpMb: 40 })
  await until('readings', () => (supervisor.get('sibling')?.use.memoryBytes ?? 0) > 0 && (supervisor.get('counter')?.use.memoryBytes ?? 0) > 0)
  const answer = await ask(supervisor, 'Do', 'eval new Uint8Array(400 << 20).fill(1); for (;;);')
  t.match(answer, { error: 'SERVICE_CRASHED', message: /MEMORY_EXCEEDED/ })
  t.match(supervisor.get('sibling'), { state: 'ready', starts: 1 })
})

t.test('a provisional version that takes too much memory is reported, so that it is reverted', async (t) => {
  const { supervisor, failures } = await running(t)
  await supervisor.swap(await counterBundle('1.1.0', { heapMbMax: HEAP_MB }), {})
  await ask(supervisor, 'Do', `eval ${FLOODS['memory with large buffers']}`)
  await until('the report', () => failures.length === 1)
  t.match(failures, [/MEMORY_EXCEEDED/])
  await supervisor.revert('counter', failures[0] ?? '')
  t.match(await ask(supervisor, 'Next'), { text: /^1\.0\.0 / })
})

t.test('a service that works on and on between its answers is over its CPU share after a whole window', async (t) => {
  const { supervisor } = await running(t, { askMs: 100, cpuWindowMs: 1_500 }, { limits: { cpuPercentMax: 20 } })
  const busy = 'const work = () => { for (const endMs = Date.now() + 20; Date.now() < endMs; ); setTimeout(work, 1) }; work(); return "working"'
  t.same(await ask(supervisor, 'Do', `eval ${busy}`), { text: 'working' })
  await until('the end', () => ends(supervisor.get('counter')?.history).length > 0)
  t.match(ends(supervisor.get('counter')?.history), [/^CPU_EXCEEDED: \d+ % of a core over 1.5 s, 20 % allowed/])
  t.equal(supervisor.get('counter')?.use.exceeded.CPU_EXCEEDED, 1)
  t.match(supervisor.get('sibling'), { state: 'ready', starts: 1 })
})

t.test('a service in an endless loop is found by its heartbeat before its CPU share is judged', async (t) => {
  const { supervisor } = await running(t, { healthIntervalMs: 20, heartbeatTimeoutMs: 300 }, { limits: { cpuPercentMax: 20 } })
  t.match(await ask(supervisor, 'Do', 'loop'), { error: 'SERVICE_CRASHED', message: /heartbeat/ })
})

t.test('lines over the limit are dropped, counted, and told in one warning', async (t) => {
  const { supervisor, logs } = await running(t, {}, { limits: { logLinesPerSecondMax: 5 } })
  t.same(await ask(supervisor, 'Do', 'log'), { text: 'done' })
  const warnings = () => logs.filter(({ message }) => message.startsWith('LOGS_EXCEEDED'))
  await until('the warning', () => warnings().length > 0)
  const kept = logs.filter(({ message }) => message === 'a line').length
  t.equal(kept, 20, 'four seconds worth at once')
  t.equal(supervisor.get('counter')?.use.exceeded.LOGS_EXCEEDED, 10_000 - kept)
  t.match(warnings(), [{ level: 'warn', fields: { lines: 10_000 - kept, linesPerSecondMax: 5 } }])
  t.match(supervisor.get('counter'), { state: 'ready', starts: 1 })
})

t.test('what a service uses is known while it runs', async (t) => {
  const { supervisor } = await running(t, { askMs: 50 })
  await until('a reading', () => (supervisor.get('counter')?.use.memoryBytes ?? 0) > 2 ** 20)
  const use = supervisor.get('counter')?.use
  t.ok((use?.memoryBytes ?? 0) < (HEAP_MB * 2 + 64) * 2 ** 20)
  t.match(use?.limits, { memoryMbMax: HEAP_MB * 2 + 64, cpuPercentMax: 100 })
})
