/** All attacks on a running device, in the order in which they are tried. */
import type { StagedAttack } from '../attack.ts'
import { EXCESSES } from '../excesses.ts'
import { FORGERIES } from '../forgeries.ts'
import { REPLAYS } from '../replays.ts'
import { FLOODS } from './floods.ts'
import type { DeviceAttack, DeviceDefence } from './judge.ts'
import { KEYS } from './keys.ts'
import { STOLEN } from './stolen.ts'
import { STORES } from './stores.ts'

const HELD: readonly string[] = ['signatures', 'expiry'] satisfies DeviceDefence[]

/** What meets the verifier by itself meets a device as well. */
function onDevice({ heldBy, ...attack }: StagedAttack): DeviceAttack {
  return { ...attack, heldBy: HELD.includes(heldBy ?? '') ? (heldBy as DeviceDefence) : undefined }
}

export const DEVICE_ATTACKS: readonly DeviceAttack[] = [...[...FORGERIES, ...REPLAYS, ...EXCESSES].map(onDevice), ...STOLEN, ...KEYS, ...FLOODS, ...STORES]
