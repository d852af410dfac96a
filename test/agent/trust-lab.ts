/** What a fleet has beside its controller: a trust repository, a policy and a witness, all of them the real ones. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import nacl from 'tweetnacl'
import type { TrustAnchors } from '../../core/anchors.ts'
import { systemClock } from '../../core/clock.ts'
import type { Capability, Tier } from '../../core/manifest.ts'
import { keyIdOf } from '../../core/signing.ts'
import type { SignedStatement } from '../../core/trust/statement.ts'
import { serviceRole } from '../../core/tuf/metadata.ts'
import { makePush } from '../../fleet/trust/make-push.ts'
import { changePolicy, type PolicyServices, readPolicyOf } from '../../fleet/trust/policy.ts'
import { publish } from '../../fleet/trust/publish.ts'
import { delegationOf } from '../../fleet/trust/repository.ts'
import { delegate } from '../../fleet/trust/trust.ts'
import { Witness } from '../../fleet/witness/witness.ts'
import type { RepositoryFileInit } from '../../proto/gen/witness.ts'
import { firstRoot, type TestTrust, testTrust } from '../fleet/trust/fixtures.ts'
import type { SigningKey } from '../fixtures/bundles.ts'

/** As the fields of an order, an update and an enrolment are called. */
export interface Carried {
  metadata: RepositoryFileInit[]
  policy: Uint8Array
}

export interface TrustLab {
  readonly repository: TestTrust
  readonly anchors: TrustAnchors
  readonly witness: Witness
  /** The witness does not answer. */
  silent: boolean
  /** Null in place of an answer when silent. */
  attest(nonce: Uint8Array, carried?: Carried): Promise<SignedStatement | null>
  /** Replaces the policy's services. */
  policy(next: (before: PolicyServices) => PolicyServices): Promise<void>
  /** Lets bundles signed by the lab's key run. */
  allow(service: string, capabilities?: readonly Capability[], tiers?: readonly Tier[]): Promise<void>
  /** Delegates the service if nobody may sign for it yet, and lists the file. @returns as published */
  publish(service: string, file: Uint8Array, options?: { sign?: boolean }): Promise<Uint8Array>
  /** The repository as it is now, for a device that trusts root `rootVersion`. */
  carry(service?: string, rootVersion?: number): Promise<Carried>
  remove(): void
}

export async function makeTrustLab(directory: string, key: SigningKey, fleet: string): Promise<TrustLab> {
  const repository = await testTrust({ key })
  const root = firstRoot(await repository.read())
  const { publicKey, secretKey } = nacl.sign.keyPair()
  const witnessKey = { keyId: keyIdOf(publicKey), publicKey, sign: (message: Uint8Array) => nacl.sign.detached(message, secretKey) }
  const home = join(directory, 'witness')
  await mkdir(home, { recursive: true })
  await writeFile(join(home, 'root.json'), root)
  const witness = await Witness.open({ directory: home, fleet, key: witnessKey, clock: systemClock })
  const policy = async (next: (before: PolicyServices) => PolicyServices) => void (await changePolicy(repository.context(), next))
  const lab: TrustLab = {
    ...{ repository, witness, policy, silent: false },
    anchors: {
      root: Buffer.from(root).toString('utf8'),
      witnessKeys: new Map([[witnessKey.keyId, publicKey]]),
      builtAtMs: Date.now() - 60_000,
    },
    attest: async (nonce, carried) => {
      if (lab.silent || nonce.length === 0) return null
      const files = (carried?.metadata ?? []).map(({ name, content }) => ({ name: name ?? '', bytes: content ?? new Uint8Array() }))
      return await witness.attest(nonce, { files })
    },
    allow: async (service, capabilities = ['proc'], tiers = ['worker']) =>
      await policy((before) => ({ ...before, [service]: { keys: [key.keyId], capabilities, tiers } })),
    publish: async (service, file, { sign = false } = {}) => {
      const delegated = delegationOf((await repository.read()).targets.signed, serviceRole(service))
      if (!delegated) await delegate(repository.context(), service)
      const [one] = await publish(repository.context(), [file], { anchors: repository.anchors, sign })
      return one?.file ?? file
    },
    carry: async (service, rootVersion = 1) => {
      const now = await repository.read()
      const { push } = makePush(now, { rootVersion, services: service === undefined ? [] : [service] })
      const published = await readPolicyOf(repository.path, now)
      const metadata = push.files.map(({ name, bytes }) => ({ name, content: bytes }))
      return { metadata, policy: published?.bytes ?? new Uint8Array() }
    },
    remove: () => repository.remove(),
  }
  return lab
}
