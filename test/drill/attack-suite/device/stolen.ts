/** Attacks by whoever has the controller: its certificate, its registry, and now and then a key that leaked with them. */
import nacl from 'tweetnacl'
import { bundleSignedBytes, joinBundle, splitBundle } from '../../../../core/bundle-format.ts'
import { keyIdOf } from '../../../../core/signing.ts'
import { makeIdentity, type Role } from '../../../../core/x509.ts'
import { TrustMethods } from '../../../../proto/gen/trust.ts'
import { flipBit, makeBundle, makeFloors, makeKey } from '../../../fixtures/bundles.ts'
import { malleated } from '../forgeries.ts'
import { SERVICE } from '../attack.ts'
import { makeFleetCa } from './fleet.ts'
import type { DeviceAttack } from './judge.ts'
import { CODE } from './repository.ts'
import type { DeviceScene } from './scene.ts'

const DAY_MS = 86_400_000
const ROLE = `service-${SERVICE}`

/** The same bundle with other signatures. */
function signedAs(file: Uint8Array, change: (signature: { keyId: string; signature: Uint8Array }) => { keyId: string; signature: Uint8Array }[]): Uint8Array {
  const { manifest, signatures, payload } = splitBundle(file)
  return joinBundle({ manifest, signatures: signatures.flatMap(change), payload })
}

/** Even the key of the service's role was stolen: the repository lists what the thief wants. */
const listed =
  (make: (scene: DeviceScene, version: string) => Uint8Array): DeviceAttack['run'] =>
  async (scene) => {
    const { repository } = scene
    return await scene.order(repository.release(SERVICE, '1.0.0', { bytes: make(scene, repository.mapped('1.0.0')) }))
  }

const isRefusal = ({ msg }: Record<string, unknown>) => msg === 'TLS handshake refused' || msg === 'connection refused'

/** What somebody who dials with such a certificate gets to hear; and that it was the device that hung up on him. */
const calledWith = (identity: (scene: DeviceScene) => Promise<{ keyPem: string; certificatePem: string }>): DeviceAttack['run'] => {
  return async (scene) => {
    const path = scene.repository.release(SERVICE, '1.0.0')
    const client = await scene.connect(await identity(scene))
    const before = scene.agent.lines.length
    try {
      return await scene.order(path, scene.repository.push(), { client })
    } catch (error) {
      await scene.setUp(async () => await scene.agent.line((line) => isRefusal(line) && scene.agent.lines.indexOf(line) >= before))
      throw error
    } finally {
      client.close()
    }
  }
}

