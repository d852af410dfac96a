/** What a fleet has beside its controller: a trust repository, a policy and a witness, all of them the real ones. */
import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import nacl from 'tweetnacl'
import { verifyBundle } from '../../agent/trust/verify.ts'
import type { TrustAnchors } from '../../core/anchors.ts'
import { systemClock } from '../../core/clock.ts'
import { type Capability, type Manifest, type Tier, TIERS } from '../../core/manifest.ts'
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
import { type SigningKey, trust as trusted } from '../fixtures/bundles.ts'

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
  publish(service: string, file: Uint8Array, options?: { sign?: boolean; replace?: boolean }): Promise<Uint8Array>
  /**
   * Publishes a bundle and lets it run, then answers what its order has to carry. Done once for each file: asked for again before anything
   * else changes it costs nothing. A file that nobody would publish is left out.
   */
  supply(file: Uint8Array): Promise<Carried>
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
  const supplied = new Map<string, Promise<Carried>>()
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
    publish: async (service, file, { sign = false, replace = false } = {}) => {
      const delegated = delegationOf((await repository.read()).targets.signed, serviceRole(service))
      if (!delegated) await delegate(repository.context(), service)
      const [one] = await publish(repository.context(), [file], { anchors: repository.anchors, sign, replace })
      return one?.file ?? file
    },
    carry: async (service, rootVersion = 1) => {
      const now = await repository.read()
      const { push } = makePush(now, { rootVersion, services: service === undefined ? [] : [service] })
      const published = await readPolicyOf(repository.path, now)
      const metadata = push.files.map(({ name, bytes }) => ({ name, content: bytes }))
      return { metadata, policy: published?.bytes ?? new Uint8Array() }
    },
    supply: async (file) => {
      const digest = createHash('sha256').update(file).digest('hex')
      const known = supplied.get(digest)
      if (known) return await known
      supplied.clear()
      const fresh = supply(lab, key, file)
      supplied.set(digest, fresh)
      return await fresh
    },
    remove: () => repository.remove(),
  }
  return lab
}

async function supply(lab: TrustLab, key: SigningKey, file: Uint8Array): Promise<Carried> {
  let manifest: Manifest
  try {
    manifest = verifyBundle(file, trusted(key)).manifest
  } catch {
    return await lab.carry()
  }
  const { name, capabilities } = manifest
  await lab.policy((before) => {
    const there = before[name]?.capabilities ?? []
    return { ...before, [name]: { keys: [key.keyId], capabilities: [...new Set([...there, ...capabilities])], tiers: TIERS } }
  })
  await lab.publish(name, file, { replace: true })
  return await lab.carry(name)
}
