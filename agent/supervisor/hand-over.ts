/** How a version gives its state away: streams come off it first, so that nothing it does afterwards is lost or done twice. */
import type { Snapshot } from '../../services/sdk/wire.ts'
import type { Call } from './calls.ts'
import type { Instance } from './instance.ts'
import type { SupervisorLimits } from './limits.ts'
import { highestCommon, type HandOverPlan } from './swap.ts'

/**
 * Takes the state of an instance that has no unary call under way. Resumable streams are put into `parked`, for whoever serves next;
 * the others end with SWAP_IN_PROGRESS.
 * @throws when the service does not play along in time
 */
export async function handOver(
  giver: Instance,
  plan: HandOverPlan,
  limits: SupervisorLimits,
  parked: Set<Call>,
): Promise<{ handed: Snapshot | undefined; own: Snapshot | undefined }> {
  takeStreamsOff(giver, parked)
  await giver.quiesce(limits.quiesceTimeoutMs)
  if (plan.schema === undefined) return { handed: undefined, own: undefined }
  const handed = await giver.snapshot(plan.schema, limits.quiesceTimeoutMs)
  const same = plan.ownSchema === undefined || plan.ownSchema === plan.schema
  const own = same ? handed : await giver.snapshot(plan.ownSchema, limits.quiesceTimeoutMs)
  return { handed, own }
}

/**
 * The state of a version that is being reverted, if the one before can read it: what was accepted since the swap is in there.
 * Undefined when there is nothing to hand over.
 * @throws when it does not play along in time: clients are waiting
 */
export async function takeBack(giver: Instance, taker: Instance, limits: SupervisorLimits, parked: Set<Call>): Promise<Snapshot | undefined> {
  if (!giver.alive || giver.silent) throw new Error('it does not answer')
  const { revertTimeoutMs } = limits
  await giver.idle(revertTimeoutMs)
  takeStreamsOff(giver, parked)
  await giver.quiesce(revertTimeoutMs)
  const schema = highestCommon(giver.bundle.manifest, taker.bundle.manifest)
  return schema === undefined ? undefined : await giver.snapshot(schema, revertTimeoutMs)
}

/**
 * The worker answers a cancellation at once and in order: when it has answered whatever is asked next, everything it sent on these
 * streams is with their clients.
 */
function takeStreamsOff(giver: Instance, parked: Set<Call>): void {
  for (const call of giver.calls) {
    if (call.method.kind === 'unary') continue
    if (call.method.resumable) {
      parked.add(call)
      call.detach()
    } else {
      call.fail('SWAP_IN_PROGRESS', 'a swap ended this stream')
    }
  }
}
