/** What a rollout does next. Pure: one canary, then the rest one by one; the first failure stops it, an abort ends it. */
import type { DeviceState, Rollout, RolloutDevice, RolloutState } from './state.ts'

export type NextStep =
  /** Take this device (further); it is the only one in the middle of anything. */
  | { readonly do: 'advance'; readonly deviceId: string }
  /** Undo what is under way on this device. */
  | { readonly do: 'undo'; readonly deviceId: string }
  | { readonly do: 'end'; readonly state: RolloutState; readonly reason: string }

const IN_FLIGHT: readonly DeviceState[] = ['upgrading', 'baking', 'confirming']
const FAILED: readonly DeviceState[] = ['reverted', 'failed']

export function nextStep(rollout: Rollout): NextStep {
  const { devices, state, service, version } = rollout
  const inFlight = devices.find((device) => IN_FLIGHT.includes(device.state))
  if (inFlight) return { do: state === 'aborting' ? 'undo' : 'advance', deviceId: inFlight.deviceId }
  const done = devices.filter((device) => device.state === 'done').length
  if (state === 'aborting') return { do: 'end', state: 'aborted', reason: `${rollout.reason}; ${done} of ${devices.length} devices run ${version}` }
  const failed = devices.find((device) => FAILED.includes(device.state))
  if (failed) {
    const what = failed.canary ? `the canary ${failed.deviceId}` : failed.deviceId
    const error = failed.error ? `${failed.error}: ` : ''
    const next = adviceFor(failed)
    return { do: 'end', state: 'stopped', reason: `stopped at ${what} (${failed.state}), ${done} of ${devices.length} done: ${error}${failed.reason}. ${next}` }
  }
  const pending = devices.find((device) => device.state === 'pending')
  if (pending) return { do: 'advance', deviceId: pending.deviceId }
  return { do: 'end', state: 'succeeded', reason: `${devices.length} of ${devices.length} devices run ${service} ${version}` }
}

function adviceFor(failed: RolloutDevice): string {
  if (failed.state === 'reverted') return 'It runs the version before; fix the bundle, raise its version and start a new rollout'
  if (failed.error === 'DEVICE_UNREACHABLE') return 'Check its power and network, then start the rollout again: devices that are done are left alone'
  return 'Mend the cause, then start the rollout again: devices that are done are left alone'
}

/** The last words on devices that the end of the rollout leaves untouched. */
export function skipRest(rollout: Rollout, atMs: number): readonly RolloutDevice[] {
  const why = rollout.state === 'aborting' ? 'the rollout was aborted' : 'the rollout stopped before it'
  return rollout.devices.map((device) => (device.state === 'pending' ? { ...device, state: 'skipped', reason: why, atMs } : device))
}

/** What the first look at a device says before an attempt. */
export type Opening =
  | { readonly do: 'upgrade' }
  /** It runs the version already. */
  | { readonly do: 'done' }
  /** An attempt of ours, from before the controller restarted, is live. */
  | { readonly do: 'resume'; readonly changeId: string }
  /** Something is under way that has to end first. */
  | { readonly do: 'wait'; readonly reason: string }
  | { readonly do: 'fail'; readonly error: string; readonly reason: string }

export interface OpeningInput {
  readonly version: string
  /** Reason in our orders of this attempt (orderReason); empty before the first. */
  readonly tag: string
  readonly seen: {
    readonly version: string
    readonly change: { readonly id: string; readonly to: string; readonly reason: string; readonly state: string } | null
  } | null
}

export function opening({ version, tag, seen }: OpeningInput): Opening {
  if (!seen) return { do: 'fail', error: 'SERVICE_NOT_FOUND', reason: 'the device does not run the service; an upgrade needs a version to start from' }
  const { change } = seen
  const ours = change !== null && tag !== '' && change.reason === tag && change.to === version
  if (change?.state === 'provisional' && ours) return { do: 'resume', changeId: change.id }
  if (change?.state === 'provisional' || change?.state === 'pending') {
    return { do: 'wait', reason: `change ${change.id} to ${change.to} is not finished (${change.reason})` }
  }
  return seen.version === version ? { do: 'done' } : { do: 'upgrade' }
}

/** Stands in the change on the device: by it a controller that restarted knows its own step. */
export function orderReason(rolloutId: string, attempt: number): string {
  return `rollout ${rolloutId} attempt ${attempt}`
}

/** Whether one more attempt is due after the trace of the last one was lost. */
export const attemptsMax = 2
