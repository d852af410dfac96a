/** The fleet's signed floors: floors.bin in the home, handed to devices at enrolment and with each order. */
import semver from 'semver'
import { OffboxError } from '../../core/errors.ts'
import { type Floors, floorsSignedBytes, joinFloors, NO_FLOORS, readFloors } from '../../core/floors.ts'
import { isServiceName } from '../../core/manifest.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { readIfThere, writeAtomic } from '../home/atomic.ts'
import type { SigningKey } from '../home/keys.ts'

/** The file as it goes to devices; empty when no floor was ever set. */
export async function readFloorsFile(path: string): Promise<Uint8Array> {
  return (await readIfThere(path)) ?? new Uint8Array()
}

/**
 * Raises the floor of a service and signs the statement anew, its number one higher.
 * @throws ARGUMENT_INVALID not a service or version, or lower than the floor in force (a floor never falls)
 * @throws FLOORS_UNTRUSTED the file in place was not signed by a trusted key
 */
export async function raiseFloor(input: { path: string; key: SigningKey; trusted: TrustedKeys }, service: string, version: string): Promise<Floors> {
  if (!isServiceName(service)) throw new OffboxError('ARGUMENT_INVALID', `${JSON.stringify(service)} is no service name`)
  if (semver.valid(version) !== version) throw new OffboxError('ARGUMENT_INVALID', `${JSON.stringify(version)} is no SemVer version`)
  const file = await readFloorsFile(input.path)
  const before = file.length === 0 ? NO_FLOORS : readFloors(file, input.trusted)
  const floor = before.floors[service]
  if (floor === version) return before
  if (floor !== undefined && semver.lt(version, floor)) {
    throw new OffboxError('ARGUMENT_INVALID', `the floor of ${service} is ${floor}; a floor never falls`)
  }
  const next: Floors = { version: before.version + 1, floors: { ...before.floors, [service]: version } }
  const json = new TextEncoder().encode(JSON.stringify(next))
  const signature = input.key.sign(floorsSignedBytes(json))
  const signed = joinFloors(json, [{ keyId: input.key.keyId, signature }])
  // A key that is not an anchor would make a statement that every device refuses.
  readFloors(signed, input.trusted)
  await writeAtomic(input.path, signed, { mode: 0o644 })
  return next
}
