/**
 * Which bundles may run here. Two locks, opened by different hands: the bundle's own signature, and the repository's metadata, which lists
 * the file; then the policy has its say. Without trust anchors (development) there is the first lock alone.
 */
import { OffboxError } from '../../core/errors.ts'
import type { Manifest, Tier } from '../../core/manifest.ts'
import { requirePolicy } from '../../core/policy.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { targetPath } from '../../core/tuf/metadata.ts'
import type { VerifiedBundle } from '../supervisor/types.ts'
import type { Evidence } from './evidence.ts'
import { requireTargetFile, type TufTrust } from './tuf/tuf-trust.ts'

export interface BundleTrust {
  /**
   * A bundle that somebody orders.
   * @throws BUNDLE_MALFORMED, BUNDLE_UNTRUSTED, BUNDLE_CORRUPT; with trust anchors also TRUST_*, POLICY_DENIED, STORE_FULL
   */
  ordered(order: { readonly service: string; readonly version: string }, file: Uint8Array, evidence: Evidence): Promise<VerifiedBundle>
  /** Keys whose signature on a stored bundle counts. */
  keysOf(service: string): TrustedKeys
  /** A stored bundle that is about to start. What has expired since does not matter: a device that was off runs what it ran. @throws POLICY_DENIED */
  admitStored(bundle: VerifiedBundle): void
}

export type VerifyBundle = (file: Uint8Array, trusted: TrustedKeys) => Promise<VerifiedBundle>

/** For development: what a bundle key signed runs. */
export function signedBundles(bundleKeys: TrustedKeys, verify: VerifyBundle): BundleTrust {
  return {
    ordered: async (_, file) => await verify(file, bundleKeys),
    keysOf: () => bundleKeys,
    admitStored: () => {},
  }
}

export interface ListedBundlesOptions {
  readonly tuf: TufTrust
  /** Of the image. */
  readonly bundleKeys: TrustedKeys
  readonly verify: VerifyBundle
  /** Where a service would run here. */
  readonly tierOf: (manifest: Manifest) => Tier
}

/** What a bundle key, or a key of its service, signed; what the repository lists; what the policy lets run. */
export function listedBundles({ tuf, bundleKeys, verify, tierOf }: ListedBundlesOptions): BundleTrust {
  const keysOf = (service: string): TrustedKeys => new Map([...bundleKeys, ...tuf.serviceKeys(service)])
  const admit = ({ manifest, keyIds }: VerifiedBundle) => {
    const { name: service, capabilities } = manifest
    requirePolicy(tuf.policy?.policy ?? null, { service, keyIds, capabilities, tier: tierOf(manifest) })
  }
  return {
    ordered: async ({ service, version }, file, { metadata, policy }) => {
      const path = targetPath(service, version)
      const [target] = await tuf.update(metadata, [path], policy)
      if (!target) throw new OffboxError('TRUST_UNLISTED', `nothing vouches for ${path}`)
      requireTargetFile(target, file)
      const bundle = await verify(file, keysOf(service))
      const { name, version: built } = bundle.manifest
      if (name !== service || built !== version || target.custom?.['manifestSha256'] !== bundle.manifestSha256) {
        throw new OffboxError('TRUST_MISMATCH', `${target.role} lists ${path} as another bundle than the one that the file is (${name} ${built})`)
      }
      admit(bundle)
      return bundle
    },
    keysOf,
    admitStored: admit,
  }
}
