/**
 * A lab has nobody to type a passphrase: `npm start` makes its trust repository by itself, root keys and all, under a passphrase that lies
 * beside them. That protects nothing, and the file says so. A real fleet runs `offbox trust init`.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { makeDirectory, readIfThere, writeAtomic } from '../home/atomic.ts'
import { type Home, readAnchors } from '../home/home.ts'
import { readGeneration } from './generations.ts'
import { KeyRing } from './key-ring.ts'
import { fromFile } from './passphrase.ts'
import { type Published, publish } from './publish.ts'
import { delegationOf } from './repository.ts'
import { delegate, initTrust, keysOf, readTrust, type TrustContext } from './trust.ts'
import { serviceRole } from '../../core/tuf/metadata.ts'

/** There in a lab's home only. */
export function labPassphraseFile(trust: string): string {
  return join(trust, 'lab-passphrase')
}

/**
 * Makes what is missing of a lab's repository: keys, roles, a delegation for each service. Repeating it changes nothing.
 * @returns whether it was made now; null when the home has a repository of its owners, which is left alone
 */
export async function ensureLabTrust(home: Home, services: readonly string[], nowMs: number): Promise<boolean | null> {
  const there = await readGeneration(home.trust)
  const passphrase = labPassphraseFile(home.trust)
  if (there && !(await readIfThere(passphrase))) return null
  await makeDirectory(home.trust)
  if (!(await readIfThere(passphrase))) await writeAtomic(passphrase, `${randomBytes(24).toString('base64url')}\n`)
  const context = await labContext(home, nowMs)
  if (!there) await initTrust(context, { rootKeys: 3, threshold: 2 })
  for (const service of services) {
    if (!delegationOf((await readTrust(home.trust)).targets.signed, serviceRole(service))) await delegate(context, service)
  }
  return !there
}

/** Publishes a lab's bundles; sources that changed under the same version replace what was published. */
export async function publishInLab(home: Home, files: readonly Uint8Array[], nowMs: number): Promise<Published[]> {
  return await publish(await labContext(home, nowMs), files, { anchors: (await readAnchors(home)).bundleKeys, replace: true })
}

async function labContext(home: Home, nowMs: number): Promise<TrustContext> {
  return { path: home.trust, nowMs, keys: new KeyRing([keysOf(home.trust)], await fromFile(labPassphraseFile(home.trust))) }
}
