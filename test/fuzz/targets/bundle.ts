/** Bundles, manifests, documents and signed floors: what comes from the registry, and what lies in the store. */
import { createHash, createPrivateKey, sign } from 'node:crypto'
import { verifyBundle } from '../../../agent/trust/verify.ts'
import { type BundleSections, bundleSignedBytes, joinBundle, splitBundle } from '../../../core/bundle-format.ts'
import { checkDocuments, readDocuments } from '../../../core/documents.ts'
import { type Floors, floorsSignedBytes, joinFloors, parseFloors, readFloors } from '../../../core/floors.ts'
import { limitsOf, type Manifest, parseManifest, providedBy } from '../../../core/manifest.ts'
import { keyIdOf, type VerifiedBytes } from '../../../core/signing.ts'
import { holds, jsonBytes, type Target, textBytes } from '../target.ts'

/** A fixed key: the same seeds in every run. Signing by node:crypto is a hundred times faster than tweetnacl's, and the same. */
const privateKey = createPrivateKey({ key: Buffer.from(`302e020100300506032b657004220420${'5e'.repeat(32)}`, 'hex'), format: 'der', type: 'pkcs8' })
const publicKey = new Uint8Array(Buffer.from(privateKey.export({ format: 'jwk' }).x ?? '', 'base64url'))
const keyId = keyIdOf(publicKey)
const trusted = new Map([[keyId, publicKey]])
export const signature = (message: Uint8Array) => new Uint8Array(sign(null, message, privateKey))

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const digest = (bytes: Uint8Array) => ({ sha256: sha256(bytes), sizeBytes: bytes.length })

const payload = textBytes('var offboxService=(()=>({create:()=>({})}))()')
const documents = jsonBytes({ sbom: { bomFormat: 'CycloneDX', components: [{ name: 'a', version: '1.0.0' }] }, provenance: { predicate: { builder: {} } } })

const small = {
  schema: 1,
  name: 'a',
  version: '1.0.0',
  methods: [],
  capabilities: [],
  snapshot: { writes: [], reads: [] },
  heapMbMax: 64,
  payload: digest(payload),
}
const full = {
  ...small,
  name: 'telemetry',
  version: '1.2.3-rc.1',
  methods: [
    { path: '/offbox.v1.Telemetry/Get', kind: 'unary', mutates: true },
    { path: '/offbox.v1.Telemetry/Watch', kind: 'serverStream', resumable: true },
  ],
  capabilities: ['proc', 'state'],
  snapshot: { writes: [2], reads: [1, 2] },
  tier: 'process',
  provides: { 'offbox.v1.Telemetry': '1.1.0' },
  requires: { kernel: '^1.0.0', apis: { 'offbox.v1.Routing': '>=1.2 <3 || 4.x' } },
  limits: { memoryMbMax: 128, cpuPercentMax: 50, messagesPerSecondMax: 10, streamsMax: 2, logLinesPerSecondMax: 1 },
  documents: digest(documents),
}

function signed(sections: Omit<BundleSections, 'signatures'>): Uint8Array {
  return joinBundle({ ...sections, signatures: [{ keyId, signature: signature(bundleSignedBytes(sections.manifest)) }] })
}
const bundles = [signed({ manifest: jsonBytes(small), payload }), signed({ manifest: jsonBytes(full), payload, documents })]
const manifests = [jsonBytes(small), jsonBytes(full)]
const genuine = new Set(manifests.map(sha256))

const asVerified = (bytes: Uint8Array) => bytes as VerifiedBytes

function checkUse(manifest: Manifest): void {
  holds(
    Object.values(limitsOf(manifest)).every((value) => Number.isFinite(value) && value > 0),
    'a limit is no positive number',
  )
  holds(
    [...providedBy(manifest).values()].every((version) => /^\d+\.\d+\.\d+/.test(version)),
    'an API is provided in no version',
  )
}

function checkFloors({ version, floors }: Floors): void {
  holds(Number.isSafeInteger(version) && version > 0 && Object.values(floors).every((one) => typeof one === 'string'), 'floors without versions')
}

