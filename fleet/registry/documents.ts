/** Writes the SBOM and the provenance of a bundle. Pure, and without a clock: the same inputs give the same bytes. */
import type { BundleDocuments } from '../../core/documents.ts'
import type { Digest, Manifest } from '../../core/manifest.ts'
import type { Inputs, Package } from './inputs.ts'

export interface Tools {
  /** "26.10.0" */
  readonly node: string
  readonly esbuild: string
}

export type Subject = Pick<Manifest, 'name' | 'version'> & { readonly payload: Digest }

/** Their bytes in the bundle. */
export function formatDocuments(documents: BundleDocuments): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(documents))
}

export function documentsOf(subject: Subject, inputs: Inputs, tools: Tools): BundleDocuments {
  return { sbom: sbomOf(subject, inputs, tools), provenance: provenanceOf(subject, inputs, tools) }
}

/** CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/): what is in the payload and nothing else. No time and no serial number, by which two builds would differ. */
function sbomOf({ name, version, payload }: Subject, { packages, sources }: Inputs, tools: Tools): BundleDocuments['sbom'] {
  const own = `pkg:generic/${name}@${encodeURIComponent(version)}`
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: {
      tools: { components: [{ type: 'application', name: 'esbuild', version: tools.esbuild }] },
      component: { type: 'application', 'bom-ref': own, name, version, purl: own, hashes: [{ alg: 'SHA-256', content: payload.sha256 }] },
    },
    components: [
      ...packages.map((one) => ({
        type: 'library',
        'bom-ref': purlOf(one),
        name: one.name,
        version: one.version,
        purl: purlOf(one),
        ...(one.license === null ? {} : { licenses: [licenseOf(one.license)] }),
        ...(one.sha512 === null ? {} : { hashes: [{ alg: 'SHA-512', content: one.sha512 }] }),
      })),
      ...sources.map(({ path, sha256 }) => ({ type: 'file', 'bom-ref': `file:${path}`, name: path, hashes: [{ alg: 'SHA-256', content: sha256 }] })),
    ],
    dependencies: [
      { ref: own, dependsOn: [...packages.map(purlOf), ...sources.map(({ path }) => `file:${path}`)] },
      ...packages.map((one) => ({ ref: purlOf(one), dependsOn: packages.filter(({ name: other }) => one.dependsOn.includes(other)).map(purlOf) })),
    ],
  }
}

/** An in-toto statement (https://in-toto.io/Statement/v1) with SLSA's provenance (https://slsa.dev/provenance/v1). */
function provenanceOf(
  { name, version, payload }: Subject,
  { commit, folder, sources, packages, lockSha256 }: Inputs,
  tools: Tools,
): BundleDocuments['provenance'] {
  return {
    _type: 'https://in-toto.io/Statement/v1',
    subject: [{ name: `services/${name}/${version}`, digest: { sha256: payload.sha256 } }],
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: 'urn:offbox:bundle-build:v1',
        externalParameters: { folder, version },
        internalParameters: { dirty: commit?.dirty ?? null, lockSha256 },
        resolvedDependencies: [
          ...(commit ? [{ name: 'source', digest: { gitCommit: commit.id } }] : []),
          ...sources.map(({ path, sha256 }) => ({ name: path, digest: { sha256 } })),
          ...packages.map((one) => ({ uri: purlOf(one), ...(one.sha512 === null ? {} : { digest: { sha512: one.sha512 } }) })),
        ],
      },
      runDetails: { builder: { id: 'urn:offbox:bundle-build', version: { node: tools.node, esbuild: tools.esbuild } } },
    },
  }
}

/** An SPDX expression, or a name where a package says something else ("SEE LICENSE IN …"). */
function licenseOf(license: string): object {
  return /^[A-Za-z0-9.+() -]+$/.test(license) && !/^SEE /.test(license) ? { expression: license } : { license: { name: license } }
}

/** https://github.com/package-url/purl-spec, type npm: the scope's "@" is escaped. */
function purlOf({ name, version }: Pick<Package, 'name' | 'version'>): string {
  return `pkg:npm/${name.replace(/^@/, '%40')}@${encodeURIComponent(version)}`
}

/** The facts that people ask for first; null where the documents do not say. For showing, so it takes what it finds. */
export function summaryOf({ sbom, provenance }: BundleDocuments): Record<string, unknown> {
  const definition = at(provenance, 'predicate', 'buildDefinition')
  const source = list(at(definition, 'resolvedDependencies')).find((one) => at(one, 'name') === 'source')
  return {
    commit: at(source, 'digest', 'gitCommit'),
    dirty: at(definition, 'internalParameters', 'dirty'),
    folder: at(definition, 'externalParameters', 'folder'),
    lockSha256: at(definition, 'internalParameters', 'lockSha256'),
    builder: at(provenance, 'predicate', 'runDetails', 'builder'),
    packages: list(at(sbom, 'components'))
      .map((one) => at(one, 'purl'))
      .filter((purl) => typeof purl === 'string'),
  }
}

const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])

function at(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce((found, name) => (typeof found === 'object' && found !== null && Object.hasOwn(found, name) ? Reflect.get(found, name) : null), value)
}