export const STOLEN: readonly DeviceAttack[] = [
  {
    name: 'stolen controller: code that nobody signed and nobody listed',
    refused: ['TRUST_UNLISTED'],
    keeps: ['snapshot'],
    run: async (scene) => {
      const { repository } = scene
      repository.release(SERVICE, '1.0.0')
      const version = repository.mapped('6.6.6')
      const file = signedAs(repository.bundle(SERVICE, version), () => [])
      return await scene.order(`services/${SERVICE}/${version}.offbox`, repository.push(), { file })
    },
  },
  {
    name: 'stolen controller: the same, without any metadata',
    refused: ['TRUST_UNLISTED'],
    run: async (scene) => {
      const version = scene.repository.mapped('6.6.6')
      const file = signedAs(scene.repository.bundle(SERVICE, version), () => [])
      return await scene.order(`services/${SERVICE}/${version}.offbox`, { files: [] }, { file })
    },
  },
  {
    name: 'stolen controller: unsigned code under the name of a listed bundle',
    refused: ['BUNDLE_CORRUPT'],
    why: /not the file that/,
    keeps: ['snapshot'],
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      const listedFile = scene.repository.bundles.get(path) as Uint8Array
      return await scene.order(path, scene.repository.push(), { file: signedAs(listedFile, () => []) })
    },
  },
  {
    name: 'stolen controller: other code that a leaked bundle key signed, under the name of a listed bundle',
    refused: ['BUNDLE_CORRUPT'],
    why: /not the file that/,
    keeps: ['snapshot'],
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      return await scene.order(path, repository.push(), { file: repository.bundle(SERVICE, repository.mapped('1.0.0'), { heapMbMax: 48 }) })
    },
  },
  {
    name: "stolen controller: unsigned code, listed with the service's stolen key",
    refused: ['BUNDLE_UNTRUSTED'],
    keeps: ['snapshot'],
    run: listed(({ repository }, version) => signedAs(repository.bundle(SERVICE, version), () => [])),
  },
  {
    name: "stolen controller: code signed by himself, listed with the service's stolen key",
    refused: ['BUNDLE_UNTRUSTED'],
    keeps: ['snapshot'],
    run: listed((_, version) => makeBundle(makeKey(), { name: SERVICE, version }, CODE)),
  },
  {
    name: 'stolen controller: code of his own under the id of the trusted key',
    refused: ['BUNDLE_UNTRUSTED'],
    heldBy: 'bundle-signature',
    keeps: ['snapshot'],
    run: listed(({ fleet }, version) => {
      const own = makeBundle(makeKey(), { name: SERVICE, version, heapMbMax: 32 }, CODE)
      return signedAs(own, ({ signature }) => [{ keyId: fleet.key.keyId, signature }])
    }),
  },
  {
    name: 'malleated signature: on a bundle',
    refused: ['BUNDLE_UNTRUSTED'],
    heldBy: 'bundle-signature',
    keeps: ['snapshot'],
    run: listed(({ repository }, version) =>
      signedAs(repository.bundle(SERVICE, version), ({ keyId, signature }) => [
        { keyId, signature: new Uint8Array(Buffer.from(malleated(Buffer.from(signature).toString('hex')), 'hex')) },
      ]),
    ),
  },
  {
    name: "stolen controller: a key of the service's role in place of those that the policy names",
    refused: ['POLICY_DENIED'],
    why: /none of them signed it/,
    heldBy: 'policy',
    keeps: ['snapshot'],
    run: listed(({ repository }, version) => {
      const [own] = repository.signers[ROLE] ?? []
      if (!own) throw new Error('the role has no key')
      return signedAs(repository.bundle(SERVICE, version), () => {
        const { manifest } = splitBundle(repository.bundle(SERVICE, version))
        return [{ keyId: keyIdOf(own.publicKey), signature: own.sign(bundleSignedBytes(manifest)) }]
      })
    }),
  },
  {
    name: 'stolen controller: a service that the policy does not name',
    refused: ['POLICY_DENIED'],
    why: /does not name spy/,
    heldBy: 'policy',
    keeps: ['snapshot'],
    run: async (scene) => await scene.order(scene.repository.release('spy', '1.0.0')),
  },
  {
    name: 'stolen controller: a capability that the policy does not grant',
    refused: ['POLICY_DENIED'],
    why: /"keystore" is not among them/,
    heldBy: 'policy',
    keeps: ['snapshot'],
    run: listed(({ repository }, version) => repository.bundle(SERVICE, version, { capabilities: ['keystore'] })),
  },
  {
    name: 'stolen controller: a policy of his own beside the true metadata',
    refused: ['TRUST_MISMATCH'],
    why: /the policy is not the file/,
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release('spy', '1.0.0')
      const own = Buffer.from(repository.policyBytes).toString().replaceAll('routing', 'spy')
      return await scene.order(path, repository.push(), { order: { policy: new Uint8Array(Buffer.from(own)) } })
    },
  },
  {
    name: 'stolen controller: a newer policy withheld',
    refused: ['TRUST_UNAVAILABLE'],
    why: /policy/,
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      repository.setPolicy(({ [SERVICE]: _, ...others }) => others)
      return await scene.order(path, repository.push(), { order: { policy: new Uint8Array() } })
    },
  },
  {
    name: 'stolen controller: the policy from before in place of the newer one',
    refused: ['TRUST_MISMATCH'],
    why: /policy/,
    run: async (scene) => {
      const { repository } = scene
      const [path, policy] = [repository.release(SERVICE, '1.0.0'), repository.policyBytes]
      repository.setPolicy(({ [SERVICE]: _, ...others }) => others)
      return await scene.order(path, repository.push(), { order: { policy } })
    },
  },
  {
    name: 'stolen controller: floors of his own, so that nothing of the owners may run again',
    refused: ['FLOORS_UNTRUSTED'],
    run: async (scene) => {
      const floors = makeFloors(makeKey(), 9_000_000, { [SERVICE]: '999.0.0' })
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'), scene.repository.push(), { order: { floors } })
    },
  },
  {
    name: 'stolen controller: an update by the API in place of an order, with a repository of his own',
    refused: ['TRUST_THRESHOLD'],
    heldBy: 'signatures',
    run: async (scene) => {
      const push = scene.stranger().push()
      const metadata = push.files.map(({ name, bytes }) => ({ name, content: bytes }))
      return await scene.client.unary(TrustMethods.Update, { metadata, policy: push.policy })
    },
  },
  {
    name: 'stolen controller: it says what the witness would say',
    refused: ['WITNESS_UNTRUSTED'],
    why: /not signed by a trusted witness/,
    run: async (scene) => await scene.attest(await scene.forged({ heights: null }, nacl.sign.keyPair().secretKey)),
  },
  {
    name: 'stolen controller: what the witness says to another fleet',
    refused: ['WITNESS_UNTRUSTED'],
    why: /for fleet/,
    run: async (scene) => await scene.attest(await scene.forged({ fleet: 'another' })),
  },
  {
    name: 'stolen controller: a time of the witness changed under its signature',
    refused: ['WITNESS_UNTRUSTED'],
    run: async (scene) => {
      const answer = await scene.forged({})
      return await scene.attest({ ...answer, statement: flipBit(answer.statement, -3) })
    },
  },
  {
    name: 'malleated signature: on the word of the witness',
    refused: ['WITNESS_UNTRUSTED'],
    run: async (scene) => {
      const answer = await scene.forged({})
      return await scene.attest({ ...answer, signature: new Uint8Array(Buffer.from(malleated(Buffer.from(answer.signature).toString('hex')), 'hex')) })
    },
  },
  {
    name: 'rollback: a witness that was set back to an old backup',
    refused: ['TRUST_ROLLBACK'],
    run: async (scene) => {
      await scene.shown()
      await scene.setUp(async () => await scene.relay())
      const before = scene.witness.heights
      if (!before) throw new Error('the witness has seen nothing')
      await scene.mark()
      return await scene.attest(await scene.forged({ heights: { ...before, timestamp: before.timestamp - 1 } }))
    },
  },
  {
    name: 'rollback: a witness that has forgotten all',
    refused: ['TRUST_ROLLBACK'],
    why: /forgotten/,
    run: async (scene) => {
      await scene.shown()
      await scene.setUp(async () => await scene.relay())
      await scene.mark()
      return await scene.attest(await scene.forged({ heights: null }))
    },
  },
  ...(['device', 'service'] as const).map(
    (role: Role): DeviceAttack => ({
      name: `stranger: the certificate of a ${role} of this fleet`,
      refused: ['DEVICE_UNREACHABLE', 'ROLE_DENIED'],
      run: calledWith(async ({ fleet }) => await fleet.identity(role, 'sw9')),
    }),
  ),
  {
    name: 'stranger: a controller of another certificate authority',
    refused: ['DEVICE_UNREACHABLE'],
    run: calledWith(async ({ fleet }) => await fleet.identity('controller', 'one', await makeFleetCa())),
  },
  {
    name: 'stranger: a controller of another fleet, under the same authority',
    refused: ['DEVICE_UNREACHABLE', 'ROLE_DENIED'],
    run: calledWith(async ({ fleet }) => await makeIdentity(fleet.ca, { fleet: 'another', role: 'controller', id: 'one', nowMs: Date.now(), validMs: DAY_MS })),
  },
  {
    name: 'stranger: a certificate of the controller that has expired',
    refused: ['DEVICE_UNREACHABLE'],
    run: calledWith(
      async ({ fleet }) => await makeIdentity(fleet.ca, { fleet: 'lab', role: 'controller', id: 'one', nowMs: Date.now() - 9 * DAY_MS, validMs: DAY_MS }),
    ),
  },
]
