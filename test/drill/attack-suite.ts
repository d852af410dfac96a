/**
 * Attacks on what a device runs and believes: each must be refused with the code that says why.
 *
 *   npm run drill -- attack-suite [--json] [--only WORD] [--level device|verifier] [--sabotage X]
 *
 * First list: a running device. A real agent takes orders over mutual TLS, with the certificate of the controller that was stolen. Before and after
 * each attack it runs what its owners order, and the attack must leave nothing behind. Second list: the verifier alone, over a disk in memory,
 * for what shows which of its checks holds.
 *
 * `--sabotage X` leaves a defence out and meets the attacks that it alone holds; the drill must then fail, with every one of them accepted. Of the
 * verifier: signatures, expiry, memory, digests, witness, paths; and tuf-js or second-lock, of which either alone holds. With `--level device`, of
 * the agent's own build: see attack-suite/device/sabotage.ts.
 */
import { parseArgs } from 'node:util'
import { meetVerifier } from './attack-suite/verifier.ts'
import { DEVICE_ATTACKS } from './attack-suite/device/attacks.ts'
import { attackDevices, type DeviceResult } from './attack-suite/device/run.ts'
import { DEVICE_DEFENCES } from './attack-suite/device/sabotage.ts'
import { SABOTAGES } from './attack-suite/sabotage.ts'

const say = (text: string) => void process.stderr.write(`${text}\n`)

interface Verdict {
  readonly attacks: number
  readonly refused: number
  /** Refused, but with another code than the one that says why. */
  readonly misnamed: readonly string[]
  readonly accepted: readonly string[]
}

interface DeviceVerdict extends Verdict {
  /** By class: how many were refused. */
  readonly classes: Readonly<Record<string, number>>
  /** Refused, and yet something of the device is another. */
  readonly changed: readonly string[]
  /** Refused, and yet the honest order after it was as well. */
  readonly stuck: readonly string[]
  /** Never tried, since what has to go well before them did not. */
  readonly untried: readonly string[]
}

function tell({ attack, outcome: { went, code, detail } }: DeviceResult, all: boolean): void {
  const expected = [attack.refused.join(' or '), attack.why].filter(Boolean).join(' ')
  if (went === 'refused') {
    if (all) say(`refused    ${attack.name}: ${code}`)
  } else say(`${went.toUpperCase().padEnd(10)} ${attack.name}: ${detail}${went === 'misnamed' ? ` in place of ${expected}` : ''}`)
}

async function onDevices(only: string, sabotage: string | undefined, json: boolean): Promise<DeviceVerdict> {
  const defence = DEVICE_DEFENCES.find((name) => name === sabotage) ?? null
  const attacks = DEVICE_ATTACKS.filter(({ name, heldBy }) => name.includes(only) && (!defence || heldBy === defence))
  const results = await attackDevices(attacks, { sabotage: defence, told: (result) => tell(result, !json) })
  const which = (went: string) => results.filter(({ outcome }) => outcome.went === went).map(({ attack }) => attack.name)
  const classes: Record<string, number> = {}
  const refused = which('refused')
  for (const name of refused) classes[name.split(':')[0] ?? ''] = (classes[name.split(':')[0] ?? ''] ?? 0) + 1
  const more = { changed: which('changed'), stuck: which('stuck'), untried: which('untried') }
  return { attacks: attacks.length, refused: refused.length, misnamed: which('misnamed'), accepted: which('accepted'), ...more, classes }
}

async function onVerifier(only: string, sabotage: string | undefined, json: boolean): Promise<Verdict> {
  const { attacks, accepted, misnamed } = await meetVerifier({ only, sabotage: SABOTAGES.find((name) => name === sabotage) ?? null, say, all: !json })
  return { attacks, refused: attacks - accepted.length, misnamed, accepted }
}

const isGood = ({ attacks, refused, misnamed }: Verdict) => attacks > 0 && refused === attacks && misnamed.length === 0

async function main(): Promise<number> {
  const options = {
    json: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    sabotage: { type: 'string' },
    level: { type: 'string' },
  } as const
  const { json, only, sabotage, level } = parseArgs({ options }).values
  if (level !== undefined && !['device', 'verifier'].includes(level)) {
    say('--level must be device or verifier')
    return 2
  }
  const known: readonly string[] = level === 'device' ? DEVICE_DEFENCES : SABOTAGES
  if (sabotage !== undefined && (!known.includes(sabotage) || level === undefined)) {
    say(`--sabotage goes with --level; with --level ${level ?? 'verifier'} it must be of ${known.join(', ')}`)
    return 2
  }
  const device = level === 'verifier' ? null : await onDevices(only, sabotage, json)
  const verifier = level === 'device' ? null : await onVerifier(only, sabotage, json)
  const headline = device ?? verifier
  if (!headline) return 2
  const verdict = { ...headline, ...(device && verifier ? { verifier } : {}) }
  process.stdout.write(json ? `${JSON.stringify(verdict)}\n` : `${verdict.refused} of ${verdict.attacks} attacks refused\n`)
  return [device, verifier].every((one) => one === null || isGood(one) || (device !== null && one === verifier && only !== '' && one.attacks === 0)) ? 0 : 1
}

process.exitCode = await main()
