/** The keys that targets metadata delegates a service to. A bundle may be signed by them too, under the ids that bundles use. */
import { keyIdOf, type TrustedKeys } from '../signing.ts'
import { publicKeyOf } from './keys.ts'
import { serviceRole, type Targets } from './metadata.ts'

/** By bundle key id (SHA-256 of the raw key); empty when nobody may sign for it. @throws TRUST_MALFORMED a key that is not usable */
export function serviceKeys({ delegations }: Targets, service: string): TrustedKeys {
  const role = delegations?.roles.find(({ name }) => name === serviceRole(service))
  return new Map((role?.keyids ?? []).map((keyid) => namedForBundles(publicKeyOf(keyid, delegations?.keys[keyid]))))
}

function namedForBundles(key: Uint8Array): [string, Uint8Array] {
  return [keyIdOf(key), key]
}
