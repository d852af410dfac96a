/** Meets the verifier alone with its attacks. */
import { codeOf, messageOf } from '../../../core/errors.ts'
import { type Attack, AttackScene, SetUpFailed } from './attack.ts'
import { EXCESSES, VERIFIER_EXCESSES } from './excesses.ts'
import { FORGERIES } from './forgeries.ts'
import { REPLAYS, VERIFIER_REPLAYS } from './replays.ts'
import { type SABOTAGES, switchOff } from './sabotage.ts'

const ATTACKS: readonly Attack[] = [...FORGERIES, ...REPLAYS, ...VERIFIER_REPLAYS, ...EXCESSES, ...VERIFIER_EXCESSES]

interface Options {
  readonly only: string
  readonly sabotage: (typeof SABOTAGES)[number] | null
  readonly say: (text: string) => void
  /** Tell also of what was refused as it should be. */
  readonly all: boolean
}

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

/** A sabotage lasts for the rest of the process. */
export async function meetVerifier({ only, sabotage, say, all }: Options): Promise<{ attacks: number; accepted: string[]; misnamed: string[] }> {
  if (sabotage) switchOff(sabotage)
  const defence = sabotage === 'tuf-js' || sabotage === 'second-lock' ? null : sabotage
  const attacks = ATTACKS.filter(({ name, heldBy }) => name.includes(only) && (!defence || heldBy === defence))
  const accepted: string[] = []
  const misnamed: string[] = []
  for (const attack of attacks) {
    const refused = await meet(attack)
    if (!refused) accepted.push(attack.name)
    else if (!attack.refused.includes(refused.code as never) || attack.why?.test(refused.message) === false) misnamed.push(attack.name)
    const expected = [attack.refused.join(' or '), attack.why].filter(Boolean).join(' ')
    if (!refused) say(`ACCEPTED   ${attack.name}`)
    else if (misnamed.at(-1) === attack.name) say(`MISNAMED   ${attack.name}: ${refused.code} in place of ${expected}: ${refused.message}`)
    else if (all) say(`refused    ${attack.name}: ${refused.code}`)
  }
  return { attacks: attacks.length, accepted, misnamed }
}
