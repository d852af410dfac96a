/** offbox audit … */
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import type { Command } from 'commander'
import { parseAnchors } from '../../../core/anchors.ts'
import { Chain } from '../../../core/audit/chain.ts'
import { entryBytesMax, readEntry, signedLine } from '../../../core/audit/entries.ts'
import { type AuditRecord, readRecord } from '../../../core/audit/record.ts'
import type { Signed } from '../../../core/audit/statements.ts'
import { ExportVerifier, type Verdict } from '../../../core/audit/verification.ts'
import { messageOf, OffboxError } from '../../../core/errors.ts'
import { type DeviceAudit, FleetMethods } from '../../../proto/gen/fleet.ts'
import { writeAtomic } from '../../home/atomic.ts'
import { readAnchors } from '../../home/home.ts'
import { action, type CommonOptions, leaf, remoteLeaf } from '../context.ts'
import { readInput } from '../files.ts'
import { EXIT, printable, table, time } from '../output.ts'

interface TailOptions extends CommonOptions {
  readonly follow?: boolean
  readonly from?: string
  readonly last?: string
}

interface ExportOptions extends CommonOptions {
  readonly out?: string
}

interface VerifyOptions extends CommonOptions {
  readonly head?: string
  readonly anchors?: string
  readonly device?: string
}

const anchorsBytesMax = 1024 * 1024

export function auditCommands(root: Command): void {
  const group = root.command('audit').description('who called what on a device, as the device chained and signed it and the collector holds it')
  tailCommand(group)
  statusCommand(group)
  exportCommand(group)
  verifyCommand(group)
}

function tailCommand(group: Command): void {
  remoteLeaf(group, 'tail <device>', "the device's audit records, followed as one chain while they come", [
    'offbox audit tail sw1 --last 20',
    'offbox audit tail sw1 -f',
    'offbox audit tail sw1 --from 4711 --json',
  ])
    .option('-f, --follow', 'go on with new records')
    .option('--from <number>', 'first record; default: the oldest that the device keeps')
    .option('--last <count>', 'only the newest so many of what is there, then whatever comes')
    .action(
      action<TailOptions, [string]>(async ({ print, controller, signal }, { follow = false, from, last }, deviceId) => {
        await controller(async (client) => {
          const first = from === undefined ? 0 : count('--from', from)
          const newest = last === undefined ? Number.POSITIVE_INFINITY : count('--last', last)
          const show = (record: AuditRecord) => print.item(record, () => printable(lineOf(record)))
          let chain: Chain | null = null
          const read = async (start: number, goesOn: boolean, take: (record: AuditRecord) => void) => {
            const request = { deviceId, tail: { chain: '', from: start, follow: goesOn } }
            for await (const { records } of client.serverStream(FleetMethods.TailDeviceAudit, request, { signal })) {
              for (const line of records) {
                const record = readRecord(line)
                chain ??= new Chain({ sequence: record.sequence - 1, hash: record.previous })
                take(chain.follow(line))
              }
            }
          }
          const kept: AuditRecord[] = []
          await read(first, false, (record) => {
            if (newest === Number.POSITIVE_INFINITY) return show(record)
            kept.push(record)
            if (kept.length > newest) kept.shift()
          })
          for (const record of kept) show(record)
          if (follow) await read(((chain as Chain | null)?.head.sequence ?? 0) + 1, true, show)
        })
      }),
    )
}

function statusCommand(group: Command): void {
  remoteLeaf(group, 'status [device]', 'what the collector holds and has signed for, of one device or of all', [
    'offbox audit status',
    'offbox audit status sw1',
  ]).action(
    action<CommonOptions, [string | undefined]>(async ({ print, controller }, _options, only) => {
      const devices = await controller(async (client) => {
        const ids = only === undefined ? (await client.unary(FleetMethods.ListDevices, {})).devices.map(({ deviceId }) => deviceId) : [only]
        return await Promise.all(ids.map(async (deviceId) => await client.unary(FleetMethods.GetDeviceAudit, { deviceId })))
      })
      const facts = devices.map(({ head, ...rest }) => rest)
      print.result({ devices: facts }, () => table(['device', 'records', 'log', 'signed up to', 'at', 'remarks'], devices.map(rowOf), 'no devices'))
    }),
  )
}

