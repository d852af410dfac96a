import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { ATTEMPTS } from './attempts/index.ts'
import { runAttempts } from './run-attempts.ts'

t.setTimeout(280_000)

/** Of every kind one or two that need no more than a worker without the sandbox. */
const SUCCEED = [
  `process by globalThis.process`,
  `process by ({}).constructor.constructor('return process')()`,
  `process by setTimeout(() => {}, 1).constructor.constructor('return process')()`,
  'sqlite: a database is a file',
  'process.kill: the agent by its number',
  'v8: flags',
  'vm: a realm of its own',
  'import() in the payload',
  'the same by a definition',
  'prototype: Map.prototype.get and set',
  'prototype: the iterator of arrays',
  'constructor: JSON replaced',
  'errors: console.log with the same',
  'worker: a message to the main thread',
  'channel: a broadcast',
  'answer: a thenable that keeps the host’s functions',
]

t.test('the names of attempts are unique, and there are enough', async (t) => {
  t.equal(new Set(ATTEMPTS.map(({ name }) => name)).size, ATTEMPTS.length)
  t.ok(ATTEMPTS.length >= 30)
})

t.test('without the sandbox, the same attempts get out of a worker', async (t) => {
  const chosen = ATTEMPTS.filter(({ name }) => SUCCEED.includes(name))
  t.equal(chosen.length, SUCCEED.length)
  await runAttempts(chosen, {
    tier: 'worker',
    unconfined: true,
    onOutcome: ({ attempt, harm }) => void t.not(harm.length, 0, `${attempt.name}: ${harm.join(', ')}`),
  })
})

t.test('what no worker contains: native code that faults takes the agent down; a process of its own does not', async (t) => {
  t.same(await fate('worker'), { signal: 'SIGSEGV', said: '' })
  t.same(await fate('process'), { signal: null, said: 'the agent lives' })
})

/** What becomes of an agent one of whose services faults in native code. No plain script can, so this one runs without the sandbox. */
async function fate(tier: 'worker' | 'process'): Promise<{ signal: NodeJS.Signals | null; said: string }> {
  const agent = spawn(process.execPath, [join(import.meta.dirname, 'faulting-service.ts'), tier], { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  agent.stdout.on('data', (chunk) => {
    said += String(chunk)
  })
  const [, signal] = await once(agent, 'close')
  return { signal, said: said.trim() }
}
