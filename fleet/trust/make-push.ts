/** Picks from the repository what one order needs to carry. Pure. */
import { TUF_LIMITS } from '../../core/tuf/limits.ts'
import { fileName, serviceRole } from '../../core/tuf/metadata.ts'
import { filesOf, type MetadataFile, type MetadataPush } from '../../core/tuf/push.ts'
import type { Repository } from './repository.ts'

/**
 * The metadata for a device that trusts root `rootVersion`, about `services`.
 * @param rootVersion of the device; 0 when it is not known, then every root goes along from version 2 on
 * @returns `more`: the device is so far behind that this push holds roots alone; ask again with its new root version
 * @throws TRUST_MALFORMED more services than one push can hold
 */
export function makePush(repository: Repository, order: { rootVersion: number; services: readonly string[] }): { push: MetadataPush; more: boolean } {
  const file = (role: string, version: number): MetadataFile[] => {
    const name = fileName(role, version)
    const bytes = repository.files.get(name)
    return bytes ? [{ name, bytes }] : []
  }
  const missing = repository.roots.slice(Math.max(order.rootVersion, 1))
  const roots = missing.slice(0, TUF_LIMITS.rootsPerPushMax).flatMap(({ signed }) => file('root', signed.version))
  if (roots.length < missing.length) return { push: { files: roots }, more: true }
  const { meta } = repository.snapshot.signed
  const delegated = [...new Set(order.services)].flatMap((service) => {
    const role = serviceRole(service)
    return repository.roles.has(role) ? file(role, meta[`${role}.json`]?.version ?? 0) : []
  })
  const top = [...file('timestamp', 0), ...file('snapshot', repository.snapshot.signed.version), ...file('targets', repository.targets.signed.version)]
  const push = { files: [...roots, ...top, ...delegated] }
  filesOf(push)
  return { push, more: false }
}
