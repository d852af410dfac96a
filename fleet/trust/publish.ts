/** Bundles become targets: a service's own keys sign length, digest and what the bundle says it is. */
import { splitBundle } from '../../core/bundle-format.ts'
import { OffboxError } from '../../core/errors.ts'
import type { Manifest } from '../../core/manifest.ts'
import { keyIdOf, type TrustedKeys } from '../../core/signing.ts'
import { publicKeyOf } from '../../core/tuf/keys.ts'
import { serviceRole, type Target, targetPath, type Targets } from '../../core/tuf/metadata.ts'
import { signBundle } from '../registry/make.ts'
import { type BundleKeys, readServiceBundle } from '../registry/verify.ts'
import type { TargetsContent } from './change.ts'
import { delegationOf, type Repository, sha256 } from './repository.ts'
import { changeListed, type TrustContext } from './trust.ts'

export interface PublishOptions {
  /** Bundle keys of the fleet's anchors: a bundle must be signed by one of them, or by a key of its service. */
  readonly anchors: TrustedKeys
  /** Adds the service key's own signature to each bundle first, which changes the file. */
  readonly sign?: boolean
  /** A developer's: other bytes under a version that is published already. */
  readonly replace?: boolean
}

export interface Published {
  readonly path: string
  readonly target: Target
  /** The bundle as published, with the service's signature when that was asked for. */
  readonly file: Uint8Array
  readonly manifest: Manifest
  /** Trusted keys that signed it, before `sign` added one, hex. */
  readonly keyIds: readonly string[]
}

/**
 * Publishes bundles in one change. The same bytes again change nothing.
 * @throws BUNDLE_MALFORMED, BUNDLE_UNTRUSTED, BUNDLE_CORRUPT, BUNDLE_EXISTS, STATE_REFUSED (nobody may sign for the service), TRUST_*
 */
export async function publish(context: TrustContext, files: readonly Uint8Array[], options: PublishOptions): Promise<Published[]> {
  let published: Published[] = []
  await changeListed(context, async (before) => {
    published = []
    const roles = new Map<string, TargetsContent>()
    for (const file of files) {
      const { role, ...one } = await targetOf(context, before, file, options)
      const targets = roles.get(role)?.targets ?? before.roles.get(role)?.signed.targets ?? {}
      const there = targets[one.path]
      published.push(one)
      if (there && there.hashes.sha256 === one.target.hashes.sha256) continue
      if (there && !options.replace) throw new OffboxError('BUNDLE_EXISTS', `${one.path} is published with other bytes; raise the version`)
      roles.set(role, { targets: { ...targets, [one.path]: one.target } })
    }
    return roles.size === 0 ? null : { roles }
  })
  return published
}

async function targetOf(context: TrustContext, before: Repository, bundle: Uint8Array, options: PublishOptions): Promise<Published & { role: string }> {
  const targets = before.targets.signed
  let file = bundle
  const { service, version, keyIds, manifest } = readServiceBundle(file, signersIn(targets, options.anchors))
  const role = serviceRole(service)
  const delegation = delegationOf(targets, role)
  if (!delegation) throw new OffboxError('STATE_REFUSED', `no key may sign for ${service}; delegate it first: offbox trust delegate ${service}`)
  if (options.sign) {
    for (const key of await context.keys.signersFor(role, delegation)) file = signBundle(file, key.bundleKey)
  }
  const custom = { service, version, manifestSha256: sha256(splitBundle(file).manifest) }
  return { role, path: targetPath(service, version), target: { length: file.length, hashes: { sha256: sha256(file) }, custom }, file, manifest, keyIds }
}

/** Who may sign bundles by a repository and the anchors. */
export function signersIn(targets: Targets, anchors: TrustedKeys): BundleKeys {
  const of = (service: string) => new Map([...anchors, ...bundleKeysOf(targets, serviceRole(service))])
  return { all: new Map([...anchors, ...bundleKeysOf(targets)]), of }
}

/** The keys of one delegated role, or of all, under the ids by which bundles name them. */
export function bundleKeysOf(targets: Targets, role?: string): TrustedKeys {
  const { keys = {}, roles = [] } = targets.delegations ?? {}
  const listed = roles.filter((one) => role === undefined || one.name === role).flatMap((one) => one.keyids)
  return new Map(
    listed.map((keyid) => {
      const key = publicKeyOf(keyid, keys[keyid])
      return [keyIdOf(key), key]
    }),
  )
}
