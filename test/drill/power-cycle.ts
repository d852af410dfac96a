/**
 * A device loses its power and gets it back: it has to boot over the network, enrol, get its services and configuration, and bring its
 * BGP sessions up again, with nobody's help.
 *
 *   npm run drill -- power-cycle [--json] [--local] [--sabotage forget]
 *
 * `--sabotage forget` takes the device's desired state away first: the drill must then fail.
 */
import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf } from '../../core/errors.ts'
import { bringUp, inSync, type Lab, type LabContext, meshUp } from '../../fleet/lab/bring-up.ts'
import { meshConfig } from '../../fleet/lab/mesh.ts'
import { Undo } from '../../fleet/lab/undo.ts'

export interface PowerCycle {
  /** From power-on to the agent's answering its API. */
  readonly powerOnToServingSeconds: number
  /** From power-on to all services and the configuration back in place, as the controller saw it. */
  readonly powerOnToInSyncSeconds: number
  /** Services seen running afterwards on the device. */
  readonly services: number
  /** Established ends of BGP sessions in the lab afterwards that have carried a route. */
  readonly bgpSessionEnds: number
}

const SERVING_TIMEOUT_MS = 5 * 60_000

/** Cuts the power of the lab's first device and gives it back. @throws when the device does not come back */
export async function powerCycle(lab: Lab, context: Omit<LabContext, 'undo'>): Promise<PowerCycle> {
  const [machine] = lab.machines
  if (!machine) throw new Error('a lab without devices')
  const { id } = machine.device
  await machine.powerOff()
  context.say(`${id}: power cut`)
  await machine.powerOn()
  const powerOnToServingSeconds = await machine.secondsToServing(SERVING_TIMEOUT_MS)
  context.say(`${id}: serving ${powerOnToServingSeconds.toFixed(1)} s after power-on`)
  await inSync(lab.client, [machine], context)
  const powerOnToInSyncSeconds = machine.secondsSincePowerOn()
  await lab.observer.next(context.signal)
  await meshUp(lab.observer, lab.expected, context)
  const { devices } = await lab.observer.next(context.signal)
  return {
    powerOnToServingSeconds,
    powerOnToInSyncSeconds,
    services: Object.keys(devices[id]?.look?.services ?? {}).length,
    bgpSessionEnds: Object.values(devices).flatMap((device) => Object.values(device.look?.sessions ?? {}).filter((routes) => routes > 0)).length,
  }
}

/** Whether a cycle ended as it should. */
export function passed(lab: Lab, seen: PowerCycle): boolean {
  return seen.services === lab.expected.services && seen.bgpSessionEnds === lab.devices.length * (lab.devices.length - 1)
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { json: { type: 'boolean' }, local: { type: 'boolean', default: false }, sabotage: { type: 'string' } } })
  const home = mkdtempSync(join(tmpdir(), 'offbox-drill-'))
  const undo = new Undo()
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop.abort(new Error(`stopped by ${signal}`)))
  const context = { say: (text: string) => void process.stderr.write(`${text}\n`), signal: stop.signal }
  try {
    const lab = await bringUp({ home, devices: 2, local: values.local }, { ...context, undo })
    const [first] = lab.devices
    if (values.sabotage === 'forget' && first) await lab.client.register(first, [], meshConfig(first, lab.devices))
    const seen = await powerCycle(lab, context)
    const ok = passed(lab, seen)
    process.stdout.write(`${ok ? 'passed' : 'FAILED'}: ${JSON.stringify(seen)}\n`)
    if (values.json) process.stdout.write(`${JSON.stringify({ boot: lab.boot, ...seen, passed: ok })}\n`)
    return ok ? 0 : 1
  } catch (error) {
    process.stdout.write(`FAILED: ${messageOf(error)}\n`)
    if (values.json) process.stdout.write(`${JSON.stringify({ passed: false })}\n`)
    return 1
  } finally {
    for (const what of await undo.run()) process.stderr.write(`could not clean up: ${what}\n`)
    await rm(home, { recursive: true, force: true })
  }
}

if (process.argv[1] === import.meta.filename) process.exit(await main())
