/**
 * What a push proves, as a function of what is known and what came: no store, no clock, nothing kept but verdicts already given. It is the
 * slow part (16 ms a signature), made so that it can run in a thread of its own.
 */
import { codeOf, type ErrorCode, messageOf, OffboxError } from '../../../core/errors.ts'
import { POLICY_PATH, POLICY_ROLE } from '../../../core/policy.ts'
import { type Documents, sourceOf } from '../../../core/trust/documents.ts'
import { type Heights, requireHeights } from '../../../core/trust/heights.ts'
import type { MetadataRules } from '../../../core/trust/rules.ts'
import { type TimeMark, timeAt } from '../../../core/trust/time.ts'
import { Verification, type VerifiedTarget } from '../../../core/trust/verification.ts'

export interface MetadataRequest {
  /** Root metadata from the image. */
  readonly anchor: Uint8Array
  readonly stored: Documents
  /** Of the push, by name. Empty: what is stored is asked, and must not have expired. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Targets that are asked for. With none of them, and no timestamp, only the root moves. */
  readonly paths: readonly string[]
  readonly time: readonly TimeMark[]
  /** Nothing below it is accepted, whoever saw it. */
  readonly floor: { readonly heights: Heights; readonly seenBy: string } | null
}

/** Plain data: it crosses a thread's edge. */
export interface MetadataFindings {
  /** Accepted so far, also when a later part was refused. */
  readonly documents: Documents
  readonly heights: Heights
  /** When the repository says that it made the timestamp in force, Unix milliseconds; 0 for unknown. */
  readonly issuedAtMs: number
  /** All four top-level roles were verified and are not expired. */
  readonly refreshed: boolean
  /** What the top-level targets say of the policy; null: nothing, or they were not reached. */
  readonly policy: VerifiedTarget | null
  /** In the order of `paths`; empty when refused. */
  readonly targets: readonly VerifiedTarget[]
  readonly refusal: { readonly code: ErrorCode; readonly message: string } | null
}

/** @throws TRUST_MALFORMED, TRUST_THRESHOLD, STORE_CORRUPT the anchor or the stored roots cannot be used; INTERNAL */
export async function examineMetadata(request: MetadataRequest, rules: MetadataRules): Promise<MetadataFindings> {
  const { anchor, stored, files, paths, time, floor } = request
  const pushed = sourceOf(files)
  const source = files.size > 0 ? pushed : { ...pushed, timestamp: async () => stored.timestamp }
  const verification = new Verification({ anchor, stored, source, nowMs: (keys) => timeAt(time, keys), rules })
  const found = { refreshed: false, policy: null as VerifiedTarget | null, targets: [] as VerifiedTarget[] }
  const findings = (refusal: MetadataFindings['refusal']): MetadataFindings => {
    const { documents, heights, issuedAtMs } = verification
    return { documents, heights, issuedAtMs, ...found, targets: refusal ? [] : found.targets, refusal }
  }
  try {
    if (!files.has('timestamp.json') && paths.length === 0) {
      await verification.refreshRoot()
      return findings(null)
    }
    await verification.refresh()
    if (floor) requireHeights(verification.heights, floor.heights, floor.seenBy)
    const policy = await verification.target(POLICY_PATH)
    found.policy = policy?.role === POLICY_ROLE ? policy : null
    found.refreshed = true
    for (const path of paths) found.targets.push(await find(verification, path))
    return findings(null)
  } catch (error) {
    const code = codeOf(error)
    if (code === 'INTERNAL') throw error
    return findings({ code, message: messageOf(error) })
  }
}

async function find(verification: Verification, path: string): Promise<VerifiedTarget> {
  const target = await verification.target(path)
  if (!target) throw new OffboxError('TRUST_UNLISTED', `no role that may sign for ${JSON.stringify(path.slice(0, 200))} vouches for it`)
  return target
}
