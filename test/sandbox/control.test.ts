import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Tier } from '../../core/manifest.ts'
import type { Attempt } from './attempt.ts'
import { ATTEMPTS } from './attempts/index.ts'
import { runAttempts } from './run-attempts.ts'

t.setTimeout(800_000)

/**
 * Attempts of which the control shows nothing, each for a reason; all the others must do harm there. What SES itself has to withstand is not there
 * without SES, and what the host or a bound holds off is held off as well.
 */
const AIMED_AT_SES: readonly (string | RegExp)[] = [
  /Compartment|compartment/,
  /^Function: /,
  'breaking out of the wrapper',
  'arguments of the evaluator',
  'callers of the payload',
  'this at the top',
  'errors: the host’s own class, by the reason of a signal',
  'errors: a rejection with the same',
]
const HELD_BY_THE_HOST: readonly (string | RegExp)[] = [
  /^memory: (the pool|bytes grown)/,
  /^capability: (one|replaced|a thousand)/,
  'services: an API that the manifest does not name',
  /^answer: (bytes|more)/,
  'log: a level and fields that are none',
  /: a flood/,
  /^snapshot: /,
  'timers: more than the heap holds',
  /^exhaustion: /,
]
const NOT_SHOWN: Readonly<Record<Tier, readonly (string | RegExp)[]>> = {
  worker: [
    ...AIMED_AT_SES,
    ...HELD_BY_THE_HOST,
    // Of a worker that was evaluated from text, Node itself refuses it.
    /^import\(\)/,
    // Not tried: they would end whoever runs this test, and the agent with it.
    'process.kill: its parent',
    'process.kill: its whole group',
    'port: one in anything that can be reached',
  ],
  process: [
    ...AIMED_AT_SES,
    ...HELD_BY_THE_HOST,
    // They end the process before it can say what it has.
    'prototype: the typed arrays',
    'prototype: Symbol.hasInstance of Uint8Array',
    'errors: one that inspects its inspector, thrown at nobody',
    'port: one in anything that can be reached',
  ],
}
/** Says only that a payload was taken or refused, and nothing of what it did. */
const NO_HARM = /^it was loaded$|^it could not be installed/

t.test('the names of attempts are unique, and there are enough', async (t) => {
  t.equal(new Set(ATTEMPTS.map(({ name }) => name)).size, ATTEMPTS.length)
  t.ok(ATTEMPTS.length >= 30)
})

for (const tier of ['worker', 'process'] as const) {
  t.test(`without the sandbox, the same attempts get out, or hold what gets them out, in the ${tier} tier`, async (t) => {
    const isShown = ({ name }: Attempt) => !NOT_SHOWN[tier].some((one) => (typeof one === 'string' ? one === name : one.test(name)))
    const chosen = ATTEMPTS.filter(isShown)
    t.ok(chosen.length >= 100)
    const outcomes = await runAttempts(chosen, { tier, unconfined: true })
    const shown = outcomes.filter(({ attempt, harm, said }) => {
      const real = harm.filter((one) => !NO_HARM.test(one))
      return t.not(real.length, 0, `${attempt.name}: ${real.join(', ')} (${said.slice(0, 100)})`)
    })
    t.comment(`${shown.length}/${ATTEMPTS.length} get out unconfined (${tier})`)
  })
}

t.test('what no worker contains: native code that faults takes the agent down; a process of its own does not', async (t) => {
  t.same(await fate(t, 'worker'), { signal: 'SIGSEGV', said: '' })
  t.same(await fate(t, 'process'), { signal: null, said: 'the agent lives' })
})

/** What becomes of an agent one of whose services faults in native code. No plain script can, so this one runs without the sandbox. */
async function fate(test: Test, tier: Tier): Promise<{ signal: NodeJS.Signals | null; said: string }> {
  const agent = spawn(process.execPath, [join(import.meta.dirname, 'faulting-service.ts'), tier], {
    stdio: ['ignore', 'pipe', 'inherit'],
    // One that faults leaves what it made; it goes with the test.
    env: { ...process.env, TMPDIR: test.testdir() },
  })
  let said = ''
  agent.stdout.on('data', (chunk) => {
    said += String(chunk)
  })
  const [, signal] = await once(agent, 'close')
  return { signal, said: said.trim() }
}
