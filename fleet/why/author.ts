/** By whom a change was ordered, and on which evidence a version was let stay. */
import type { ReceiptBody } from '../../core/receipt.ts'
import { ORDER_REASON } from '../controller/plan.ts'
import type { Desirer } from '../device/record.ts'
import type { DeviceFacts, RolloutDeviceFacts, RolloutFacts } from './evidence.ts'
import { type Found, type Statement, had } from './statement.ts'
import type { LoggedChange } from './trail.ts'

/** A change as it is known: by its receipt, by the audit log, or by the device's word alone. */
export interface KnownChange {
  readonly changeId: string
  readonly service: string
  readonly version: string
  readonly author: string
  /** Where the author stands, in words. */
  readonly basis: string
  readonly standing: 'verified' | 'stated'
  readonly proposedAtMs: number
  readonly receipt: ReceiptBody | null
  /** The words of the order, from the audit log. */
  readonly intent: LoggedChange | undefined
  /** What is said of its end: "confirmed by …". */
  readonly reason: string
}

interface Rolled {
  readonly rollout: RolloutFacts
  readonly device: RolloutDeviceFacts
}

const RECORD = "the controller's record of the rollout, which nobody signs"
/** Clocks of a device and of its controller, at most this far apart, for a rollout that only time tells from another. */
const clockSlackMs = 10 * 60_000

/** The rollout that a change belongs to. Numbers of changes begin anew on a device that lost its disk: the order's words decide, else the time. */
export function rolloutOf(rollouts: readonly RolloutFacts[], deviceId: string, change: KnownChange): Rolled | null {
  const [, named] = /^rollout (r-\d+) attempt \d+/.exec(change.intent?.reason ?? '') ?? []
  for (const rollout of rollouts) {
    if (rollout.service !== change.service || rollout.version !== change.version) continue
    const device = rollout.devices.find((one) => one.deviceId === deviceId && one.changeId === change.changeId)
    if (!device) continue
    if (change.intent ? rollout.rolloutId === named : isAbout(rollout, change)) return { rollout, device }
  }
  return null
}

function isAbout({ startedAtMs, endedAtMs }: RolloutFacts, { proposedAtMs }: KnownChange): boolean {
  return proposedAtMs >= startedAtMs - clockSlackMs && (endedAtMs === 0 || proposedAtMs <= endedAtMs + clockSlackMs)
}

/** Whoever wanted what the controller brought about by itself: of a service, or of its configuration. */
export function desirerOf(device: Found<DeviceFacts>, { service }: KnownChange, of: 'version' | 'routing'): Found<Desirer> {
  if ('missing' in device) return device
  const { desiredBy, routingDesiredBy } = device.value
  const found = of === 'routing' ? routingDesiredBy : desiredBy[service]
  return found ? { value: found } : { missing: "the controller's record of the device does not say" }
}

export function authorStatements(deviceId: string, change: KnownChange, rollouts: Found<readonly RolloutFacts[]>, desirer: Found<Desirer>): Statement[] {
  const question = 'author'
  const ordered = change.author === 'agent' ? "by the device's own agent" : `ordered by ${change.author}`
  const words = change.intent?.reason ? `, as "${change.intent.reason}"` : ''
  const wordsBasis = words === '' ? '' : `; the order's words by the audit log, number ${change.intent?.sequence}`
  const ended = change.reason === '' ? '' : `, ${change.reason}`
  const statements: Statement[] = [
    {
      question,
      standing: change.standing,
      text: `${ordered}${words}${ended}`,
      basis: `${change.basis}${wordsBasis}`,
      facts: { principal: change.author, orderReason: change.intent?.reason ?? null, ended: change.reason || null },
    },
  ]
  const rolled = rolloutOf(had(rollouts) ?? [], deviceId, change)
  if (rolled) {
    const { rollout } = rolled
    const text = `rollout ${rollout.rolloutId} of ${rollout.service} ${rollout.version} was started by ${rollout.author} at ${iso(rollout.startedAtMs)}`
    statements.push({ question, standing: 'stated', text, basis: RECORD, facts: { rollout: rollout.rolloutId, startedBy: rollout.author } })
  } else if (change.intent?.reason.startsWith(ORDER_REASON)) {
    statements.push(desiredStatement(change, desirer))
  } else if (/^rollout /.test(change.intent?.reason ?? '')) {
    const basis = 'missing' in rollouts ? rollouts.missing : 'its record is not among those that the controller has'
    statements.push({ question, standing: 'unknown', text: `who started ${change.intent?.reason}`, basis })
  }
  return statements
}

