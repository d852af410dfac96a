/** What images and local agents carry of the repository and the witness: a root to begin with, the witness's keys, a time to begin with. */
import { formatAnchors, type TrustAnchors } from '../../core/anchors.ts'
import { OffboxError } from '../../core/errors.ts'
import { keyIdOf, type TrustedKeys } from '../../core/signing.ts'
import { fileName } from '../../core/tuf/metadata.ts'
import { writeAtomic } from '../home/atomic.ts'
import { type Home, readAnchors } from '../home/home.ts'
import { latestRoot } from './repository.ts'
import { readTrust } from './trust.ts'

export interface AnchorWish {
  readonly nowMs: number
  /** In place of those there; default: they stay. Raw, 32 bytes each. */
  readonly witnessKeys?: readonly Uint8Array[]
  /** The newest root and the present time in place of those there: for the next image. */
  readonly renew?: boolean
}

/**
 * Puts into anchors.json what is missing there. Devices that were given the anchors before go on with those.
 * @returns whether the file changed
 * @throws HOME_INVALID there is no repository, or another one than the anchors are for
 */
export async function writeTrustAnchors(home: Home, { nowMs, witnessKeys, renew = false }: AnchorWish): Promise<boolean> {
  const anchors = await readAnchors(home)
  const before = anchors.trust
  const given: TrustedKeys | undefined = witnessKeys && new Map(witnessKeys.map((key) => [keyIdOf(key), key]))
  const fresh = before === undefined || renew
  if (!fresh) await requireOwnRoot(home, before)
  const trust: TrustAnchors = {
    root: fresh ? await newestRoot(home) : before.root,
    witnessKeys: given ?? before?.witnessKeys ?? new Map(),
    builtAtMs: fresh ? nowMs : before.builtAtMs,
  }
  const [text, old] = [formatAnchors({ ...anchors, trust }), formatAnchors(anchors)]
  if (text === old) return false
  await writeAtomic(home.anchors, text, { mode: 0o644 })
  return true
}

/** Devices with these anchors would refuse all that this repository says. */
async function requireOwnRoot(home: Home, { root }: TrustAnchors): Promise<void> {
  const { roots, files } = await readTrust(home.trust)
  const own = roots.some(({ signed }) => Buffer.from(files.get(fileName('root', signed.version)) ?? []).toString('utf8') === root)
  if (own) return
  throw new OffboxError(
    'HOME_INVALID',
    `${home.anchors} begins with the root of another repository than ${home.trust}; restore that one, or make new images: offbox trust anchors --renew`,
  )
}

/** Not the first one: whoever stole keys that were replaced since must not be believed by a new image. */
async function newestRoot(home: Home): Promise<string> {
  const repository = await readTrust(home.trust)
  const bytes = repository.files.get(fileName('root', latestRoot(repository).signed.version))
  if (!bytes) throw new OffboxError('STORE_CORRUPT', `${home.trust} has lost its newest root`)
  return Buffer.from(bytes).toString('utf8')
}
