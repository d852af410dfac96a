/** What is verified: telemetry as it ships, in two releases, built, signed and published as the product does it; and devices that are ordered to take them. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import nacl from 'tweetnacl'
import { AtomicFiles } from '../../agent/store/atomic.ts'
import type { BundleTrust } from '../../agent/trust/bundle-trust.ts'
import { DeviceTrust } from '../../agent/trust/device-trust.ts'
import type { Evidence } from '../../agent/trust/evidence.ts'
import type { Examiner } from '../../agent/trust/examiner.ts'
import { systemClock as clock } from '../../core/clock.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { buildBundle, signBundle } from '../../fleet/registry/make.ts'
import { makePush } from '../../fleet/trust/make-push.ts'
import { allowing, changePolicy, readPolicyOf, wishOf } from '../../fleet/trust/policy.ts'
import { publish } from '../../fleet/trust/publish.ts'
import { delegate } from '../../fleet/trust/trust.ts'
import { firstRoot, testTrust } from '../../test/fleet/trust/fixtures.ts'

export const SERVICE = 'telemetry'

export interface Release {
  readonly version: string
  readonly file: Uint8Array
  /** As an order brings it to a device that knows the first root. */
  readonly evidence: Evidence
}

export interface Scene {
  readonly releases: readonly [Release, Release]
  readonly keys: TrustedKeys
  /** A device fresh from its image, with a disk of its own. */
  device(examiner: Examiner): Promise<{ bundles: BundleTrust; remove(): void }>
  close(): void
}

export async function setTheScene(): Promise<Scene> {
  const fleet = await testTrust()
  const { secretKey, keyId } = fleet.key
  const signer = { ...fleet.key, sign: (message: Uint8Array) => nacl.sign.detached(message, secretKey) }
  await delegate(fleet.context(), SERVICE)
  const releases: Release[] = []
  for (const version of ['91.0.0', '91.1.0']) {
    const { file: unsigned, manifest } = await buildBundle(join(import.meta.dirname, '../../services', SERVICE), version)
    const file = signBundle(unsigned, signer)
    if (releases.length === 0) await changePolicy(fleet.context(), (before) => allowing(before, [wishOf(manifest, [keyId])]))
    await publish(fleet.context(), [file], { anchors: fleet.anchors })
    const repository = await fleet.read()
    const policy = (await readPolicyOf(fleet.path, repository))?.bytes ?? new Uint8Array()
    releases.push({ version, file, evidence: { metadata: makePush(repository, { rootVersion: 1, services: [SERVICE] }).push, policy } })
  }
  const root = Buffer.from(firstRoot(await fleet.read())).toString('utf8')
  const anchors = { fleet: 'lab', caPem: '', bundleKeys: fleet.anchors, trust: { root, witnessKeys: new Map(), builtAtMs: Date.now() - 60_000 } }
  const log = { info: () => {}, warn: () => {}, error: () => {} }
  return {
    releases: releases as unknown as [Release, Release],
    keys: fleet.anchors,
    device: async (examiner) => {
      const stateDir = mkdtempSync(join(tmpdir(), 'offbox-bench-verify-'))
      const { bundles } = await DeviceTrust.open({ anchors, files: new AtomicFiles(), stateDir, clock, tierOf: () => 'worker', examiner, log })
      return { bundles, remove: () => rmSync(stateDir, { recursive: true, force: true }) }
    },
    close: () => fleet.remove(),
  }
}
