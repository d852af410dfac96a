/** Attacks with too much of anything, or with what is none of it. */
import { requireTargetFile } from '../../../agent/trust/tuf/tuf-trust.ts'
import { bundleOf, type Loose, seal } from '../../agent/trust/tuf/repository.ts'
import { type Attack, type AttackScene, SERVICE, type StagedAttack } from './attack.ts'

/** What a device knows of a released bundle. */
export async function targetOf(scene: AttackScene, path: string) {
  return await scene.setUp(async () => {
    const [target] = await (await scene.trust()).update(scene.repository.push(), [path])
    if (!target) throw new Error(`${path} is not known`)
    return target
  })
}

const oversized = (name: string, why: RegExp, change: (repository: Loose) => void): StagedAttack => ({
  name: `too much: ${name}`,
  refused: ['TRUST_MALFORMED'],
  why,
  run: async (scene) => {
    const { repository } = scene
    const path = repository.release(SERVICE, '1.0.0')
    change(repository)
    return await scene.order(path)
  },
})

/** Of the repository alone. */
export const EXCESSES: readonly StagedAttack[] = [
  oversized('a timestamp of 5 kB', /bytes, more than/, (repository) => {
    repository.roles['timestamp'].padding = 'x'.repeat(5_000)
    repository.publish('timestamp')
  }),
  // Right but for that: a field beside the others that nobody knows.
  ...[20, 1_500].map((depth) =>
    oversized(`metadata nested ${depth} deep`, /nested deeper/, (repository) => {
      const [before, after] = Buffer.from(repository.file('timestamp.json')).toString().split('"signatures"')
      repository.put('timestamp', new TextEncoder().encode(`${before}"nest":${'['.repeat(depth)}1${']'.repeat(depth)},"signatures"${after}`))
    }),
  ),
  {
    name: 'endless data: a push of a hundred files',
    refused: ['TRUST_MALFORMED'],
    why: /100 files, more than/,
    run: async (scene) => {
      const files = Array.from({ length: 100 }, (_, at) => ({ name: `1.service-s${at}.json`, bytes: new TextEncoder().encode('{}') }))
      return await scene.order('x', { files })
    },
  },
  {
    name: 'endless data: a push of twenty roots',
    refused: ['TRUST_MALFORMED'],
    why: /20 roots, more than/,
    run: async (scene) => {
      const files = Array.from({ length: 20 }, (_, at) => ({ name: `${at + 2}.root.json`, bytes: scene.repository.anchor }))
      return await scene.order('x', { files })
    },
  },
  ...['{', '[]', 'null', '{"signed":{},"signatures":[]}', '\xff\xfe', '{"signed":{"__proto__":{"_type":"timestamp"}},"signatures":[]}'].map(
    (text): StagedAttack => ({
      name: `malformed: ${JSON.stringify(text)} for a timestamp`,
      refused: ['TRUST_MALFORMED'],
      run: async (scene) => await scene.order('x', scene.repository.push({ 'timestamp.json': new Uint8Array(Buffer.from(text, 'latin1')) })),
    }),
  ),
  ...['../../etc/passwd', '1.service-../x.json', 'timestamp.json.json', ''].map(
    (name): StagedAttack => ({
      name: `malformed: a file called ${JSON.stringify(name)}`,
      refused: ['TRUST_MALFORMED'],
      run: async (scene) => await scene.order('x', { files: [{ name, bytes: scene.repository.anchor }] }),
    }),
  ),
  ...[1.5, -1, 0, 2 ** 53, '2', null].map(
    (version): StagedAttack => ({
      name: `malformed: version ${JSON.stringify(version)}, signed`,
      refused: ['TRUST_MALFORMED'],
      run: async (scene) => {
        const { repository } = scene
        const signed = { ...repository.roles['timestamp'], version }
        const over = new TextEncoder().encode(JSON.stringify(signed))
        return await scene.order('x', repository.push({ 'timestamp.json': seal(signed, repository.signers['timestamp'] ?? [], over) }))
      },
    }),
  ),
]

export const VERIFIER_EXCESSES: readonly Attack[] = [
  {
    name: 'endless data: a target file longer than was signed for',
    refused: ['BUNDLE_CORRUPT'],
    run: async (scene) => {
      const path = scene.repository.release(SERVICE, '1.0.0')
      requireTargetFile(await targetOf(scene, path), Buffer.concat([bundleOf(SERVICE, '1.0.0'), new Uint8Array(1)]))
    },
  },
]
