/** Whether a verified bundle may run here, as ordered. Pure. */
import { OffboxError } from '../../core/errors.ts'
import type { Capability, Manifest } from '../../core/manifest.ts'
import semver from 'semver'

export interface Admission {
  /** What the order says the bundle is. */
  readonly ordered: { readonly service: string; readonly version: string; readonly allowDowngrade: boolean }
  /** Lowest version accepted, from signed floors; undefined without one. */
  readonly floor: string | undefined
  /** Version of this service that runs or is stored as active; undefined for none. */
  readonly running: string | undefined
  /** What this device lends. */
  readonly granted: ReadonlySet<Capability>
  /** Who serves a method at present: the name of a service, or "agent". */
  readonly servedBy: (path: string) => string | undefined
}

/**
 * @throws ARGUMENT_INVALID, BUNDLE_ROLLBACK, BUNDLE_DOWNGRADE, CAPABILITY_DENIED, METHOD_CONFLICT
 */
export function admit(manifest: Manifest, against: Admission): void {
  const { ordered, floor, running, granted } = against
  if (manifest.name !== ordered.service || manifest.version !== ordered.version) {
    throw new OffboxError('ARGUMENT_INVALID', `ordered ${ordered.service} ${ordered.version}, the bundle is ${manifest.name} ${manifest.version}`)
  }
  admitFloor(manifest, floor)
  if (running !== undefined && semver.lt(manifest.version, running) && !ordered.allowDowngrade) {
    throw new OffboxError('BUNDLE_DOWNGRADE', `${manifest.name} ${manifest.version} is older than ${running}, which runs`)
  }
  const denied = manifest.capabilities.find((capability) => !granted.has(capability))
  if (denied !== undefined) throw new OffboxError('CAPABILITY_DENIED', `this device does not lend "${denied}" to ${manifest.name}`)
  for (const { path } of manifest.methods) {
    const owner = against.servedBy(path)
    if (owner !== undefined && owner !== manifest.name) throw new OffboxError('METHOD_CONFLICT', `${path} is already served by ${owner}`)
  }
}

/** Below the floor nothing runs, whoever orders it and whatever ran before. @throws BUNDLE_ROLLBACK */
export function admitFloor(manifest: Manifest, floor: string | undefined): void {
  if (floor === undefined || semver.gte(manifest.version, floor)) return
  throw new OffboxError('BUNDLE_ROLLBACK', `${manifest.name} ${manifest.version} is below the floor ${floor}`)
}