export const bundleTargets: readonly Target[] = [
  {
    name: 'bundle-split',
    reads: 'core/bundle-format.ts splitBundle, any bytes',
    seeds: () => bundles,
    codes: ['BUNDLE_MALFORMED'],
    inputBytesMax: 1024 * 1024,
    run: (input) => {
      const sections = splitBundle(input)
      holds(Buffer.compare(joinBundle(sections), input) === 0, 'two files with the same sections')
      return true
    },
  },
  {
    name: 'bundle',
    reads: 'agent/trust/verify.ts verifyBundle with a trusted key, any bytes',
    seeds: () => bundles,
    codes: ['BUNDLE_MALFORMED', 'BUNDLE_UNTRUSTED', 'BUNDLE_CORRUPT'],
    // tweetnacl takes 20 ms a kilobyte, and a longer manifest of these bytes would only be refused later.
    inputBytesMax: 8 * 1024,
    coverage: 'off',
    run: (input) => {
      const { manifestSha256, payload: code } = verifyBundle(input, trusted)
      holds(genuine.has(manifestSha256) && Buffer.compare(code, payload) === 0, 'bytes pass that nobody signed')
      return true
    },
  },
  {
    name: 'bundle-signed',
    reads: 'agent/trust/verify.ts verifyBundle, any manifest, signed and with its payload: what a thief of the key could make',
    seeds: () => manifests,
    codes: ['BUNDLE_MALFORMED', 'BUNDLE_CORRUPT'],
    inputBytesMax: 4 * 1024,
    coverage: 'off',
    run: (input) => {
      checkUse(verifyBundle(signed({ manifest: input, payload, documents }), trusted).manifest)
      return true
    },
  },
  {
    name: 'manifest',
    reads: 'core/manifest.ts parseManifest behind the check of the signature, and the digests',
    seeds: () => manifests,
    codes: ['BUNDLE_MALFORMED', 'BUNDLE_CORRUPT'],
    inputBytesMax: 64 * 1024,
    run: (input) => {
      const manifest = parseManifest(asVerified(input))
      checkUse(manifest)
      checkDocuments(manifest, documents)
      return true
    },
  },
  {
    name: 'documents',
    reads: 'core/documents.ts readDocuments, any bytes that the manifest has the digest of',
    seeds: () => [documents],
    codes: ['BUNDLE_MALFORMED'],
    inputBytesMax: 512 * 1024,
    run: (input) => {
      const read = readDocuments({ ...(full as unknown as Manifest), documents: digest(input) }, input)
      if (!read) return false
      holds(typeof read.sbom === 'object' && typeof read.provenance === 'object', 'documents without an SBOM or a provenance')
      return true
    },
  },
  {
    name: 'floors',
    reads: 'core/floors.ts readFloors, any statement, signed',
    seeds: () => [jsonBytes({ version: 3, floors: { telemetry: '1.2.0', routing: '0.9.0-rc.1' } })],
    codes: ['FLOORS_UNTRUSTED'],
    // As for bundles: the check of the signature is the costly part.
    inputBytesMax: 1024,
    coverage: 'off',
    run: (input) => {
      checkFloors(readFloors(joinFloors(input, [{ keyId, signature: signature(floorsSignedBytes(input)) }]), trusted))
      return true
    },
  },
  {
    name: 'floors-json',
    reads: 'core/floors.ts parseFloors behind the check of the signature',
    seeds: () => [jsonBytes({ version: 3, floors: { telemetry: '1.2.0', routing: '0.9.0-rc.1' } })],
    codes: ['FLOORS_UNTRUSTED'],
    inputBytesMax: 64 * 1024,
    run: (input) => {
      checkFloors(parseFloors(asVerified(input)))
      return true
    },
  },
  {
    name: 'floors-file',
    reads: 'core/floors.ts readFloors, any bytes',
    seeds: () => {
      const json = jsonBytes({ version: 1, floors: { a: '1.0.0' } })
      return [joinFloors(json, [{ keyId, signature: signature(floorsSignedBytes(json)) }])]
    },
    codes: ['FLOORS_UNTRUSTED'],
    inputBytesMax: 4 * 1024,
    coverage: 'off',
    run: (input) => {
      const { version, floors } = readFloors(input, trusted)
      holds(version === 1 && floors['a'] === '1.0.0' && Object.keys(floors).length === 1, 'bytes pass that nobody signed')
      return true
    },
  },
]