function exportCommand(group: Command): void {
  remoteLeaf(group, 'export <device>', 'writes all that the collector has signed for into a file, and its signature into another', [
    'offbox audit export sw1 --out sw1.audit',
    'offbox audit verify sw1.audit --head sw1.audit.head',
  ])
    .option('--out <file>', 'default: DEVICE.audit; the head, to be kept apart from it, goes to FILE.head')
    .action(
      action<ExportOptions, [string]>(async ({ print, controller }, options, deviceId) => {
        const out = options.out ?? `${deviceId}.audit`
        const { bytes, head } = await controller(async (client) => {
          let written = 0
          let tail = Buffer.alloc(0)
          const file = await open(out, 'w', 0o600)
          try {
            for await (const { content } of client.serverStream(FleetMethods.ExportDeviceAudit, { deviceId })) {
              await file.writeFile(content)
              written += content.length
              tail = Buffer.concat([tail, content]).subarray(-entryBytesMax)
            }
            await file.sync()
          } finally {
            await file.close()
          }
          const last = tail.subarray(tail.lastIndexOf(10, tail.length - 2) + 1, tail.length - 1)
          const entry = readEntry(last)
          if (entry.kind !== 'head') throw new OffboxError('AUDIT_BROKEN', 'the controller sent an export without its end')
          return { bytes: written, head: entry.signed }
        })
        await writeAtomic(`${out}.head`, `${signedLine('head', head)}\n`)
        print.result(
          { deviceId, file: out, head: `${out}.head`, bytes },
          `${out}: ${bytes} bytes; keep ${out}.head apart from it, and verify one with the other`,
        )
      }),
    )
}

function verifyCommand(group: Command): void {
  leaf(group, 'verify <file>', 'whether an exported log is what the device wrote, whole and in order; asks nobody', [
    'offbox audit verify sw1.audit --head sw1.audit.head',
    'offbox audit verify sw1.audit --head sw1.audit.head --anchors anchors.json --device sw1',
  ])
    .option('--head <file>', "the collector's signature, kept apart from the log: without it, a log that was cut where the collector had signed before passes")
    .option('--anchors <file>', "anchors.json of the fleet, which holds public keys only; default: the home's")
    .option('--device <id>', 'the device that it must be of; default: the one that it says')
    .action(
      action<VerifyOptions, [string]>(async (context, options, path) => {
        const { fleet, caPem } = options.anchors === undefined ? await readAnchors(context.home) : await readPublic(options.anchors)
        const kept = options.head === undefined ? null : await readHeadFile(options.head)
        const lines = linesOf(path)
        const first = (await lines.next()).value
        const deviceId = options.device ?? deviceOf(first, kept, path)
        const verifier = new ExportVerifier({ fleet, caPem, deviceId }, kept)
        if (first) verifier.take(first)
        for await (const line of lines) verifier.take(line)
        const verdict = verifier.end()
        const whole = verdict.findings.length === 0
        const { head, ...facts } = verdict
        const signed = head && { sequence: head.chapter.sequence, atMs: head.atMs }
        context.print.result({ file: path, deviceId, verified: whole, ...facts, head: signed }, () => printable(textOf(deviceId, verdict, kept !== null)))
        if (!whole) context.exitCode = EXIT.failed
      }),
    )
}