function desiredStatement({ proposedAtMs }: KnownChange, desirer: Found<Desirer>): Statement {
  const question = 'author'
  if ('missing' in desirer) return { question, standing: 'unknown', text: 'who wanted it so', basis: desirer.missing }
  const { principal, atMs } = desirer.value
  // A device that boots is brought to what was wanted long before; whoever wanted the same again later changed nothing.
  if (atMs > proposedAtMs + clockSlackMs) {
    return {
      question,
      standing: 'unknown',
      text: `who wanted it so then; it has been wanted by ${principal} since ${iso(atMs)}`,
      basis: "the controller's record of the device",
    }
  }
  const text = `that it be so was wanted by ${principal} at ${iso(atMs)}`
  return {
    question,
    standing: 'stated',
    text,
    basis: "the controller's record of the device, which nobody signs",
    facts: { desiredBy: principal, desiredAtMs: atMs },
  }
}

export function gateStatements(deviceId: string, change: KnownChange, rollouts: Found<readonly RolloutFacts[]>): Statement[] {
  const statements: Statement[] = change.receipt ? [heldStatement(change.receipt)] : []
  const rolled = rolloutOf(had(rollouts) ?? [], deviceId, change)
  if (rolled) return [...statements, rolloutStatement(rolled)]
  const question = 'gate'
  const reason = change.intent?.reason ?? ''
  if (reason.startsWith(ORDER_REASON)) {
    const text = 'no rollout and no wave: the controller brought it to its desired state, and confirmed it when it served and was not unhealthy'
    return [
      ...statements,
      { question, standing: 'stated', text, basis: "the order's words in the audit log, and how this controller works", facts: { rollout: null } },
    ]
  }
  if (change.author === 'agent') {
    return [
      ...statements,
      {
        question,
        standing: 'stated',
        text: 'no gate: the agent went back to the last good version by itself',
        basis: 'who ordered it',
        facts: { rollout: null },
      },
    ]
  }
  if ('missing' in rollouts) return [...statements, { question, standing: 'unknown', text: 'whether it was part of a rollout', basis: rollouts.missing }]
  const text =
    reason === ''
      ? 'whether a controller gated it: no rollout on record has this change'
      : `no rollout on record has this change; it was ordered as "${reason}"`
  return [
    ...statements,
    {
      question,
      standing: 'unknown',
      text,
      basis: reason === '' ? "and the audit log's record of the order is not at hand" : 'the audit log, and the rollouts on record',
    },
  ]
}

/** What the device itself demanded before it made the change permanent. */
function heldStatement({ steps, heldCalls, heldMs, outcome }: ReceiptBody): Statement {
  const at = (step: string) => steps.findLast((one) => one.step === step)?.atMs
  const [live, confirmed] = [at('provisional'), at('confirmed')]
  const names = steps.map(({ step }) => step)
  const facts = { steps: names, provisionalMs: live !== undefined && confirmed !== undefined ? Math.round(confirmed - live) : null, heldCalls, heldMs }
  const calls = heldCalls > 0 ? `; ${heldCalls} calls were held meanwhile, for ${heldMs.toFixed(1)} ms` : ''
  const text =
    live === undefined || confirmed === undefined
      ? `the device went through ${names.join(', ')}; ${outcome}`
      : `the device had it live and provisional for ${((confirmed - live) / 1000).toFixed(1)} s, then took the confirm (only over a connection opened since, and after the bake)${calls}`
  return { question: 'gate', standing: 'verified', text, basis: 'the steps in the receipt that the device signed', facts }
}

function rolloutStatement({ rollout, device }: Rolled): Statement {
  const { rolloutId, devices, bakeMs, state } = rollout
  const place = devices.findIndex(({ deviceId }) => deviceId === device.deviceId) + 1
  const canary = devices.find((one) => one.canary)
  const first = device.canary ? 'as the canary' : canary ? `after the canary ${canary.deviceId} (${canary.state})` : ''
  const { evidence } = device
  const numbers = Object.entries(evidence?.numbers ?? {}).map(([name, value]) => `${name} ${value}`)
  const saw = evidence
    ? `at the decision it was ${evidence.health}${numbers.length > 0 ? ` (${numbers.join(', ')})` : ''}, ${evidence.healthBefore} before, live for ${(evidence.liveMs / 1000).toFixed(1)} s`
    : 'what the gate saw was not recorded'
  return {
    question: 'gate',
    standing: evidence ? 'stated' : 'unknown',
    text: `rollout ${rolloutId}, device ${place} of ${devices.length} ${first}, attempt ${device.attempt}, bake ${bakeMs / 1000} s: ${saw}; ${device.state}, the rollout ${state}`,
    basis: RECORD,
    facts: {
      rollout: rolloutId,
      place,
      of: devices.length,
      canary: device.canary,
      attempt: device.attempt,
      bakeMs,
      evidence: evidence ?? null,
      state: device.state,
      rolloutState: state,
    },
  }
}

export function iso(atMs: number): string {
  return atMs === 0 ? 'an unknown time' : `${new Date(atMs).toISOString().slice(0, 19)}Z`
}
