/** Why a device runs what it runs of one service. */
import { createHash } from 'node:crypto'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { ReceiptBody } from '../../core/receipt.ts'
import { type Change, ChangeState, type ServiceStatus } from '../../proto/gen/lifecycle.ts'
import { type CheckedReceipts, checkReceipts, type SignedReceipt } from '../device/receipts.ts'
import { authorStatements, desirerOf, gateStatements, iso, type KnownChange } from './author.ts'
import type { Evidence } from './evidence.ts'
import { type Code, originOf } from './origin.ts'
import { type Placement, placementOf, type Running } from './placement.ts'
import { type Found, type Statement, had } from './statement.ts'
import { loggedChange, type Logged, type Trail } from './trail.ts'

export interface ServiceAnswer {
  readonly version: string
  readonly statements: readonly Statement[]
}

/** @param status null: the device was not asked */
export async function answerService(evidence: Evidence, service: string, status: ServiceStatus | null): Promise<ServiceAnswer> {
  const provisional = provisionalOf(status)
  const running: Running | null = status && { version: status.version, manifestSha256: status.manifestSha256, provisional: provisional !== null }
  const shown = await evidence.receipts()
  const [checked, broken] = check(shown, evidence)
  const placement = placementOf(checked?.receipts ?? [], service, running)
  const { receipt } = placement
  const version = running?.version ?? receipt?.to ?? ''
  const trail = await evidence.trail(service)
  const digest = receipt && had(shown) ? digestOf(had(shown) ?? [], receipt) : ''
  const logged = 'value' in trail && receipt ? loggedChange(trail.value, (end) => end.receipt === digest && end.change === receipt.changeId) : null
  const rollouts = await evidence.rollouts()
  const change = receipt ? known(receipt, logged) : provisional ? provisionalChange(service, provisional, had(trail)) : null
  const code: Code = {
    ...{ service, version, tier: status?.tier ?? '' },
    manifestSha256: running?.manifestSha256 || (receipt?.manifests.to ?? ''),
    namedBy: receipt?.manifests.to ? "the device's receipt" : "the device's word",
  }
  return {
    version,
    statements: [
      runsStatement(evidence, service, status, receipt),
      ...(broken ? [broken] : []),
      ...changeStatements(evidence, placement, checked, shown, { running, provisional }),
      ...logStatements(trail, receipt, logged),
      ...(change
        ? [
            ...authorStatements(evidence.deviceId, change, rollouts, desirerOf(await evidence.device(), change, 'version')),
            ...gateStatements(evidence.deviceId, change, rollouts),
          ]
        : []),
      ...(version === '' ? [] : await originOf(evidence, code)),
      ...placement.undone.map(undoneStatement),
    ],
  }
}

function provisionalOf(status: ServiceStatus | null): Change | null {
  const change = status?.change
  const live = change?.state === ChangeState.PROVISIONAL && ['install', 'upgrade'].includes(change.kind)
  return live && change.to === status?.version ? change : null
}

function check(shown: Found<readonly SignedReceipt[]>, { anchors, deviceId }: Evidence): [CheckedReceipts | null, Statement | null] {
  if ('missing' in shown) return [null, null]
  try {
    return [checkReceipts(shown.value, { fleet: anchors.fleet, caPem: anchors.caPem, deviceId }), null]
  } catch (error) {
    if (!(error instanceof OffboxError)) throw error
    return [null, { question: 'change', standing: 'refuted', text: `the receipts of ${deviceId} prove nothing`, basis: messageOf(error) }]
  }
}

function digestOf(shown: readonly SignedReceipt[], receipt: ReceiptBody): string {
  // Checked already: what is looked for is the very body that the receipt was read from.
  const found = shown.find(({ body }) => (JSON.parse(Buffer.from(body).toString('utf8')) as ReceiptBody).sequence === receipt.sequence)
  return found ? createHash('sha256').update(found.body).digest('hex') : ''
}

function runsStatement({ deviceId, source }: Evidence, service: string, status: ServiceStatus | null, receipt: ReceiptBody | null): Statement {
  const question = 'runs'
  if (!status) {
    const text = receipt
      ? `${service} ${receipt.to} was what ${deviceId} was to run from ${iso(receipt.endedAtMs)} on; whether it runs now is not known`
      : `whether ${deviceId} runs ${service} is not known`
    return { question, standing: receipt ? 'verified' : 'unknown', text, basis: `${receipt ? 'the newest confirmed receipt; ' : ''}nobody was asked` }
  }
  const { version, manifestSha256, tier, capabilities, methods } = status
  const text = `${service} ${version}, manifest ${manifestSha256}, in tier ${tier || 'unknown'}, with ${capabilities.join(', ') || 'no capability'}`
  const facts = { version, manifestSha256, tier, capabilities, methods }
  return { question, standing: 'stated', text, basis: `the word of ${source}, by mutual TLS: nothing signs what runs at this moment`, facts }
}

interface Live {
  readonly running: Running | null
  readonly provisional: Change | null
}

