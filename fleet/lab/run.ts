/** The lab's main job: bring it up, roll a new version across it under load, and judge what was seen. */
import { bringUp, type Lab, type LabContext } from './bring-up.ts'
import { ROLLED } from './build.ts'
import { complaints, figuresOf, type LabFigures } from './figures.ts'
import type { Observation } from './observer.ts'
import type { LabOptions } from './options.ts'
import { whatToTryNext } from './whats-next.ts'

export interface LabRun extends LabContext {
  readonly options: LabOptions
  readonly elapsedSeconds: () => number
}

export interface LabVerdict {
  readonly figures: LabFigures
  readonly complaints: readonly string[]
}

const SETTLE_TIMEOUT_MS = 60_000
/** The rollout's bake: long enough to see a version fail, short enough to watch. */
const BAKE_MS = 5_000

/** Resolves once the verdict is there; with `once` false only when `signal` aborts after it. Clean-up is in `undo`. */
export async function runLab(run: LabRun): Promise<LabVerdict> {
  const { options, say, signal } = run
  const lab = await bringUp(options, run)
  await upgrade(run, lab)
  const observed = await settle(run, lab)
  const figures = figuresOf(lab.boot, observed, lab.expected, run.elapsedSeconds())
  const found = complaints(observed, figures, lab.expected)
  summary(say, observed, figures)
  if (!options.once && found.length === 0) {
    whatToTryNext({ say, home: lab.home, devices: lab.devices })
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
  }
  return { figures, complaints: found }
}

async function upgrade({ say, signal }: LabRun, { client, bundles, observer, devices }: Lab): Promise<void> {
  const before = Object.values(observer.last.devices).reduce((sum, device) => sum + device.calls, 0)
  say(`rolling ${ROLLED} ${bundles.fromVersion} → ${bundles.toVersion} out, canary first; the client has made ${before} calls and goes on`)
  const shown = new Map<string, string>()
  // By name: the home may remember devices of an earlier, larger lab.
  const deviceIds = devices.map((one) => one.id)
  for await (const rollout of client.rollOut({ service: ROLLED, version: bundles.toVersion, bakeMs: BAKE_MS, deviceIds }, signal)) {
    for (const device of rollout.devices) {
      if (shown.get(device.deviceId) === device.state || device.state === 'pending') continue
      shown.set(device.deviceId, device.state)
      const held = device.state === 'baking' ? ` (calls held for ${device.heldMs.toFixed(1)} ms)` : ''
      say(`  ${device.deviceId}${device.canary ? ' (canary)' : ''} ${device.state}${held}${device.error ? `: ${device.error}: ${device.reason}` : ''}`)
    }
    if (rollout.state !== 'running') say(`rollout ${rollout.rolloutId} ${rollout.state}${rollout.reason ? `: ${rollout.reason}` : ''}`)
  }
}

/** Lets the client go on until nothing is left to complain of, or time is up. Answers its last words. */
async function settle({ signal }: LabRun, { observer, boot, expected }: Lab): Promise<Observation> {
  await observer.until((seen) => complaints(seen, figuresOf(boot, seen, expected, 0), expected).length === 0, SETTLE_TIMEOUT_MS, signal)
  return await observer.stop()
}

function summary(say: (text: string) => void, observed: Observation, figures: LabFigures): void {
  for (const [id, device] of Object.entries(observed.devices)) {
    const versions = Object.entries(device.byVersion).map(([version, calls]) => `${calls} by ${version}`)
    say(
      `  ${id}: ${device.calls} calls (${versions.join(', ')}), ${device.failed} failed, ${device.duplicates} duplicates; ${Object.keys(device.look?.sessions ?? {}).length} sessions, ${device.look?.routesLearned ?? 0} routes learned`,
    )
  }
  say(
    `${figures.upgraded} of ${figures.devices} devices upgraded, ${figures.calls} calls, ${figures.failedCalls} failed, ${figures.duplicates} duplicates, in ${figures.seconds} s`,
  )
}
