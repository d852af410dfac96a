/** Runs attempts one after the other through a real supervisor, each as a signed bundle beside a sibling that must not notice. */
import { build, type Plugin } from 'esbuild'
import { createSupervisor } from '../../agent/supervisor/supervisor.ts'
import type { ClientCall, Supervisor } from '../../agent/supervisor/types.ts'
import { verifyBundle } from '../../agent/trust/verify.ts'
import { messageOf } from '../../core/errors.ts'
import type { Tier } from '../../core/manifest.ts'
import { makeBundle, makeKey, trust } from '../fixtures/bundles.ts'
import { WIRE_LIMITS } from '../../services/sdk/wire.ts'
import { siblingBundle } from '../fixtures/services/counter/bundle.ts'
import { type Attempt, METHODS, payloadOf } from './attempt.ts'
import { World } from './world.ts'

const root = `${import.meta.dirname}/../..`
/** A call that has no answer by then never gets one: the service hangs. */
const ANSWER_MS = 20_000
const NO_ANSWER = 'ended without an answer'
const TOO_LARGE = 'ended with more than a message may have'
const LEVELS: readonly string[] = ['debug', 'info', 'warn', 'error']
const key = makeKey()

export interface Outcome {
  readonly attempt: Attempt
  /** Empty: contained. */
  readonly harm: readonly string[]
  /** What it claims. */
  readonly said: string
}

export interface RunOptions {
  readonly tier: Tier
  /** The control: the same host without the sandbox. */
  readonly unconfined?: true
  readonly onOutcome?: (outcome: Outcome) => void
}

export async function runAttempts(attempts: readonly Attempt[], { tier, unconfined, onOutcome }: RunOptions): Promise<Outcome[]> {
  const world = await World.open()
  const told: string[] = []
  const asked: string[] = []
  const supervisor = createSupervisor(
    {
      capability: async (service, capability) => {
        asked.push(`${service} ${capability}`)
        return { load1: 1.5 }
      },
      log: (service, level, message, fields) =>
        void told.push(`${service} ${LEVELS.includes(level) ? '' : 'forged a level: '}${message} ${JSON.stringify(fields)}`),
      methodsChanged: () => {},
    },
    {
      hostText: await hostScript('services/sdk/run.ts', unconfined),
      tiers: { processHostText: await hostScript('services/sdk/run-process.ts', unconfined), key: `escape-${process.pid}` },
      limits: { heartbeatTimeoutMs: 2_000, healthIntervalMs: 200, backoffFirstMs: 10, startTimeoutMs: 20_000 },
    },
  )
  try {
    await supervisor.install(await siblingBundle(), {})
    const outcomes: Outcome[] = []
    for (const attempt of attempts) {
      told.length = 0
      asked.length = 0
      const outcome = await runOne(attempt, { world, supervisor, told, asked, tier })
      outcomes.push(outcome)
      onOutcome?.(outcome)
    }
    return outcomes
  } finally {
    await supervisor.close()
    world.close()
  }
}

interface Run {
  readonly world: World
  readonly supervisor: Supervisor
  readonly told: string[]
  readonly asked: string[]
  readonly tier: Tier
}

async function runOne(attempt: Attempt, { world, supervisor, told, asked, tier }: Run): Promise<Outcome> {
  const bundle = (version: string) => {
    const parts = { name: 'attempt', version, methods: METHODS, capabilities: ['proc' as const], snapshot: { writes: [1], reads: [1] }, heapMbMax: 48, tier }
    return verifyBundle(makeBundle(key, parts, payloadOf(attempt, world.target)), trust(key))
  }
  const harm: string[] = []
  let said = ''
  try {
    await supervisor.install(bundle('1.0.0'), {})
    // From now on one that hangs or crashes is started again.
    await supervisor.commit('attempt')
    if (attempt.refused) harm.push('it was loaded')
    const secret = { 'x-token': world.token }
    said = await ask(supervisor, 'Try', 'unary')
    const quiet = await ask(supervisor, 'Quiet', 'unary', secret)
    const fed = await ask(supervisor, 'Feed', 'clientStream', secret)
    const flowed = await ask(supervisor, 'Flow', 'serverStream', secret)
    if (attempt.swapped) await supervisor.swap(bundle('1.0.1'), {}).catch((error) => told.push(messageOf(error)))
    const answers = [said, quiet, fed, flowed, await ask(supervisor, 'Tell', 'unary', {})]
    told.push(...answers)
    if (answers.includes(NO_ANSWER)) harm.push('a call of it has no end')
    if (answers.includes(TOO_LARGE)) harm.push('a message was larger than any may be')
    if (attempt.flows && !attempt.flows.test(flowed)) harm.push(`its stream answers ${flowed.slice(0, 100)}`)
    // A service that broke itself is its own affair; one that is up as ever and answers wrongly has changed the host.
    if (supervisor.get('attempt')?.starts === 1 && !/quiet|^ended/.test(quiet)) harm.push(`the host answers ${quiet}`)
  } catch (error) {
    said = messageOf(error)
    if (!attempt.refused?.test(said)) harm.push(`it could not be installed: ${said}`)
  }
  harm.push(...world.harm(told))
  if (asked.some((one) => one !== 'attempt proc')) harm.push(`it used ${asked.join(', ')}`)
  if (told.filter((line) => line.startsWith('attempt')).length > 1_500) harm.push('its logs were not bounded')
  if (supervisor.get('sibling')?.state !== 'ready' || supervisor.get('sibling')?.starts !== 1) harm.push('its sibling was touched')
  await supervisor.remove('attempt')
  return { attempt, harm, said }
}

/** What a call answered, or "ended CODE". Never rejects. */
async function ask(supervisor: Supervisor, method: string, kind: ClientCall['kind'], metadata: Record<string, string> = {}): Promise<string> {
  return await new Promise((resolve) => {
    const answers: string[] = []
    const timer = setTimeout(() => resolve(NO_ANSWER), ANSWER_MS)
    const end = (text: string) => {
      clearTimeout(timer)
      resolve(text)
    }
    try {
      const handle = supervisor.call({
        ...{ method: `/escape.Attempt/${method}`, kind, principal: 'spiffe://lab/operator/test', deadlineMs: undefined, metadata },
        send: (bytes) => {
          if (bytes.byteLength > WIRE_LIMITS.messageBytesMax) end(TOO_LARGE)
          return answers.push(new TextDecoder().decode(bytes)) > 0
        },
        end: (error) => end(error ? `ended ${error.code} ${error.message}` : answers.join('\n')),
      })
      for (let message = 0; message < (kind === 'clientStream' ? 3 : 1); message++) handle.message(new TextEncoder().encode('a request'))
      handle.halfClose()
    } catch (error) {
      end(`ended ${messageOf(error)}`)
    }
  })
}

async function hostScript(entry: string, unconfined?: true): Promise<string> {
  const control: Plugin = {
    name: 'control',
    setup: ({ onResolve }) => onResolve({ filter: /compartment\.ts$/ }, () => ({ path: `${root}/test/sandbox/unconfined.ts` })),
  }
  const { outputFiles } = await build({
    ...{ entryPoints: [`${root}/${entry}`], bundle: true, write: false, logLevel: 'silent', platform: 'node', target: 'node26', format: 'cjs' },
    plugins: unconfined ? [control] : [],
  })
  const text = outputFiles[0]?.text
  if (text === undefined) throw new Error(`esbuild gave nothing for ${entry}`)
  return text
}
