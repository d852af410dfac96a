/**
 * A lab has nobody to type a passphrase: `npm start` makes its trust repository by itself, root keys and all, under a
 * passphrase that lies beside them. That protects nothing, and the file says so. A real fleet runs `offbox trust init`.
 */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { TrustedKeys } from '../../core/signing.ts'
import { makeDirectory, writeAtomic } from '../home/atomic.ts'
import { serviceRole } from '../../core/tuf/metadata.ts'
import { type Home, readAnchors } from '../home/home.ts'
import { readBundle } from '../registry/verify.ts'
import { readGeneration } from './generations.ts'
import { KeyRing } from './key-ring.ts'
import { fromFile } from './passphrase.ts'
import { allowing, changePolicy, type PolicyWish, wishOf } from './policy.ts'
import { type Published, publish } from './publish.ts'
import { delegationOf } from './repository.ts'
import { isDue, statusOf } from './status.ts'
import { delegate, initTrust, keysOf, readTrust, refresh, type TrustContext } from './trust.ts'

/** There in a lab's home only. */
export function labPassphraseFile(trust: string): string {
  return join(trust, 'lab-passphrase')
}

/** Whether the home's repository is a lab's: its keys open without anybody being asked. */
export function isLab(home: Home): boolean {
  return existsSync(labPassphraseFile(home.trust))
}

/** The keys of a lab; null when the home has a repository of its owners. One of these for all that a command does: opening a key takes half a second. */
export async function openLab(home: Home, nowMs: number): Promise<TrustContext | null> {
  const passphrase = labPassphraseFile(home.trust)
  if (!isLab(home)) {
    if (await readGeneration(home.trust)) return null
    await makeDirectory(home.trust)
    await writeAtomic(passphrase, `${randomBytes(24).toString('base64url')}\n`)
  }
  return { path: home.trust, nowMs, keys: new KeyRing([keysOf(home.trust)], await fromFile(passphrase)) }
}

/**
 * Makes what is missing of a lab's repository: keys, roles, a delegation for each service. Repeating it changes nothing.
 * @returns whether the repository was made now
 */
export async function ensureLabTrust(context: TrustContext, services: readonly string[]): Promise<boolean> {
  const there = await readGeneration(context.path)
  if (!there) await initTrust(context, { rootKeys: 3, threshold: 2 })
  for (const service of services) {
    if (!delegationOf((await readTrust(context.path)).targets.signed, serviceRole(service))) await delegate(context, service)
  }
  return !there
}

/**
 * Publishes a lab's bundles; sources that changed under the same version replace what was published. Whatever would expire soon is signed
 * anew: a lab may have slept for months.
 */
export async function publishInLab(context: TrustContext, files: readonly Uint8Array[], anchors: TrustedKeys): Promise<Published[]> {
  const published = await publish(context, files, { anchors, replace: true })
  const due = statusOf(await readTrust(context.path), [], context.nowMs).roles.filter(isDue)
  if (due.length > 0)
    await refresh(
      context,
      due.map(({ role }) => role).filter((role) => role !== 'timestamp'),
    )
  return published
}

/**
 * Whatever comes into a lab's registry is published, and a service that the policy does not name yet is let run as its manifest says. What
 * the policy says already stays: a release that asks for more has to be allowed by hand. Does nothing in a home that is no lab's.
 * @returns services that the policy names now
 */
export async function offerInLab(home: Home, files: readonly Uint8Array[], nowMs: number): Promise<readonly string[]> {
  const context = isLab(home) ? await openLab(home, nowMs) : null
  if (!context || !(await readGeneration(home.trust))) return []
  const { bundleKeys } = await readAnchors(home)
  const wishes = wishesOf(files, bundleKeys)
  await ensureLabTrust(
    context,
    wishes.map(({ service }) => service),
  )
  await publishInLab(context, files, bundleKeys)
  let news: string[] = []
  await changePolicy(context, (before) => {
    news = wishes.map(({ service }) => service).filter((service) => !Object.hasOwn(before, service))
    return allowing(
      before,
      wishes.filter(({ service }) => news.includes(service)),
    )
  })
  return news
}

/** What the policy has to let run for these bundles. @throws BUNDLE_… one that no key of the fleet signed */
export function wishesOf(files: readonly Uint8Array[], bundleKeys: TrustedKeys): PolicyWish[] {
  return files.map((file) => {
    const { manifest, keyIds } = readBundle(file, bundleKeys)
    return wishOf(manifest, keyIds)
  })
}
