/** Looks at a device that has come back: at its answers, and past them at its disk. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { ChangeRecord } from '../../../agent/change/types.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { messageOf } from '../../../core/errors.ts'
import { LifecycleMethods, ServiceState } from '../../../proto/gen/lifecycle.ts'
import { checkReceipts } from '../../../fleet/device/receipts.ts'
import { ask, FLEET, type Lab } from '../../agent/agent-process.ts'
import { type Device, type DrillLab, SERVICE } from './device.ts'

export interface Verdict {
  /** The version that must be there is not, or does not answer. */
  readonly lost: string[]
  /** More than one version is there, running or stored. */
  readonly twoActive: string[]
  /** Something on the disk is damaged, left over, or says otherwise than what runs. */
  readonly corrupt: string[]
  /** What runs. */
  readonly active: string | undefined
}

const settleTimeoutMs = 60_000

/**
 * @param allowed what may run; undefined: nothing
 * @param journalled false where the disk failed: a settled change whose end cannot be written is dropped from the journal instead
 */
export async function judge({ lab }: DrillLab, device: Device, allowed: readonly (string | undefined)[], journalled: boolean): Promise<Verdict> {
  const lost: string[] = []
  const twoActive: string[] = []
  const corrupt: string[] = []
  const rows = await settled(device)
  const wanted = allowed.map((version) => version ?? 'nothing').join(' or ')
  if (rows.length > 1) twoActive.push(`${rows.length} services are listed`)
  const [row] = rows
  if (row?.previousVersion) twoActive.push(`${row.previousVersion} is kept beside ${row.version}`)
  const active = row?.version
  if (row && row.state !== ServiceState.READY) lost.push(`${row.version} is in state ${row.state}`)
  else if (row) {
    const answer = await device.connected(async (client) => await ask(lab, client, '/test.Counter/Next')).catch((error) => `no answer: ${messageOf(error)}`)
    if (!new RegExp(`^${row.version.replaceAll('.', '\\.')} \\d+$`).test(answer)) lost.push(`${row.version} answers ${JSON.stringify(answer)}`)
  }
  if (!allowed.includes(active)) lost.push(`${active ?? 'nothing'} runs, not ${wanted}`)

  const files = new AtomicFiles()
  const bundles = join(device.stateDir, 'bundles', SERVICE)
  const stored = await namesIn(bundles)
  const lastGood = (await files.readJson(join(bundles, 'last-good')).catch(() => null)) as { version: string } | null
  const kept = lastGood ? [...new Set([`${active}.offbox`, `${lastGood.version}.offbox`]), 'last-good'] : [`${active}.offbox`]
  const whole = active === undefined ? [] : [...kept, 'active'].toSorted()
  if (stored.filter((name) => name.endsWith('.offbox')).length > (lastGood ? 2 : 1)) twoActive.push(`stored: ${stored.join(' ')}`)
  else if (stored.toSorted().join(' ') !== whole.join(' ')) corrupt.push(`stored: ${stored.join(' ')}, while ${active ?? 'nothing'} runs`)
  for (const name of stored) await files.read(join(bundles, name)).catch((error) => corrupt.push(messageOf(error)))
  const note = (await files.readJson(join(bundles, 'active')).catch(() => null)) as { version: string } | null
  if (note?.version !== active) corrupt.push(`${note?.version ?? 'nothing'} is stored as active, while ${active ?? 'nothing'} runs`)

  const changes = join(device.stateDir, 'changes')
  for (const name of await namesIn(changes)) if (!/^c-\d{10}$/.test(name)) corrupt.push(`in the journal: ${name}`)
  const receipts = await receiptsOf(lab, device, journalled).catch((error) => [messageOf(error)])
  corrupt.push(...receipts)
  const records = await journal(device).catch((error) => {
    corrupt.push(messageOf(error))
    return []
  })
  for (const { id, state, settled } of records) if (!settled) corrupt.push(`change ${id} stays ${state}`)
  const last = records.at(-1)
  const said = last && ((last.state === 'confirmed' ? last.to : last.from) || undefined)
  if (journalled && last && said !== active)
    corrupt.push(`change ${last.id} (${last.kind} ${last.from}→${last.to}) is ${last.state}, while ${active ?? 'nothing'} runs`)
  return { lost, twoActive, corrupt, active }
}

/** The services, once none of them is about to become something else and no change is open; as they are after a minute. */
async function settled(device: Device) {
  const deadline = Date.now() + settleTimeoutMs
  for (;;) {
    const { services } = await device.connected(async (client) => await client.unary(LifecycleMethods.List, {}))
    const open = (await journal(device).catch(() => [])).some((record) => !record.settled || record.receipt === 'owed')
    if (Date.now() > deadline || (!open && services.every(({ state }) => state === ServiceState.READY))) return services
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/**
 * What is wrong with the receipts: every change that ended has exactly one, and they make one chain that the device signed.
 * @param journalled false where the disk failed: a change that was dropped from the journal leaves its receipt alone
 */
async function receiptsOf(lab: Lab, device: Device, journalled: boolean): Promise<string[]> {
  const wrong: string[] = []
  const made = (await namesIn(join(device.stateDir, 'receipts'))).map((name) => /^r-\d{10}-(c-\d{10})$/.exec(name)?.[1] ?? `none: ${name}`)
  const ended = (await journal(device)).filter(({ settled, kind }) => settled && kind !== 'config' && kind !== 'certificate').map(({ id }) => id)
  for (const id of ended) {
    const count = made.filter((one) => one === id).length
    if (count !== 1) wrong.push(`change ${id} has ${count} receipts`)
  }
  if (new Set(made).size !== made.length) wrong.push(`a change has two receipts: ${made.join(' ')}`)
  if (journalled) for (const id of made.slice(-ended.length)) if (!ended.includes(id)) wrong.push(`there is a receipt of ${id}, which has not ended`)
  const { receipts } = await device.connected(async (client) => await client.unary(LifecycleMethods.Receipts, {}))
  const { gaps } = checkReceipts(receipts, { fleet: FLEET, caPem: lab.ca.certificatePem, deviceId: 'sw1' })
  return [...wrong, ...gaps]
}

/** Oldest first. @throws STORE_CORRUPT */
async function journal(device: Device): Promise<ChangeRecord[]> {
  const directory = join(device.stateDir, 'changes')
  // Steps of a change that is open have a file beside it.
  const names = (await namesIn(directory)).filter((name) => /^c-\d{10}$/.test(name)).sort()
  const records = await Promise.all(names.map(async (name) => (await new AtomicFiles().readJson(join(directory, name))) as ChangeRecord | null))
  return records.flatMap((record) => record ?? [])
}

async function namesIn(directory: string): Promise<string[]> {
  return await readdir(directory).catch((error) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
}
