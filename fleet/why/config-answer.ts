/** Why a value of a service's configuration is what it is. Configuration gets no receipts: the audit log tells. */
import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { OffboxError } from '../../core/errors.ts'
import { type GetRoutingConfigResponse, RoutingConfig } from '../../proto/gen/routing.ts'
import type { ServiceStatus } from '../../proto/gen/lifecycle.ts'
import { authorStatements, desirerOf, iso, type KnownChange } from './author.ts'
import type { Evidence } from './evidence.ts'
import { type Found, short, type Statement } from './statement.ts'
import { lookUp } from './subject.ts'
import { loggedChange, type Logged, type LoggedChange, type Trail } from './trail.ts'

/** Services whose configuration can be read from outside. */
export const CONFIGURED = ['routing'] as const

/** @throws ARGUMENT_INVALID the service's configuration cannot be read, or has nothing there */
export async function answerConfig(evidence: Evidence, service: string, path: readonly string[], status: ServiceStatus | null): Promise<Statement[]> {
  if (!CONFIGURED.some((one) => one === service)) {
    throw new OffboxError('ARGUMENT_INVALID', `${service} has no configuration that can be read from outside; only ${CONFIGURED.join(', ')} has`)
  }
  const found = await evidence.routing()
  const runs: Statement[] = status
    ? [
        {
          question: 'runs',
          standing: 'stated',
          text: `${service} ${status.version} owns it; for its code: offbox why ${evidence.deviceId} ${service}`,
          basis: `the word of ${evidence.source}`,
        },
      ]
    : []
  if ('missing' in found) return [...runs, { question: 'value', standing: 'unknown', text: 'the configuration is not at hand', basis: found.missing }]
  const { config, revision, provisional, changeId } = found.value
  if (!config || revision === '')
    return [...runs, { question: 'value', standing: 'stated', text: 'no configuration was ever set', basis: `the word of ${service} on the device` }]
  const there = lookUp(config, path)
  if ('at' in there) {
    const where = there.at === '' ? 'the configuration' : there.at
    throw new OffboxError('ARGUMENT_INVALID', `${service} has nothing at ${path.join('.')}: ${where} has ${there.choices.join(', ') || 'nothing under it'}`)
  }
  const trail = await evidence.trail(service)
  const isEnd = (end: LoggedChange) => end.kind === 'config' && end.to === revision && end.state === 'confirmed'
  const logged = 'value' in trail && !provisional ? loggedChange(trail.value, isEnd) : null
  const change = provisional ? openChange(trail, changeId, service, revision) : logged?.end ? closedChange(logged.end, logged.intent, service) : null
  return [
    ...runs,
    ...valueStatements(found.value, there.value),
    ...(await desiredStatements(evidence, path, there.value)),
    ...changeStatements(trail, logged, { revision, provisional, changeId }),
    ...(change ? authorStatements(evidence.deviceId, change, { value: [] }, desirerOf(await evidence.device(), change, 'routing')) : []),
    ...(logged?.end ? [gateStatement(logged.end, logged.intent)] : []),
  ]
}

function valueStatements({ revision, rendered }: GetRoutingConfigResponse | { revision: string; rendered: string }, value: unknown): Statement[] {
  const digest = createHash('sha256')
    .update(rendered ?? '')
    .digest('hex')
  const same = digest === revision
  const shown = JSON.stringify(value) ?? 'null'
  const text = shown.length > valueCharsMax ? `${shown.slice(0, valueCharsMax)} … (${shown.length} characters)` : shown
  const facts = { value, revision }
  return [
    { question: 'value', standing: 'stated', text, basis: 'the word of the service, which keeps the configuration beside what it made of it', facts },
    same
      ? {
          question: 'value',
          standing: 'verified',
          text: `the text that BIRD was given has revision ${short(revision)}`,
          basis: 'its SHA-256, taken here of the text that the device showed',
        }
      : {
          question: 'value',
          standing: 'refuted',
          text: `the text that is shown has digest ${short(digest)}, and revision ${short(revision)} is said to be in force`,
          basis: 'its SHA-256, taken here',
        },
  ]
}

const valueCharsMax = 400

