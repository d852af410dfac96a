/** From which source the code that runs was built, whose keys signed it, who lists it, and which policy lets it run. */
import { splitBundle } from '../../core/bundle-format.ts'
import { readDocuments } from '../../core/documents.ts'
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import type { Manifest, Tier } from '../../core/manifest.ts'
import { policyVerdict } from '../../core/policy.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { serviceRole } from '../../core/tuf/metadata.ts'
import { sha256Hex } from '../home/keys.ts'
import { summaryOf } from '../registry/documents.ts'
import { readBundle } from '../registry/verify.ts'
import { bundleKeysOf } from '../trust/publish.ts'
import type { Evidence } from './evidence.ts'
import { listedBy } from './listing.ts'
import { type Found, short, type Statement } from './statement.ts'

/** What is known of what runs. */
export interface Code {
  readonly service: string
  readonly version: string
  /** Of its manifest, hex; empty: not known. */
  readonly manifestSha256: string
  /** Who names that digest, in words. */
  readonly namedBy: string
  /** Where it runs; empty: not known. */
  readonly tier: string
}

interface Opened {
  readonly manifest: Manifest
  readonly fileSha256: string
  /** Trusted keys that signed it, hex. */
  readonly keyIds: readonly string[]
}

export async function originOf(evidence: Evidence, code: Code): Promise<Statement[]> {
  const [file, trust, believed] = [await evidence.bundle(code.service, code.version), await evidence.repository(), await evidence.believed()]
  const repository = 'value' in trust ? trust.value : null
  const delegated = repository ? bundleKeysOf(repository.repository.targets.signed, serviceRole(code.service)) : new Map<string, Uint8Array>()
  const opened = open(file, code, { anchors: evidence.anchors.bundleKeys, delegated })
  const bundle = opened.bundle
  const listed = listedBy(trust, believed, { ...code, fileSha256: bundle?.fileSha256 ?? '', anchors: evidence.anchors })
  return [...opened.statements, ...listed, policyStatement(trust, believed, bundle, code)]
}

function open(file: Found<Uint8Array>, code: Code, keys: { anchors: TrustedKeys; delegated: TrustedKeys }): { bundle: Opened | null; statements: Statement[] } {
  const { service, version, manifestSha256, namedBy } = code
  if ('missing' in file) {
    const unknown = (question: 'source' | 'keys') =>
      ({ question, standing: 'unknown', text: `the bundle of ${service} ${version} is not at hand`, basis: file.missing }) as const
    return { bundle: null, statements: [unknown('source'), unknown('keys')] }
  }
  try {
    const sections = splitBundle(file.value)
    const { manifest, keyIds } = readBundle(file.value, new Map([...keys.anchors, ...keys.delegated]))
    const digest = sha256Hex(sections.manifest)
    const other = manifestSha256 !== '' && digest !== manifestSha256
    if (other || manifest.name !== service || manifest.version !== version) {
      const text = `the registry's bundle of ${service} ${version} has manifest ${short(digest)}, and ${short(manifestSha256)} runs: other code under the same name`
      return { bundle: null, statements: [{ question: 'source', standing: 'refuted', text, basis: `its bytes, and the digest in ${namedBy}` }] }
    }
    const tie = manifestSha256 === '' ? 'whether these bytes are the ones that run is not known' : `its manifest's digest is the one in ${namedBy}`
    const bundle = { manifest, fileSha256: sha256Hex(file.value), keyIds }
    return { bundle, statements: [sourceStatement(manifest, sections.documents, tie), keysStatement(bundle, keys, tie)] }
  } catch (error) {
    if (!(error instanceof OffboxError)) throw error
    const text = `the registry's bundle of ${service} ${version} proves nothing: ${codeOf(error)}: ${messageOf(error)}`
    return {
      bundle: null,
      statements: [{ question: 'keys', standing: 'refuted', text, basis: 'its bytes, and the keys that the anchors and the repository name' }],
    }
  }
}

