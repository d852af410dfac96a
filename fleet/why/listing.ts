/** Which role of the trust repository lists what runs, signed by which keys, back to the root that devices begin with. */
import type { Anchors } from '../../core/anchors.ts'
import { fileName, type Metadata, type RoleKeys, serviceRole, targetPath } from '../../core/tuf/metadata.ts'
import { signersOf } from '../../core/tuf/signatures.ts'
import type { TrustStatus } from '../../proto/gen/trust.ts'
import { delegationOf, latestRoot, type Repository } from '../trust/repository.ts'
import type { Evidence } from './evidence.ts'
import { type Found, short, type Statement } from './statement.ts'

interface Wanted {
  readonly service: string
  readonly version: string
  readonly manifestSha256: string
  readonly namedBy: string
  /** Empty: the bundle is not at hand. */
  readonly fileSha256: string
  readonly anchors: Anchors
}

type Trust = Awaited<ReturnType<Evidence['repository']>>

export function listedBy(trust: Trust, believed: Found<TrustStatus>, wanted: Wanted): Statement[] {
  const question = 'listed'
  if ('missing' in trust) return [{ question, standing: 'unknown', text: 'the trust repository is not at hand', basis: trust.missing }]
  const device = 'value' in believed ? believed.value : null
  if (!trust.value) {
    // What a device demands shows on the device alone.
    const demands = device?.enforced === true
    const text = demands ? 'the device demands a listing, and the repository is not in this home' : 'nothing lists it: the fleet has no trust repository'
    return [{ question, standing: demands ? 'unknown' : 'stated', text, basis: device ? 'the home, and what the device says it demands' : 'the home' }]
  }
  return [targetStatement(trust.value.repository, wanted, device), rootStatement(trust.value.repository, wanted.anchors)]
}

function targetStatement(repository: Repository, wanted: Wanted, device: TrustStatus | null): Statement {
  const { service, version, manifestSha256, namedBy, fileSha256 } = wanted
  const role = serviceRole(service)
  const path = targetPath(service, version)
  const metadata = repository.roles.get(role)
  const delegation = delegationOf(repository.targets.signed, role)
  const target = metadata?.signed.targets[path]
  if (!metadata || !delegation || !target) {
    const enforced = device === null || device.enforced
    const text = `${path} is not listed (any more): whether it was when it was ordered, the repository of today does not tell`
    const basis = 'the newest metadata of the repository, verified here'
    return { question: 'listed', standing: enforced ? 'unknown' : 'stated', text, basis, facts: { path, role: null } }
  }
  const table = repository.targets.signed.delegations?.keys ?? {}
  const keys = signersOf(metadata, delegation, table)
  const facts = {
    path,
    role,
    roleVersion: metadata.signed.version,
    threshold: delegation.threshold,
    keys,
    sha256: target.hashes.sha256,
    manifestSha256: target.custom?.manifestSha256 ?? null,
  }
  const listedManifest = target.custom?.manifestSha256
  const otherFile = fileSha256 !== '' && fileSha256 !== target.hashes.sha256
  const otherManifest = manifestSha256 !== '' && listedManifest !== undefined && listedManifest !== manifestSha256
  if (otherFile || otherManifest) {
    const text = `${role} lists other bytes as ${path}: manifest ${short(listedManifest ?? '')}, and ${short(manifestSha256)} runs`
    return { question: 'listed', standing: 'refuted', text, basis: `metadata verified here, and ${namedBy}`, facts }
  }
  const seen = device?.heights[role]
  const known = seen === undefined ? '' : `; the device says that it has seen version ${seen} of it`
  return {
    question: 'listed',
    standing: 'verified',
    text: `${path} is listed by ${role} version ${metadata.signed.version}, signed by ${wordsOf(keys)} (${delegation.threshold} of ${delegation.keyids.length} must), valid until ${metadata.signed.expires}`,
    basis: `metadata verified here; it names these bytes and the manifest that runs${known}`,
    facts,
  }
}

/** Who let the role sign: targets, by the root, by the root that devices begin with. */
function rootStatement(repository: Repository, anchors: Anchors): Statement {
  const root = latestRoot(repository)
  const by = (metadata: Metadata, role: RoleKeys) => signersOf(metadata, role, root.signed.keys)
  const [targetsKeys, rootKeys] = [by(repository.targets, root.signed.roles.targets), by(root, root.signed.roles.root)]
  const facts = {
    targetsVersion: repository.targets.signed.version,
    targetsKeys,
    rootVersion: root.signed.version,
    rootKeys,
    rootThreshold: root.signed.roles.root.threshold,
  }
  const chain = `that role by targets version ${facts.targetsVersion} (signed by ${wordsOf(targetsKeys)}), that by root version ${facts.rootVersion} (signed by ${wordsOf(rootKeys)}, ${facts.rootThreshold} must)`
  if (!anchors.trust)
    return {
      question: 'listed',
      standing: 'stated',
      text: chain,
      basis: 'metadata verified here; the anchors of this home name no root to begin with, so devices demand none',
      facts,
    }
  const begin = anchors.trust.root
  const at = repository.roots.find(({ signed }) => Buffer.from(repository.files.get(fileName('root', signed.version)) ?? []).toString('utf8') === begin)
  if (!at) return { question: 'listed', standing: 'refuted', text: chain, basis: 'the anchors begin with a root of another repository', facts }
  const broken = brokenAfter(repository, at.signed.version)
  if (broken !== null) {
    return { question: 'listed', standing: 'refuted', text: chain, basis: `root version ${broken} is not signed by the keys of the one before it`, facts }
  }
  const from =
    at.signed.version === root.signed.version
      ? 'which is the root that devices begin with'
      : `which follows from root version ${at.signed.version}, with which devices begin`
  return {
    question: 'listed',
    standing: 'verified',
    text: `${chain}, ${from}`,
    basis: 'metadata verified here, and the anchors of this home',
    facts: { ...facts, anchoredAt: at.signed.version },
  }
}

/** The first root behind the anchored one that the keys of the one before did not sign for; null: each follows. */
function brokenAfter({ roots }: Repository, anchored: number): number | null {
  for (const [index, root] of roots.entries()) {
    const before = roots[index - 1]
    if (!before || root.signed.version <= anchored) continue
    const role = before.signed.roles.root
    if (signersOf(root, role, before.signed.keys).length < role.threshold) return root.signed.version
  }
  return null
}

function wordsOf(keys: readonly string[]): string {
  return keys.length === 0 ? 'nobody' : keys.map(short).join(', ')
}
