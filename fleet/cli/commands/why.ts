/** offbox why … */
import type { Command } from 'commander'
import { OffboxError } from '../../../core/errors.ts'
import { readAnchors } from '../../home/home.ts'
import { controllerEvidence } from '../../why/controller-evidence.ts'
import { fileEvidence } from '../../why/file-evidence.ts'
import type { Answer, Verdict } from '../../why/statement.ts'
import { answerText } from '../../why/text.ts'
import { why } from '../../why/why.ts'
import { action, type CommonOptions, type Context, remoteLeaf } from '../context.ts'
import { EXIT, printable } from '../output.ts'
import { readShown } from './receipts.ts'

interface WhyOptions extends CommonOptions {
  readonly receipts?: string
  readonly audit?: string
}

/** Docs: docs/cli.md. */
const CODES: Readonly<Record<Verdict, number>> = { answered: EXIT.ok, incomplete: EXIT.incomplete, refuted: EXIT.refuted }

export function whyCommand(root: Command): void {
  remoteLeaf(root, 'why <device> <subject>', 'which change put it there, by whom, from which commit, signed by which keys, gated on which evidence', [
    'offbox why sw1 telemetry',
    'offbox why sw1 /offbox.v1.Telemetry/Get',
    'offbox why sw1 routing:neighbors.sw2.peerAs',
    'offbox why sw1 telemetry --json',
    'offbox why sw1 telemetry --receipts sw1.json --audit sw1.audit',
  ])
    .option('--receipts <file>', 'ask nobody: take the receipts that "service receipts --json" wrote')
    .option('--audit <file>', 'with --receipts: the audit log that "audit export" wrote')
    .action(
      action<WhyOptions, [string, string]>(async (context, options, deviceId, subject) => {
        const answer = await answered(context, options, deviceId, subject)
        context.print.result(answer, () => printable(answerText(answer)))
        context.exitCode = CODES[answer.verdict]
      }),
    )
}

async function answered({ home, controller, signal }: Context, { receipts, audit }: WhyOptions, deviceId: string, subject: string): Promise<Answer> {
  const anchors = await readAnchors(home)
  if (receipts === undefined) {
    if (audit !== undefined) throw new OffboxError('ARGUMENT_INVALID', '--audit goes with --receipts: a device that is asked shows its log itself')
    return await controller(async (client) => await why(controllerEvidence({ home, anchors, client, deviceId, signal }), subject))
  }
  const shown = await readShown(receipts)
  if (shown.deviceId !== deviceId) throw new OffboxError('ARGUMENT_INVALID', `${receipts} holds receipts of ${shown.deviceId}, not of ${deviceId}`)
  return await why(fileEvidence({ home, anchors, deviceId, receipts: shown.signed, ...(audit === undefined ? {} : { auditFile: audit }) }), subject)
}