/** What stands in the provenance is the builder's word; that it is this bundle's provenance is what can be verified. */
function sourceStatement(manifest: Manifest, bytes: Uint8Array | undefined, tie: string): Statement {
  const documents = readDocuments(manifest, bytes)
  if (!documents) {
    return {
      question: 'source',
      standing: 'unknown',
      text: 'the bundle has no provenance',
      basis: 'it was built without one, so nothing says from which commit',
    }
  }
  const summary = summaryOf(documents)
  const { commit, dirty, folder, builder, packages, lockSha256 } = summary
  const basis = `the provenance inside the bundle, under its signature and digest (${tie}): what its builder says; nothing was built anew here`
  const facts = { ...summary, documentsSha256: manifest.documents?.sha256 ?? null }
  if (typeof commit !== 'string') {
    return {
      question: 'source',
      standing: 'unknown',
      text: `its provenance names no commit, only the folder ${folder}`,
      basis: 'it was built outside a git checkout',
      facts,
    }
  }
  const clean = dirty === true ? ', WITH CHANGES THAT NO COMMIT HAS' : ''
  const count = Array.isArray(packages) ? packages.length : 0
  const { id, version } = (builder ?? {}) as { id?: string; version?: Record<string, string> }
  const tools = Object.entries(version ?? {}).map(([name, value]) => `${name} ${value}`)
  const lock = typeof lockSha256 === 'string' ? `, lock ${short(lockSha256)}` : ''
  const text = `built from commit ${commit}${clean}, folder ${folder}, with ${count} packages${lock}, by ${id ?? 'a builder without a name'} (${tools.join(', ')})`
  return { question: 'source', standing: 'verified', text, basis, facts }
}

function keysStatement({ keyIds }: Opened, { anchors, delegated }: { anchors: TrustedKeys; delegated: TrustedKeys }, tie: string): Statement {
  const keys = keyIds.map((keyId) => ({ keyId, of: [...(anchors.has(keyId) ? ['anchors'] : []), ...(delegated.has(keyId) ? ['service'] : [])] }))
  const words = keys.map(
    ({ keyId, of }) => `${short(keyId)} (${of.map((one) => (one === 'anchors' ? "the fleet's bundle key" : "the service's own key")).join(', ')})`,
  )
  return {
    question: 'keys',
    standing: 'verified',
    text: `signed by ${words.join(' and ')}`,
    basis: `Ed25519 over the manifest, verified here with the keys of the anchors and of the trust repository; ${tie}`,
    facts: { keys },
  }
}

function policyStatement(
  trust: Awaited<ReturnType<Evidence['repository']>>,
  believed: Awaited<ReturnType<Evidence['believed']>>,
  bundle: Opened | null,
  code: Code,
): Statement {
  const question = 'policy'
  if ('missing' in trust) return { question, standing: 'unknown', text: 'the policy is not at hand', basis: trust.missing }
  const device = 'value' in believed ? believed.value : null
  if (device && !device.enforced) {
    return {
      question,
      standing: 'stated',
      text: 'the device demands no policy: its image carries no trust anchors',
      basis: "the device's own word (Trust.Status)",
    }
  }
  const policy = trust.value?.policy ?? null
  if (!trust.value) return { question, standing: 'stated', text: 'the fleet has no trust repository, and so no policy', basis: 'the home' }
  if (!bundle || !policy) {
    const text = policy ? 'whether the policy lets it run cannot be told without its bundle' : 'the repository holds no policy'
    return { question, standing: 'unknown', text, basis: policy ? 'the policy judges keys, capabilities and tier' : 'so devices that demand one run nothing' }
  }
  const tier = (code.tier || bundle.manifest.tier || 'worker') as Tier
  const broken = policyVerdict(policy.policy, { service: code.service, keyIds: bundle.keyIds, capabilities: bundle.manifest.capabilities, tier })
  const same = !device
    ? '; what the device has in force was not asked'
    : device.policySha256 === policy.sha256
      ? ', the one that the device says is in force'
      : ''
  const differs = device && device.policySha256 !== policy.sha256 ? `; the device says that version ${device.policyVersion} is in force there` : ''
  const facts = {
    version: policy.policy.version,
    sha256: policy.sha256,
    deviceVersion: device?.policyVersion ?? null,
    rule: policy.policy.services[code.service] ?? null,
    broken,
  }
  const basis = `the policy file, whose digest the role targets signed${same}${differs}`
  if (broken !== null) return { question, standing: 'refuted', text: `the policy would not let it run now: ${broken}`, basis, facts }
  const lent = bundle.manifest.capabilities.join(', ') || 'no capability'
  return { question, standing: 'verified', text: `policy version ${policy.policy.version} lets it run: its key, ${lent}, tier ${tier}`, basis, facts }
}