function rowOf({ deviceId, chapters, countersigned, countersignedAtMs, problem }: DeviceAudit): (string | number)[] {
  const last = chapters.at(-1)
  const records = chapters.reduce((sum, { after, sequence }) => sum + sequence - after, 0)
  const forked = chapters.filter(({ reason }) => reason === 'forked').length
  const remarks = [...(forked > 0 ? [`FORKED ${forked === 1 ? 'once' : `${forked} times`}`] : []), ...(problem ? [problem] : [])]
  return [deviceId, records, last?.chain.slice(0, 12) ?? '-', countersigned || '-', time(countersignedAtMs), remarks.join('; ')]
}

function lineOf({ sequence, atMs, principal, peer, method, decision, status, repeated, durationMs }: AuditRecord): string {
  const what = [decision === 'allow' ? '' : decision, status ?? '', repeated === undefined ? '' : `${repeated} more`].filter(Boolean).join(' ')
  const took = durationMs === undefined ? '' : ` ${durationMs} ms`
  return `${sequence}  ${new Date(atMs).toISOString()}  ${principal || '-'}${peer === undefined ? '' : ` (${peer})`}  ${method}  ${what}${took}`
}

function textOf(deviceId: string, { records, chapters, head, findings, notes }: Verdict, kept: boolean): string {
  const lines = [...notes.map((note) => `Not in it: ${note}.`), ...findings.map(({ at, what }) => `FOUND${at > 0 ? ` at number ${at}` : ''}: ${what}`)]
  if (findings.length > 0) return [...lines, `This is not the log of ${deviceId} as the device wrote it and the collector signed for it.`].join('\n')
  const signed = head ? `The collector signed for all of it at ${time(head.atMs)}.` : 'It ends where the collector signed.'
  const apart = kept ? '' : ' Without --head, whether a later end was cut off cannot be told.'
  const words = `${records} records in ${chapters.length} ${chapters.length === 1 ? 'chapter' : 'chapters'}, each in its place and signed for by ${deviceId}.`
  return [...lines, `${words} ${signed}${apart}`].join('\n')
}

function count(option: string, text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 1) throw new OffboxError('ARGUMENT_INVALID', `${option} must be a number from 1 on, got ${JSON.stringify(text)}`)
  return value
}

/** Of which device it has to be, by the head that was kept, else by its first line: whether it is shows when they are verified. */
function deviceOf(line: Uint8Array | undefined, kept: Signed | null, path: string): string {
  const { deviceId } = kept ? (JSON.parse(Buffer.from(kept.body).toString('utf8')) as { deviceId?: unknown }) : {}
  if (typeof deviceId === 'string') return deviceId
  try {
    const entry = line && readEntry(line)
    if (entry?.kind === 'export') return entry.deviceId
  } catch {
    // Tampered with: the verifier says so, once it is known of whom it should be.
  }
  throw new OffboxError(
    'ARGUMENT_INVALID',
    `${path} does not begin as an exported audit log; name the device with --device to have it looked into all the same`,
  )
}

async function readPublic(path: string): Promise<{ fleet: string; caPem: string }> {
  return parseAnchors(new TextDecoder().decode(await readInput(path, anchorsBytesMax)))
}

async function readHeadFile(path: string): Promise<Signed> {
  try {
    const entry = readEntry(Buffer.from(new TextDecoder().decode(await readInput(path, entryBytesMax)).trim()))
    if (entry.kind === 'head') return entry.signed
    throw new Error('it holds something else')
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${path} holds no head that a collector signed: ${messageOf(error)}`)
  }
}

/** Lines of a file of any length without their line feeds; one that is too long is handed on cut, and found wrong. */
async function* linesOf(path: string): AsyncGenerator<Uint8Array> {
  let rest = Buffer.alloc(0)
  try {
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      let bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk
      for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10)) {
        yield bytes.subarray(0, end)
        bytes = bytes.subarray(end + 1)
      }
      rest = bytes.length > 2 * entryBytesMax ? Buffer.from(bytes.subarray(0, 2 * entryBytesMax)) : Buffer.from(bytes)
    }
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${path} cannot be read: ${messageOf(error)}`)
  }
  if (rest.length > 0) yield rest
}
