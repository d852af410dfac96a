/** Tries attacks on devices: some lanes side by side, each with a device that meets one attack after another, as long as it stands. */
import { messageOf } from '../../../../core/errors.ts'
import { makeFleet } from './fleet.ts'
import { type DeviceAttack, type DeviceDefence, meetDevice, type Outcome } from './judge.ts'
import { withoutDefence } from './sabotage.ts'
import { DeviceScene } from './scene.ts'

/** Two cores: more would only wait for one another. */
const LANES = 3

export interface DeviceResult {
  readonly attack: DeviceAttack
  /** "untried": a set-up failed, which is an error of the drill. */
  readonly outcome: Outcome | { readonly went: 'untried'; readonly detail: string; readonly code?: undefined }
}

/** @param told of each as it ends; the answer is in the order of `attacks` */
export async function attackDevices(
  attacks: readonly DeviceAttack[],
  options: { sabotage: DeviceDefence | null; told: (result: DeviceResult) => void },
): Promise<readonly DeviceResult[]> {
  const fleet = await makeFleet(options.sabotage ? withoutDefence(options.sabotage) : [])
  const results = new Map<DeviceAttack, DeviceResult>()
  let devices = 0
  const lane = async (queue: DeviceAttack[]) => {
    let [scene, major]: [DeviceScene | null, number] = [null, 0]
    try {
      for (let attack = queue.shift(); attack; attack = queue.shift()) {
        let outcome: DeviceResult['outcome']
        try {
          if (!scene) {
            devices += 1
            major = 1
            scene = await DeviceScene.open(fleet, `sw${devices}`)
            await scene.goOn()
          }
          major += 1
          outcome = await meetDevice(attack, scene, major)
        } catch (error) {
          outcome = { went: 'untried', detail: messageOf(error) }
        }
        const result = { attack, outcome }
        results.set(attack, result)
        options.told(result)
        if (outcome.went === 'refused') continue
        await scene?.close()
        scene = null
      }
    } finally {
      await scene?.close()
    }
  }
  try {
    const [slow, others] = [attacks.filter((one) => one.slow), attacks.filter((one) => !one.slow)]
    await Promise.all([...slow.map(async (one) => await lane([one])), ...Array.from({ length: LANES }, async () => await lane(others))])
  } finally {
    await fleet.close()
  }
  return attacks.flatMap((attack) => results.get(attack) ?? [])
}
