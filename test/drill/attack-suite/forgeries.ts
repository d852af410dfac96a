/** Attacks by somebody without keys, or without enough of them. */
import { tufKeyId } from '../../../core/tuf/keys.ts'
import { type Key, type Loose, makeKey, seal, sha256, tampered } from '../../agent/trust/tuf/repository.ts'
import { keptBefore, SERVICE, type Stage, type StagedAttack } from './attack.ts'

const PATH = `services/${SERVICE}/1.0.0.offbox`

/** The files of a push, with one of them changed. */
function changed({ repository }: Stage, name: string, change: (file: Loose) => void) {
  return repository.push({ [name]: tampered(repository.file(name), change) })
}

/** Publishes what the attacker wants, with `role` signed by `signers`; everything above it is as it should be. */
async function published(scene: Stage, role: string, signers: readonly Key[]): Promise<unknown> {
  const { repository } = scene
  const path = repository.release(SERVICE, '1.0.0')
  repository.signers[role] = [...signers]
  repository.publish(role, ...(role === 'targets' ? [] : ['targets']), 'snapshot', 'timestamp')
  return await scene.order(path)
}

/** (R, S + L): the same signature to a verifier that does not look. RFC 8032, section 5.1.7. */
export function malleated(sig: string): string {
  const L = 2n ** 252n + 27742317777372353535851937790883648493n
  const bytes = Buffer.from(sig, 'hex')
  let s = BigInt(`0x${Buffer.from(bytes.subarray(32)).reverse().toString('hex')}`) + L
  for (let at = 32; at < 64; at++) {
    bytes[at] = Number(s & 0xffn)
    s >>= 8n
  }
  return bytes.toString('hex')
}

/** A point of order 1, under which R = the same point and S = 0 verifies for any message where nobody looks. */
const SMALL_ORDER = `01${'00'.repeat(31)}`
const smallOrderKey = () => {
  const key = { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: SMALL_ORDER } }
  const signature = new Uint8Array([1, ...new Uint8Array(63)])
  return { keyid: tufKeyId(key as never), publicKey: new Uint8Array(32), key, sign: () => signature }
}

