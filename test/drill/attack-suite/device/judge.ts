/** Meets a running device with one attack, and finds out what became of it and of the device. */
import { isDeepStrictEqual } from 'node:util'
import { codeOf, type ErrorCode, messageOf } from '../../../../core/errors.ts'
import type { Heights } from '../../../../core/trust/heights.ts'
import { type Kept, SetUpFailed } from '../attack.ts'
import type { Belief, DeviceScene } from './scene.ts'

/** A defence of the agent that a build can be made without. */
export type DeviceDefence = 'signatures' | 'expiry' | 'witness' | 'policy' | 'bundle-signature' | 'wall-clock' | 'upload-size'

export interface DeviceAttack {
  /** "class: what is done". */
  readonly name: string
  /** Codes that it must be refused with: one of them. */
  readonly refused: readonly ErrorCode[]
  /** What the refusal must say, where other checks refuse with the same code. */
  readonly why?: RegExp
  /** Defence without which this attack is accepted. */
  readonly heldBy?: DeviceDefence | undefined
  readonly keeps?: readonly Kept[]
  /** Takes minutes, by its nature. */
  readonly slow?: true
  /** What the device is or has is another afterwards, by the case itself: only what it runs is looked at. */
  readonly reboots?: true
  /** Resolves when the attack went through. */
  run(scene: DeviceScene): Promise<unknown>
}

/** `went`: "refused" is all that is good. */
export interface Outcome {
  readonly went: 'refused' | 'accepted' | 'misnamed' | 'changed' | 'stuck'
  readonly code?: ErrorCode
  readonly detail: string
}

/** @param major of the versions of this case; higher than any before on this device @throws SetUpFailed there was no attack */
export async function meetDevice(attack: DeviceAttack, scene: DeviceScene, major: number): Promise<Outcome> {
  const { honest } = scene
  honest.major = major
  const fork = honest.fork()
  scene.repository = fork
  scene.enroller = scene.truthful
  await scene.mark()
  let refusal: { code: ErrorCode; message: string } | null
  try {
    await attack.run(scene)
    refusal = null
  } catch (error) {
    if (error instanceof SetUpFailed) throw error
    refusal = { code: codeOf(error), message: messageOf(error) }
  }
  if (!refusal) return { went: 'accepted', detail: '' }
  const { code, message } = refusal
  const said = `${code}: ${message}`
  if (!attack.refused.includes(code) || attack.why?.test(message) === false) return { went: 'misnamed', code, detail: said }
  const after = await scene.belief()
  const changed = changes(scene.before, after, attack)
  if (changed.length > 0) return { went: 'changed', code, detail: `${changed.join('; ')} (${said})` }
  try {
    honest.recover(fork, highest(after.trust, scene.witness.heights))
    // The device may have forgotten more than the witness has.
    honest.rootKnown = Math.max(1, after.trust.rootVersion)
    await scene.goOn()
  } catch (error) {
    return { went: 'stuck', code, detail: `the honest order after it: ${messageOf(error)}` }
  }
  return { went: 'refused', code, detail: message }
}

/** What the owners have to go on above: a device may have forgotten what the witness has not. */
function highest({ rootVersion, heights }: Belief['trust'], witnessed: Heights | null): { rootVersion: number; heights: Record<string, number> } {
  const { root = 0, timestamp = 0, snapshot = 0, targets = {} } = witnessed ?? {}
  const all: Record<string, number> = { ...heights }
  for (const [role, version] of Object.entries({ ...targets, timestamp, snapshot })) all[role] = Math.max(all[role] ?? 0, version)
  return { rootVersion: Math.max(rootVersion, root), heights: all }
}

/** What is another than before, in words. */
function changes(before: Belief, after: Belief, { keeps = [], reboots }: DeviceAttack): string[] {
  const found: string[] = []
  if (!isDeepStrictEqual(before.services, after.services))
    found.push(`it runs ${JSON.stringify(after.services)} in place of ${JSON.stringify(before.services)}`)
  if (after.open.length > 0) found.push(`open changes ${after.open.join(', ')}`)
  const names = new Set([...Object.keys(before.trust.heights), ...Object.keys(after.trust.heights)])
  const height = (belief: Belief, name: string) => belief.trust.heights[name] ?? 0
  for (const name of names) {
    const [one, other] = [height(before, name), height(after, name)]
    const mayMove = keeps.includes('snapshot') || (keeps.includes('timestamp') && ['timestamp', 'snapshot'].includes(name))
    if (one !== other && !mayMove) found.push(`${name} went from ${one} to ${other}`)
  }
  const same = (what: 'rootVersion' | 'policyVersion' | 'policySha256' | 'needsWitness', kept: Kept | null) => {
    if (before.trust[what] !== after.trust[what] && !(kept && keeps.includes(kept)))
      found.push(`${what} went from ${before.trust[what]} to ${after.trust[what]}`)
  }
  same('rootVersion', 'root')
  same('policyVersion', 'policy')
  same('policySha256', 'policy')
  if (reboots) return found
  same('needsWitness', null)
  const paths = new Set([...Object.keys(before.files), ...Object.keys(after.files)])
  for (const path of paths) {
    const mayMove = keeps.length > 0 && /\/trust\/tuf\/[ab]$/.test(path)
    if (before.files[path] !== after.files[path] && !mayMove) found.push(`${path} is another`)
  }
  return found
}
