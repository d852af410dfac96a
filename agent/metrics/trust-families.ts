/** What the device believes of its fleet's repository, in numbers. Nothing without trust anchors. Pure. */
import type { Family } from './open-metrics.ts'

export interface TrustNumbers {
  /** When the timestamp in force expires, Unix milliseconds; 0: there is none. */
  readonly expiresMs: number
  /** Trusted time, Unix milliseconds. */
  readonly nowMs: number
  readonly needsWitness: boolean
  readonly rootVersion: number
  /** 0: there is none. */
  readonly policyVersion: number
}

/** @param read null without trust anchors */
export function trustFamilies(read: () => TrustNumbers | null): Family[] {
  const one = (value: (numbers: TrustNumbers) => number | null) => () => {
    const numbers = read()
    const found = numbers && value(numbers)
    return found === null ? [] : [{ value: found }]
  }
  return [
    {
      name: 'offbox_trust_expires_seconds',
      type: 'gauge',
      unit: 'seconds',
      help: 'Until the metadata at hand expires, by trusted time; below 0 nothing new runs.',
      read: one(({ expiresMs, nowMs }) => (expiresMs === 0 ? null : (expiresMs - nowMs) / 1_000)),
    },
    {
      name: 'offbox_trust_needs_witness',
      type: 'gauge',
      help: '1 while nothing new is taken before the witness has answered.',
      read: one(({ needsWitness }) => Number(needsWitness)),
    },
    { name: 'offbox_trust_root_version', type: 'gauge', help: 'Version of the root in force.', read: one(({ rootVersion }) => rootVersion) },
    {
      name: 'offbox_trust_policy_version',
      type: 'gauge',
      help: 'Version of the policy in force; 0: none, so nothing runs.',
      read: one(({ policyVersion }) => policyVersion),
    },
  ]
}
