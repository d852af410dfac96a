/** Every reader that meets bytes of others. */
import type { Target } from '../target.ts'
import { auditTargets } from './audit.ts'
import { bundleTargets } from './bundle.ts'
import { grpcTargets } from './grpc.ts'
import { storeTargets } from './stores.ts'
import { tufTargets } from './tuf.ts'
import { updateTargets } from './update.ts'
import { wireTargets } from './wire.ts'

export const TARGETS: readonly Target[] = [...bundleTargets, ...tufTargets, ...updateTargets, ...storeTargets, ...auditTargets, ...wireTargets, ...grpcTargets]
