/** offbox.v1.Trust: what this device believes of its fleet's repository, and how it learns more. */
import { OffboxError } from '../../core/errors.ts'
import { timeAt } from '../../core/trust/time.ts'
import { TrustMethods, type TrustStatusInit } from '../../proto/gen/trust.ts'
import { updatesMax } from '../limits.ts'
import type { DeviceTrust } from '../trust/device-trust.ts'
import { evidenceOf } from '../trust/evidence.ts'
import type { Serve } from './serve.ts'

export function serveTrust(serve: Serve, trust: DeviceTrust): void {
  serve.unary(TrustMethods.Status, () => statusOf(trust))
  serve.unary(TrustMethods.Challenge, () => ({ nonce: trust.require().challenge() }))
  serve.unary(TrustMethods.Attest, async ({ statement, keyId, signature }) => {
    await trust.require().acceptStatement({ statement: new Uint8Array(statement), keyId, signature: new Uint8Array(signature) })
    return statusOf(trust)
  })
  let updates = 0
  serve.unary(TrustMethods.Update, async (update) => {
    const tuf = trust.require()
    if (updates >= updatesMax) throw new OffboxError('LIMIT_REACHED', `${updatesMax} updates are under way`)
    updates += 1
    try {
      const { metadata, policy } = evidenceOf(update)
      await tuf.update(metadata, [], policy)
      return statusOf(trust)
    } finally {
      updates -= 1
    }
  })
}

function statusOf({ tuf }: DeviceTrust): TrustStatusInit {
  if (!tuf) return { enforced: false }
  const { heights, policy } = tuf
  const marks = tuf.time.marks()
  const seen = heights ? { timestamp: heights.timestamp, snapshot: heights.snapshot, ...heights.targets } : {}
  return {
    enforced: true,
    rootVersion: tuf.rootVersion,
    heights: seen,
    timeMs: timeAt(marks, heights?.keys),
    timeSources: Object.fromEntries(marks.map(({ source, nowMs }) => [source, nowMs])),
    witnessNeed: tuf.witnessNeed,
    needsWitness: tuf.needsWitness,
    policyVersion: policy?.policy.version ?? 0,
    policySha256: policy?.sha256 ?? '',
    problems: [...tuf.problems],
    expiresMs: tuf.expiresMs,
  }
}