export const FORGERIES: readonly StagedAttack[] = [
  ...['root', 'targets', 'snapshot', 'timestamp', `service-${SERVICE}`].map(
    (role): StagedAttack => ({
      name: `arbitrary software: ${role} signed by a stranger`,
      refused: ['TRUST_THRESHOLD'],
      keeps: keptBefore(role),
      heldBy: 'signatures',
      run: async (scene) => await published(scene, role, [makeKey(), makeKey()]),
    }),
  ),
  ...['root', 'targets', 'snapshot', 'timestamp', `service-${SERVICE}`].map(
    (role): StagedAttack => ({
      name: `arbitrary software: ${role} not signed at all`,
      refused: ['TRUST_THRESHOLD'],
      keeps: keptBefore(role),
      heldBy: 'signatures',
      run: async (scene) => await published(scene, role, []),
    }),
  ),
  {
    name: 'arbitrary software: a whole repository of somebody else',
    refused: ['TRUST_THRESHOLD'],
    heldBy: 'signatures',
    run: async (scene) => {
      const stranger = scene.stranger()
      const path = stranger.release(SERVICE, '1.0.0')
      return await scene.order(path, stranger.push())
    },
  },
  {
    name: 'arbitrary software: a path that nobody listed',
    refused: ['TRUST_UNLISTED'],
    keeps: ['snapshot'],
    run: async (scene) => {
      scene.repository.release(SERVICE, '1.0.0')
      return await scene.order(`services/${SERVICE}/6.6.6.offbox`)
    },
  },
  {
    name: "arbitrary software: a service's key signs another service's path",
    refused: ['TRUST_UNLISTED'],
    keeps: ['snapshot'],
    heldBy: 'paths',
    run: async (scene) => {
      const { repository } = scene
      repository.release(SERVICE, '1.0.0')
      repository.release('routing', '1.0.0')
      return await scene.order(repository.release('routing', '9.9.9', { role: `service-${SERVICE}` }))
    },
  },
  {
    name: 'wrong threshold: a root signed by one key of three',
    refused: ['TRUST_THRESHOLD'],
    heldBy: 'signatures',
    run: async (scene) => {
      scene.repository.signers['root'] = (scene.repository.signers['root'] ?? []).slice(0, 1)
      scene.repository.publish('root')
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'))
    },
  },
  {
    name: 'wrong threshold: zero',
    refused: ['TRUST_MALFORMED'],
    run: async (scene) => {
      scene.repository.roles['root'].roles.timestamp.threshold = 0
      scene.repository.publish('root')
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'))
    },
  },
  {
    name: 'wrong threshold: more than there are keys',
    refused: ['TRUST_MALFORMED'],
    run: async (scene) => {
      scene.repository.roles['root'].roles.timestamp.threshold = 2
      scene.repository.publish('root')
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'))
    },
  },
  {
    name: 'duplicate keys: one key listed twice in a role',
    refused: ['TRUST_MALFORMED'],
    run: async (scene) => {
      const { keyids } = scene.repository.roles['root'].roles.timestamp
      scene.repository.roles['root'].roles.timestamp = { keyids: [keyids[0], keyids[0]], threshold: 2 }
      scene.repository.publish('root')
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'))
    },
  },
  {
    name: 'duplicate keys: one key under two names',
    refused: ['TRUST_MALFORMED'],
    run: async (scene) => {
      const key = makeKey()
      scene.repository.setKeys('timestamp', [key, { ...key, keyid: sha256(new Uint8Array(3)) }], 2)
      scene.repository.publish('root')
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'))
    },
  },
  {
    name: 'duplicate keys: one signature twice',
    refused: ['TRUST_MALFORMED'],
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      return await scene.order(
        path,
        changed(scene, 'timestamp.json', (file) => file.signatures.push(file.signatures[0])),
      )
    },
  },
  {
    name: 'small-order key: in a root',
    refused: ['TRUST_MALFORMED'],
    run: async (scene) => {
      scene.repository.setKeys('timestamp', [smallOrderKey()], 1)
      scene.repository.publish('root')
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'))
    },
  },
  {
    name: 'small-order key: in a delegation',
    refused: ['TRUST_MALFORMED'],
    keeps: ['snapshot'],
    run: async (scene) => {
      scene.repository.delegate(`service-${SERVICE}`, [`services/${SERVICE}/*.offbox`], { keys: [smallOrderKey()] })
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'))
    },
  },
  ...['timestamp', 'snapshot', 'targets'].map(
    (role): StagedAttack => ({
      name: `malleated signature: on ${role}`,
      refused: ['TRUST_THRESHOLD'],
      keeps: keptBefore(role),
      heldBy: 'signatures',
      run: async (scene) => {
        const { repository } = scene
        const path = repository.release(SERVICE, '1.0.0')
        const bytes = tampered(repository.write(role), (file) => (file.signatures[0].sig = malleated(file.signatures[0].sig)))
        repository.put(role, bytes)
        // What is above names the changed file, so that nothing but its signature is wrong.
        if (role === 'targets') repository.publish('snapshot')
        if (role !== 'timestamp') repository.publish('timestamp')
        return await scene.order(path)
      },
    }),
  ),
  ...[{ keytype: 'ecdsa' }, { scheme: 'ecdsa-sha2-nistp256' }, { keytype: 'rsa', scheme: 'rsassa-pss-sha256' }].map(
    (kind): StagedAttack => ({
      name: `key of another kind: ${Object.values(kind).join(', ')}`,
      refused: ['TRUST_MALFORMED'],
      why: /only Ed25519/,
      run: async (scene) => {
        const made = makeKey()
        scene.repository.setKeys('timestamp', [{ ...made, key: { ...made.key, ...kind } }], 1)
        scene.repository.publish('root')
        return await scene.order(PATH)
      },
    }),
  ),
  {
    name: 'arbitrary software: changed content under a good signature',
    refused: ['TRUST_THRESHOLD'],
    heldBy: 'signatures',
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      return await scene.order(
        path,
        changed(scene, 'timestamp.json', (file) => (file.signed.expires = '2036-01-01T00:00:00Z')),
      )
    },
  },
  {
    name: 'mix and match: a document of one type in the place of another, signed by a key of both',
    refused: ['TRUST_MALFORMED'],
    keeps: ['root', 'snapshot'],
    run: async (scene) => {
      const { repository } = scene
      const signers = repository.signers['timestamp'] ?? []
      repository.setKeys('snapshot', signers, 1)
      repository.publish('root')
      const wrong = seal({ ...repository.roles['timestamp'], _type: 'snapshot', version: 9 }, signers)
      return await scene.order(PATH, repository.push({ 'timestamp.json': wrong }))
    },
  },
  {
    name: 'diamond delegation: a role reached by a second way that names other keys',
    refused: ['TRUST_THRESHOLD'],
    keeps: ['snapshot'],
    heldBy: 'signatures',
    run: async (scene) => {
      const { repository } = scene
      const paths = ['services/diamond/*.offbox']
      for (const side of ['a', 'b']) repository.delegate(`service-${side}`, paths, { terminating: false })
      const [rightful, thief] = [makeKey(), makeKey()]
      repository.delegate('service-r', paths, { delegator: 'service-a', keys: [rightful], terminating: false })
      repository.delegate('service-r', paths, { delegator: 'service-b', keys: [thief], terminating: false })
      // Whom one team trusts lists nothing by way of the other.
      repository.publish('service-a', 'service-b')
      return await scene.order(repository.release('diamond', '1.0.0', { role: 'service-r' }))
    },
  },
]
