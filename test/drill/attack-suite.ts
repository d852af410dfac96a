/**
 * Attacks on what a device believes of its repository: each must be refused with the code that says why. The device is the real TufTrust
 * with the real tuf-js, over a disk in memory.
 *
 *   npm run drill -- attack-suite [--json] [--only WORD] [--sabotage signatures|expiry|memory|digests|witness|paths|tuf-js|second-lock]
 *
 * `--sabotage X` switches a defence off and meets the attacks that it alone holds; the drill must then fail, with every one of them accepted.
 * Two locks count signatures: without one of them (tuf-js, second-lock) everything must still be refused.
 */
import { parseArgs } from 'node:util'
import { codeOf, messageOf } from '../../core/errors.ts'
import { type Attack, AttackScene, SetUpFailed } from './attack-suite/attack.ts'
import { FORGERIES } from './attack-suite/forgeries.ts'
import { EXCESSES, REPLAYS } from './attack-suite/replays.ts'
import { SABOTAGES, switchOff } from './attack-suite/sabotage.ts'

const ATTACKS: readonly Attack[] = [...FORGERIES, ...REPLAYS, ...EXCESSES]
const say = (text: string) => void process.stderr.write(`${text}\n`)

/** The code it was refused with; null when it went through. */
async function meet(attack: Attack): Promise<{ code: string; message: string } | null> {
  const scene = new AttackScene()
  try {
    await attack.run(scene)
    return null
  } catch (error) {
    if (error instanceof SetUpFailed) throw new Error(`${attack.name}: ${error.message}`, { cause: error })
    return { code: codeOf(error), message: messageOf(error) }
  } finally {
    await scene.close()
  }
}

async function main(): Promise<number> {
  const options = { json: { type: 'boolean' }, only: { type: 'string', default: '' }, sabotage: { type: 'string' } } as const
  const { values } = parseArgs({ options })
  const sabotage = SABOTAGES.find((name) => name === values.sabotage)
  if (values.sabotage !== undefined && !sabotage) {
    say(`--sabotage must be of ${SABOTAGES.join(', ')}`)
    return 2
  }
  if (sabotage) switchOff(sabotage)
  const defence = sabotage === 'tuf-js' || sabotage === 'second-lock' ? undefined : sabotage
  const attacks = ATTACKS.filter(({ name, heldBy }) => name.includes(values.only) && (!defence || heldBy === defence))
  const accepted: string[] = []
  const misnamed: string[] = []
  for (const attack of attacks) {
    const refused = await meet(attack)
    if (!refused) accepted.push(attack.name)
    else if (!attack.refused.includes(refused.code as never) || attack.why?.test(refused.message) === false) misnamed.push(attack.name)
    const expected = [attack.refused.join(' or '), attack.why].filter(Boolean).join(' ')
    if (!refused) say(`ACCEPTED   ${attack.name}`)
    else if (misnamed.at(-1) === attack.name) say(`MISNAMED   ${attack.name}: ${refused.code} in place of ${expected}: ${refused.message}`)
    else if (!values.json) say(`refused    ${attack.name}: ${refused.code}`)
  }
  const verdict = { attacks: attacks.length, refused: attacks.length - accepted.length, misnamed: misnamed.length, accepted }
  process.stdout.write(values.json ? `${JSON.stringify(verdict)}\n` : `${verdict.refused} of ${verdict.attacks} attacks refused\n`)
  return accepted.length === 0 && misnamed.length === 0 && attacks.length > 0 ? 0 : 1
}

process.exitCode = await main()
