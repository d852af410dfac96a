/** A log as the agent writes it and as the collector holds it: both real, on a real disk, with nothing but the network left out. */
import { createPrivateKey, randomBytes, sign } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Gate } from '../../../agent/api/gate.ts'
import { batchesOf, checkpointOf } from '../../../agent/audit/batches.ts'
import { AuditLog } from '../../../agent/audit/log.ts'
import { payloadOf } from '../../../agent/audit/payload.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { BEFORE_FIRST } from '../../../core/audit/chain.ts'
import type { Signed } from '../../../core/audit/statements.ts'
import { COLLECTOR_ID } from '../../../core/audit/statements.ts'
import type { AuditTrust } from '../../../core/audit/verification.ts'
import { systemClock as clock } from '../../../core/clock.ts'
import { makeCa, makeIdentity } from '../../../core/x509.ts'
import { headSigner } from '../../../fleet/audit/identity.ts'
import { AuditStore } from '../../../fleet/audit/store.ts'

const DAY_MS = 86_400_000
export const FLEET = 'lab'
export const DEVICE = 'sw1'

export interface Written {
  readonly trust: AuditTrust
  /** Of the export, without line feeds. */
  readonly lines: readonly Buffer[]
  /** What the collector signed, as somebody would keep it apart. */
  readonly head: Signed
  /** The device's own signature, for a thief of its key. */
  readonly sign: (bytes: Uint8Array) => Uint8Array
  readonly chainPem: string
}

/** @param records that the log ends up with, its own ones included */
export async function writeLog(records: number): Promise<Written> {
  const directory = await mkdtemp(join(tmpdir(), 'obx-audit-'))
  try {
    return await write(directory, records)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function write(directory: string, records: number): Promise<Written> {
  const nowMs = Date.now()
  const ca = await makeCa(FLEET, { nowMs, validMs: DAY_MS })
  const device = await makeIdentity(ca, { fleet: FLEET, role: 'device', id: DEVICE, nowMs, validMs: DAY_MS })
  const collector = await makeIdentity(ca, { fleet: FLEET, role: 'service', id: COLLECTOR_ID, nowMs, validMs: DAY_MS })
  const key = createPrivateKey(device.keyPem)
  const signs = (bytes: Uint8Array) => sign('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' })
  const trust = { fleet: FLEET, caPem: ca.certificatePem, deviceId: DEVICE }

  const log = { info: () => {}, error: () => {} }
  const audit = await AuditLog.open({
    ...{ directory: join(directory, 'device/audit'), clock, bootId: randomBytes(16).toString('hex'), atomic: new AtomicFiles(), show: () => {}, log },
    sign: (bytesFor) => ({ signature: signs(bytesFor(DEVICE)), chainPem: device.certificatePem }),
  })
  await live(audit, records)

  const store = await AuditStore.open({ directory: join(directory, 'collector'), ...trust })
  const { signal } = new AbortController()
  await store.begin('first', audit.status.chain, BEFORE_FIRST)
  for await (const batch of batchesOf(audit, { from: 1, follow: false, signal })) {
    await store.add({ records: batch.lines, checkpoint: checkpointOf(audit, batch) })
  }
  const head = await store.countersign(headSigner(collector), nowMs)
  const parts: Uint8Array[] = []
  for await (const part of store.export()) parts.push(part)
  const lines = Buffer.concat(parts).toString('latin1').trimEnd().split('\n')
  return { trust, lines: lines.map((line) => Buffer.from(line, 'latin1')), head, sign: signs, chainPem: device.certificatePem }
}

/** What a device sees in its life: reads, changes with their intents, callers without the right. */
async function live(audit: AuditLog, records: number): Promise<void> {
  const principals = ['spiffe://lab/operator/me', 'spiffe://lab/controller/main', 'spiffe://lab/device/sw2'] as const
  const connections = principals.map((spiffeId) => {
    const [, , , role = '', id = ''] = spiffeId.split('/')
    return { principal: { spiffeId, role, id }, serial: '01', openedAtMonotonicMs: 0 }
  })
  // Every seventh is the device; under 256 denials, each from an address of its own, are recorded one by one.
  const caller = (port: number) => connections[port % 7 === 3 ? 2 : port % 2]
  const gate = new Gate({ connection: (peer) => caller(Number(peer.split(':')[1])) }, audit, clock)
  const stop = 1
  for (let call = 0; audit.written + stop < records; call++) {
    const peer = { getPeer: () => `10.77.${Math.floor(call / 250)}.${call % 250}:${10_000 + call}` }
    try {
      const change = call % 5 === 0 && audit.written + stop + 2 <= records
      const admitted = gate.admit(peer, change ? '/offbox.v1.Lifecycle/Upgrade' : `/offbox.v1.Telemetry/Get${call % 7}`)
      const payload = payloadOf(Buffer.from(`request ${call}`))
      if (change) await gate.intent(admitted, payload)
      gate.finished(admitted, call % 11 === 0 ? 'SWAP_ROLLED_BACK' : 'OK', payload)
    } catch {
      // A device may call nothing here: that is the denial to be recorded.
    }
  }
  await audit.close()
}
