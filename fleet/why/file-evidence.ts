/** Evidence without a device and without a controller: files that commands wrote, and the home. */
import { createReadStream } from 'node:fs'
import type { Anchors } from '../../core/anchors.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { SignedReceipt } from '../device/receipts.ts'
import type { Home } from '../home/home.ts'
import type { Evidence } from './evidence.ts'
import { bundleIn, deviceIn, imageIn, repositoryIn, rolloutsIn, seek } from './home-evidence.ts'
import { linesOf } from './lines.ts'
import { TrailReader } from './trail.ts'

export interface FileEvidenceOptions {
  readonly home: Home
  readonly anchors: Anchors
  readonly deviceId: string
  readonly receipts: readonly SignedReceipt[]
  /** An exported audit log; none: not at hand. */
  readonly auditFile?: string
}

export function fileEvidence({ home, anchors, deviceId, receipts, auditFile }: FileEvidenceOptions): Evidence {
  const nobody = async () => ({ missing: 'nobody was asked: this was answered from files' })
  return {
    deviceId,
    anchors,
    source: 'files',
    services: nobody,
    info: nobody,
    routing: nobody,
    device: async () => await deviceIn(home, deviceId),
    believed: nobody,
    receipts: async () => ({ value: receipts }),
    trail: async (service) => {
      if (auditFile === undefined) return { missing: 'no export of it was given (--audit)' }
      return await seek(async () => {
        const reader = new TrailReader({ fleet: anchors.fleet, caPem: anchors.caPem, deviceId }, service)
        try {
          for await (const line of linesOf(createReadStream(auditFile))) reader.take(line)
        } catch (error) {
          throw new OffboxError('ARGUMENT_INVALID', `${auditFile} cannot be read: ${messageOf(error)}`, { cause: error })
        }
        reader.ended()
        return reader.trail()
      })
    },
    rollouts: async () => await rolloutsIn(home),
    bundle: async (service, version) => await bundleIn(home, service, version),
    image: imageIn(home),
    repository: repositoryIn(home),
  }
}
