/** Switches defences off in this process: ours through their seams, those of tuf-js in its classes. */
import { Metadata, MetaFile } from '@tufjs/models'
import { DelegatedRole } from '@tufjs/models/dist/role.js'
import { DEVICE_RULES } from '../../../core/trust/rules.ts'
import { TrustedTime } from '../../../core/trust/time.ts'
import { AttackScene, type Defence } from './attack.ts'

/** One of two who count signatures; either alone must hold. */
export type Lock = 'tuf-js' | 'second-lock'

const openLock: Record<Lock, () => void> = {
  'tuf-js': () => {
    Metadata.prototype.verifyDelegate = () => {}
  },
  'second-lock': () => {
    AttackScene.rules = { ...DEVICE_RULES, requireThreshold: () => {} }
  },
}

const OFF: Record<Defence | Lock, () => void> = {
  ...openLock,
  signatures: () => {
    openLock['tuf-js']()
    openLock['second-lock']()
  },
  expiry: () => {
    TrustedTime.prototype.marks = () => [{ source: 'build', nowMs: 0, keys: null }]
  },
  memory: () => {},
  digests: () => {
    MetaFile.prototype.verify = () => {}
  },
  witness: () => {},
  paths: () => {
    DelegatedRole.prototype.isDelegatedPath = () => true
  },
}

export const SABOTAGES = Object.keys(OFF) as (Defence | Lock)[]

/** For the rest of the process. */
export function switchOff(what: Defence | Lock): void {
  OFF[what]()
  if (what !== 'tuf-js' && what !== 'second-lock') AttackScene.without = what
}
