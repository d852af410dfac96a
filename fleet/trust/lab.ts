/**
 * A lab has nobody to type a passphrase: `npm start` makes its trust repository by itself, root keys and all, under a passphrase that lies
 * beside them. That protects nothing, and the file says so. A real fleet runs `offbox trust init`.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { makeDirectory, readIfThere, writeAtomic } from '../home/atomic.ts'
import { serviceRole } from '../../core/tuf/metadata.ts'
import { type Home, readAnchors } from '../home/home.ts'
import { readGeneration } from './generations.ts'
import { KeyRing } from './key-ring.ts'
import { fromFile } from './passphrase.ts'
import { type Published, publish } from './publish.ts'
import { delegationOf } from './repository.ts'
import { isDue, statusOf } from './status.ts'
import { delegate, initTrust, keysOf, readTrust, refresh, type TrustContext } from './trust.ts'

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

/**
 * Publishes a lab's bundles; sources that changed under the same version replace what was published. Whatever would expire soon is signed
 * anew: a lab may have slept for months.
 */
export async function publishInLab(home: Home, files: readonly Uint8Array[], nowMs: number): Promise<Published[]> {
  const context = await labContext(home, nowMs)
  const published = await publish(context, files, { anchors: (await readAnchors(home)).bundleKeys, replace: true })
  const due = statusOf(await readTrust(home.trust), [], nowMs).roles.filter(isDue)
  if (due.length > 0)
    await refresh(
      context,
      due.map(({ role }) => role).filter((role) => role !== 'timestamp'),
    )
  return published
}

async function labContext(home: Home, nowMs: number): Promise<TrustContext> {
  return { path: home.trust, nowMs, keys: new KeyRing([keysOf(home.trust)], await fromFile(labPassphraseFile(home.trust))) }
}
