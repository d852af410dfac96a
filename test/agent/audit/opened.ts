/** An audit log as the agent opens one, on a disk in memory, with a device's key; and what is in it. */
import { createPrivateKey, sign } from 'node:crypto'
import { AuditLog, type AuditOptions } from '../../../agent/audit/log.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { Chain } from '../../../core/audit/chain.ts'
import type { AuditRecord } from '../../../core/audit/record.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'

export const directory = '/state/audit'

export interface DeviceKey {
  readonly deviceId: string
  readonly keyPem: string
  readonly certificatePem: string
}

/** Signs as the keystore driver does. */
export function signer({ deviceId, keyPem, certificatePem }: DeviceKey): AuditOptions['sign'] {
  const key = createPrivateKey(keyPem)
  return (bytesFor) => ({ signature: sign('sha256', bytesFor(deviceId), { key, dsaEncoding: 'ieee-p1363' }), chainPem: certificatePem })
}

export const unsigned: AuditOptions['sign'] = () => {
  throw new Error('no identity')
}

export interface Opened {
  readonly audit: AuditLog
  readonly clock: FakeClock
  readonly disk: FakeFileSystem
  readonly errors: string[]
}

export async function openLog(disk = new FakeFileSystem(), over: Partial<AuditOptions> = {}): Promise<Opened> {
  const clock = new FakeClock()
  const errors: string[] = []
  const log = { info: () => {}, error: (_: object, message: string) => void errors.push(message) }
  const base = { directory, clock, log, bootId: 'b0', atomic: new AtomicFiles(disk), files: disk, show: () => {}, sign: unsigned }
  return { audit: await AuditLog.open({ ...base, ...over }), clock, disk, errors }
}

/** Every record that is on disk by the log's own account, followed as one chain. */
export async function recordsOf({ audit }: Pick<Opened, 'audit'>): Promise<AuditRecord[]> {
  const { oldest, head } = audit.status
  const lines = await linesOf({ audit })
  const first = lines[0] ? (JSON.parse(Buffer.from(lines[0]).toString()) as AuditRecord) : undefined
  const chain = new Chain(first ? { sequence: first.sequence - 1, hash: first.previous } : undefined)
  const records = lines.map((line) => chain.follow(line))
  if (records.length > 0 && (records[0]?.sequence !== oldest || chain.head.hash !== head.hash)) throw new Error('the log is not what its status says')
  return records
}

export async function linesOf({ audit }: Pick<Opened, 'audit'>): Promise<Uint8Array[]> {
  const { oldest, head } = audit.status
  const found: Uint8Array[] = []
  for await (const lines of audit.read(Math.max(1, oldest), head.sequence)) found.push(...lines)
  return found
}

/** The records of an open log without those that the log makes about itself. */
export async function eventsOf(opened: Pick<Opened, 'audit'>): Promise<AuditRecord[]> {
  return (await recordsOf(opened)).filter(({ decision }) => decision !== 'note')
}
