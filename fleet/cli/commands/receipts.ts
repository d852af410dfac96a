/** offbox service receipts … */
import type { Command } from 'commander'
import { messageOf, OffboxError } from '../../../core/errors.ts'
import { FleetMethods } from '../../../proto/gen/fleet.ts'
import { type CheckedReceipts, checkReceipts, collectReceipts, type SignedReceipt } from '../../device/receipts.ts'
import { readAnchors } from '../../home/home.ts'
import type { RpcClient } from '../../rpc/client.ts'
import { action, type CommonOptions, remoteLeaf } from '../context.ts'
import { readInput } from '../files.ts'
import { printable, table, time } from '../output.ts'

interface ReceiptsOptions extends CommonOptions {
  readonly change?: string
  readonly verify?: string
}

/** What `--json` prints and `--verify` reads: the bodies for people, and beside them exactly what was signed. */
interface Shown {
  readonly deviceId: string
  readonly signed: readonly { readonly body: string; readonly signature: string; readonly chainPem: string }[]
}

const fileBytesMax = 16 * 1024 * 1024

export function receiptsCommand(group: Command): void {
  remoteLeaf(group, 'receipts [device] [service]', 'what a device has signed about its installs, upgrades and removals, checked', [
    'offbox service receipts sw1',
    'offbox service receipts sw1 telemetry --change c-0000000012',
    'offbox service receipts sw1 --json > sw1.json',
    'offbox service receipts --verify sw1.json',
  ])
    .option('--change <id>', 'only the receipt of this change')
    .option('--verify <file>', 'check what --json wrote, without asking anybody but the home for the CA of the fleet')
    .action(
      action<ReceiptsOptions, [string | undefined, string | undefined]>(async ({ home, print, controller }, options, device, service) => {
        const { fleet, caPem } = await readAnchors(home)
        if ((device === undefined) === (options.verify === undefined)) throw new OffboxError('ARGUMENT_INVALID', 'name a device, or a file with --verify')
        const { deviceId, signed } =
          options.verify === undefined
            ? { deviceId: device ?? '', signed: await controller(async (client) => await fetchAll(client, device ?? '', service ?? '', options.change ?? '')) }
            : await readShown(options.verify)
        const checked = checkReceipts(signed, { fleet, caPem, deviceId })
        // Of one service or change there are numbers in between, and rightly so.
        const gaps = service === undefined ? checked.gaps : []
        print.result({ deviceId, receipts: checked.receipts, gaps, signed: signed.map(shown) }, () => printable(textOf(deviceId, checked, gaps)))
      }),
    )
}

/** All that the device keeps. */
async function fetchAll(client: RpcClient, deviceId: string, service: string, changeId: string): Promise<SignedReceipt[]> {
  const page = async (before: number) => (await client.unary(FleetMethods.ListDeviceReceipts, { deviceId, receipts: { service, changeId, before } })).receipts
  // A change has one: asked for by its name, there are no more pages.
  return changeId === '' ? await collectReceipts(page) : [...(await page(0))]
}

function shown({ body, signature, chainPem }: SignedReceipt): Shown['signed'][number] {
  return { body: Buffer.from(body).toString('utf8'), signature: Buffer.from(signature).toString('base64'), chainPem }
}

/** @throws ARGUMENT_INVALID not a file that `--json` wrote */
export async function readShown(file: string): Promise<{ deviceId: string; signed: SignedReceipt[] }> {
  try {
    const text = new TextDecoder().decode(await readInput(file, fileBytesMax))
    const { deviceId, signed } = JSON.parse(text.trim().split('\n').at(-1) ?? '') as Shown
    return {
      deviceId,
      signed: signed.map((one) => ({ body: Buffer.from(one.body, 'utf8'), signature: Buffer.from(one.signature, 'base64'), chainPem: one.chainPem })),
    }
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${file} holds no receipts as --json writes them: ${messageOf(error)}`)
  }
}

function textOf(deviceId: string, { receipts }: CheckedReceipts, gaps: readonly string[]): string {
  const rows = receipts.map((one) => [
    one.sequence,
    time(one.endedAtMs),
    one.changeId,
    `${one.kind} ${one.service}`,
    [one.from, one.to].filter(Boolean).join(' -> '),
    one.error ? `${one.outcome} (${one.error})` : one.outcome,
    one.heldCalls > 0 ? `${one.heldCalls} for ${one.heldMs.toFixed(1)} ms` : '',
    one.reason,
  ])
  const head = ['no.', 'ended', 'change', 'what', 'versions', 'outcome', 'calls held', 'reason']
  const words = receipts.length === 0 ? [] : [`Every signature is that of ${deviceId}.`]
  return [table(head, rows, `${deviceId} keeps no receipts`), ...words, ...gaps.map((gap) => `Not shown: ${gap}.`)].join('\n')
}