function changeStatements(
  evidence: Evidence,
  placement: Placement,
  checked: CheckedReceipts | null,
  shown: Found<unknown>,
  { running, provisional }: Live,
): Statement[] {
  const question = 'change'
  const { receipt, problem, contradicted, first } = placement
  if (provisional) {
    const { id, kind, from, to, provisionalAtMs } = provisional
    const text = `change ${id} (${kind} ${from ? `${from} -> ` : ''}${to}), live since ${iso(provisionalAtMs)} and not confirmed yet: it undoes itself unless it is`
    return [
      {
        question,
        standing: 'stated',
        text,
        basis: `the word of ${evidence.source}: a receipt comes when the change ends`,
        facts: { id, kind, from, to, state: 'provisional' },
      },
    ]
  }
  if ('missing' in shown) return [{ question, standing: 'unknown', text: 'no receipts are at hand', basis: shown.missing }]
  if (!checked) return []
  const count = checked.receipts.length
  const oldest = checked.receipts[0]?.sequence ?? 0
  const older = oldest > 1 ? `; numbers 1 to ${oldest - 1} are kept no more` : ''
  if (!receipt)
    return [{ question, standing: contradicted ? 'refuted' : 'unknown', text: problem, basis: `${count} receipts, each signed by the device${older}` }]
  const { changeId, kind, from, to, sequence, proposedAtMs, endedAtMs, manifests, bootId } = receipt
  const text = `change ${changeId} (${kind} ${from ? `${from} -> ` : ''}${to}), ordered at ${iso(proposedAtMs)}, confirmed at ${iso(endedAtMs)}`
  const same = running && manifests.to !== '' && manifests.to === running.manifestSha256 ? '; it names the manifest that runs' : ''
  const gaps = checked.gaps.length === 0 ? 'without a gap' : `with gaps: ${checked.gaps.join('; ')}`
  const basis = `receipt ${sequence}, signed with ${evidence.deviceId}'s key under a certificate of the fleet CA, in a chain of ${count} ${gaps}${older}${same}`
  const facts = { id: changeId, kind, from, to, receipt: sequence, proposedAtMs, confirmedAtMs: endedAtMs, bootId, manifestSha256: manifests.to }
  const statements: Statement[] = [
    { question, standing: contradicted ? 'refuted' : 'verified', text: problem === '' ? text : `${text}; ${problem}`, basis, facts },
  ]
  if (receipt.author === 'agent') {
    const earlier = first
      ? `change ${first.changeId} (ordered by ${first.author}) had brought ${to} before, confirmed at ${iso(first.endedAtMs)}`
      : `which change had brought ${to} first`
    statements.push({
      question,
      standing: first ? 'verified' : 'unknown',
      text: earlier,
      basis: first ? `receipt ${first.sequence}` : 'its receipt is not among those kept',
    })
  }
  return statements
}

function logStatements(trail: Found<Trail>, receipt: ReceiptBody | null, logged: Logged | null): Statement[] {
  const question = 'log'
  if ('missing' in trail) return [{ question, standing: 'unknown', text: 'the audit log is not at hand', basis: trail.missing }]
  const { findings, basis } = trail.value
  if (findings.length > 0) return [{ question, standing: 'refuted', text: `the audit log was tampered with: ${findings[0]}`, basis, facts: { findings } }]
  if (!receipt) return []
  const end = logged?.end
  if (!end)
    return [
      {
        question,
        standing: 'unknown',
        text: `nothing about change ${receipt.changeId} with this receipt`,
        basis: `${basis}; what came before was not collected, or is not at hand yet`,
      },
    ]
  const intent = logged?.intent
  const before = intent ? `its intent is number ${intent.sequence}, at ${iso(intent.atMs)}; ` : ''
  const text = `${before}its end is number ${end.sequence}, at ${iso(end.atMs)}, and names this receipt`
  return [{ question, standing: 'verified', text, basis, facts: { intent: intent?.sequence ?? null, end: end.sequence, receiptSha256: end.receipt } }]
}

function known(receipt: ReceiptBody, logged: Logged | null): KnownChange {
  const { changeId, service, to, author, proposedAtMs, reason } = receipt
  const basis = "the receipt: whose certificate the device's agent saw"
  return { changeId, service, version: to, author, basis, standing: 'verified', proposedAtMs, receipt, intent: logged?.intent, reason }
}

function provisionalChange(service: string, change: Change, trail: Trail | undefined): KnownChange {
  const { id, to, author, proposedAtMs } = change
  const intent = trail?.changes.findLast((one) => one.intent && one.change === id)
  return { changeId: id, service, version: to, author, basis: "the device's word", standing: 'stated', proposedAtMs, receipt: null, intent, reason: '' }
}

function undoneStatement({ changeId, kind, to, outcome, endedAtMs, reason, error, author, sequence }: ReceiptBody): Statement {
  return {
    question: 'since',
    standing: 'verified',
    text: `change ${changeId} (${kind} ${to}, ordered by ${author}) was ${outcome} at ${iso(endedAtMs)}: ${error ? `${error}: ` : ''}${reason}`,
    basis: `receipt ${sequence}`,
  }
}
