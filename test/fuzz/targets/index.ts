/** Every reader that meets bytes of others. */
import type { Target } from '../target.ts'
import { bundleTargets } from './bundle.ts'
import { grpcTargets } from './grpc.ts'
import { tufTargets } from './tuf.ts'
import { wireTargets } from './wire.ts'

export const TARGETS: readonly Target[] = [...bundleTargets, ...tufTargets, ...wireTargets, ...grpcTargets]