async function desiredStatements(evidence: Evidence, path: readonly string[], value: unknown): Promise<Statement[]> {
  const device = await evidence.device()
  const bytes = 'value' in device ? device.value.routingConfig : undefined
  if (!bytes || bytes.length === 0) {
    const basis = 'missing' in device ? device.missing : "the controller's record of the device"
    return [{ question: 'value', standing: 'missing' in device ? 'unknown' : 'stated', text: 'no routing is desired by the controller', basis }]
  }
  const wanted = lookUp(RoutingConfig.decode(bytes), path)
  const same = 'value' in wanted && isDeepStrictEqual(wanted.value, value)
  const text = same
    ? 'it is what the controller wants there'
    : `the controller wants ${'value' in wanted ? JSON.stringify(wanted.value)?.slice(0, valueCharsMax) : 'nothing'} there`
  return [{ question: 'value', standing: 'stated', text, basis: "the controller's record of the device", facts: { asDesired: same } }]
}

function changeStatements(
  trail: Found<Trail>,
  logged: Logged | null,
  { revision, provisional, changeId }: { revision: string; provisional: boolean; changeId: string },
): Statement[] {
  const question = 'change'
  if ('missing' in trail)
    return [
      {
        question,
        standing: 'unknown',
        text: 'which change set it',
        basis: `${trail.missing}; changes of configuration have no receipts, only the audit log tells`,
      },
    ]
  const { basis, findings } = trail.value
  if (findings.length > 0)
    return [{ question: 'log', standing: 'refuted', text: `the audit log was tampered with: ${findings[0]}`, basis, facts: { findings } }]
  if (provisional) {
    return [
      {
        question,
        standing: 'stated',
        text: `change ${changeId} set revision ${short(revision)}; it is not confirmed yet and undoes itself unless it is`,
        basis: "the service's word",
        facts: { id: changeId, revision },
      },
    ]
  }
  const end = logged?.end
  if (!end) return [{ question, standing: 'unknown', text: `which change set revision ${short(revision)}`, basis: `it is in none of these: ${basis}` }]
  const before = end.from ? `in place of ${short(end.from)}` : 'where none was'
  const text = `change ${end.change} set revision ${short(revision)} ${before}, confirmed at ${iso(end.atMs)}`
  const facts = {
    id: end.change,
    kind: end.kind,
    from: end.from,
    to: end.to,
    confirmedAtMs: end.atMs,
    intent: logged?.intent?.sequence ?? null,
    end: end.sequence,
  }
  const whole = 'it set the configuration as a whole: whether an earlier change had put the same value there is not known, since the log holds digests'
  return [
    { question, standing: 'verified', text, basis: `the audit log, number ${end.sequence}, of ${basis}`, facts },
    { question, standing: 'stated', text: whole, basis: 'what changes of configuration are' },
  ]
}

function closedChange(end: LoggedChange, intent: LoggedChange | undefined, service: string): KnownChange {
  const { change: changeId, to: version, principal: author, atMs, reason } = end
  return {
    changeId,
    service,
    version,
    author,
    basis: `the audit log, number ${end.sequence}`,
    standing: 'verified',
    proposedAtMs: intent?.atMs ?? atMs,
    receipt: null,
    intent,
    reason,
  }
}

function openChange(trail: Found<Trail>, changeId: string, service: string, version: string): KnownChange | null {
  const intent = 'value' in trail ? trail.value.changes.findLast((one) => one.intent && one.change === changeId) : undefined
  if (!intent) return null
  const basis = `the audit log, number ${intent.sequence}`
  return { changeId, service, version, author: intent.principal, basis, standing: 'verified', proposedAtMs: intent.atMs, receipt: null, intent, reason: '' }
}

function gateStatement(end: LoggedChange, intent: LoggedChange | undefined): Statement {
  const took = intent ? `${((end.atMs - intent.atMs) / 1000).toFixed(1)} s after its order` : 'at an unknown time after its order'
  const text = `BIRD had checked it; it was confirmed ${took}, over a connection opened since it was live (else the device had gone back by itself)`
  return {
    question: 'gate',
    standing: 'verified',
    text,
    basis: `the audit log, number ${end.sequence}; no rollout gates a configuration`,
    facts: { rollout: null },
  }
}
