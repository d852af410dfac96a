/** Makes bundles: esbuild turns a service folder into one script, its digest goes into the manifest, a key signs the manifest. */
import { readFile } from 'node:fs/promises'
import { SourceMap } from 'node:module'
import { join, resolve } from 'node:path'
import { BUNDLE_LIMITS, bundleSignedBytes, joinBundle, splitBundle } from '../../core/bundle-format.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { checkManifest, type Manifest } from '../../core/manifest.ts'
import { findForbidden } from '../../core/payload-rules.ts'
import { type SigningKey, sha256Hex } from '../home/keys.ts'
import { protosOf, withDescriptors } from './descriptors.ts'
import { documentsOf, formatDocuments } from './documents.ts'
import { inputsOf, type OutputInputs } from './inputs.ts'

export interface BuiltBundle {
  readonly manifest: Manifest
  /** The whole file. */
  readonly file: Uint8Array
}

/**
 * Builds the bundle of `directory` (service.ts and manifest.json), unsigned, with its SBOM and provenance. The same sources in the same
 * state of git, built by the same tools, give the same bytes.
 * @param version in place of the manifest's
 * @throws BUNDLE_MALFORMED a file is missing, the manifest breaks a rule, the code does not compile or needs Node's modules
 */
export async function buildBundle(directory: string, version?: string): Promise<BuiltBundle> {
  const folder = resolve(directory)
  const raw = await readManifest(join(folder, 'manifest.json'))
  const { payload: code, inputs, esbuild } = await compile(folder)
  const asked = { schema: 1, ...raw, ...(version === undefined ? {} : { version }) }
  const payload = withDescriptors(code, folder, checkManifest({ ...asked, payload: digestOf(code) }).methods)
  const unsigned = checkManifest({ ...asked, payload: digestOf(payload) })
  const tools = { node: process.versions.node, esbuild }
  const documents = formatDocuments(documentsOf(unsigned, await inputsOf(folder, inputs, ['manifest.json', ...protosOf(folder)]), tools))
  const manifest = checkManifest({ ...unsigned, documents: digestOf(documents) })
  return { manifest, file: joinBundle({ manifest: new TextEncoder().encode(JSON.stringify(manifest)), signatures: [], payload, documents }) }
}

const digestOf = (bytes: Uint8Array) => ({ sha256: sha256Hex(bytes), sizeBytes: bytes.length })

/** Adds a signature; one by the same key is replaced. The manifest and the payload stay as they are. @throws BUNDLE_MALFORMED also for code that no device would load */
export function signBundle(file: Uint8Array, key: SigningKey): Uint8Array {
  const sections = splitBundle(file)
  checkText(sections.payload)
  const others = sections.signatures.filter(({ keyId }) => keyId !== key.keyId)
  const signature = key.sign(bundleSignedBytes(sections.manifest))
  return joinBundle({ ...sections, signatures: [...others, { keyId: key.keyId, signature }] })
}

async function readManifest(path: string): Promise<Record<string, unknown>> {
  let raw: unknown
  try {
    raw = JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    throw new OffboxError('BUNDLE_MALFORMED', `${path} cannot be used: ${messageOf(error)}`, { cause: error })
  }
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) throw new OffboxError('BUNDLE_MALFORMED', `${path} must hold an object`)
  for (const field of ['payload', 'documents', 'schema']) {
    if (field in raw) throw new OffboxError('BUNDLE_MALFORMED', `${path}: ${field} is filled in by the build; leave it out`)
  }
  return raw as Record<string, unknown>
}

/** One script that assigns the service's exports to `offboxService`; nothing of Node's is left in it. */
async function compile(folder: string): Promise<{ payload: Uint8Array; inputs: OutputInputs; esbuild: string }> {
  const { build, version } = await import('esbuild').catch((error: unknown) => {
    throw new OffboxError('SETUP_MISSING', 'esbuild is not installed; run npm install in the checkout', { cause: error })
  })
  try {
    const result = await build({
      entryPoints: [join(folder, 'service.ts')],
      absWorkingDir: folder,
      bundle: true,
      write: false,
      format: 'iife',
      globalName: 'offboxService',
      platform: 'neutral',
      target: 'es2024',
      mainFields: ['module', 'main'],
      legalComments: 'none',
      // Comments of the payload name each file by its path: where node_modules really lies must not be seen in it.
      preserveSymlinks: true,
      metafile: true,
      logLevel: 'silent',
      // For messages only: the map is not part of the bundle.
      outfile: 'service.js',
      sourcemap: 'external',
    })
    const [payload, map] = ['.js', '.map'].map((end) => result.outputFiles.find(({ path }) => path.endsWith(end))?.contents)
    if (!payload || !map) throw new Error('esbuild made no file')
    checkText(payload, new SourceMap(JSON.parse(new TextDecoder().decode(map))))
    if (payload.length > BUNDLE_LIMITS.payloadBytesMax) throw new Error(`the code has ${payload.length} bytes, more than ${BUNDLE_LIMITS.payloadBytesMax}`)
    const output = Object.values(result.metafile.outputs).find(({ entryPoint }) => entryPoint !== undefined)
    return { payload, inputs: output?.inputs ?? {}, esbuild: version }
  } catch (error) {
    throw new OffboxError('BUNDLE_MALFORMED', `${folder} cannot be built: ${compileErrors(error)}`, { cause: error })
  }
}

/** What a device would refuse to load is refused here already. @throws BUNDLE_MALFORMED naming the place, in the source where there is a map */
function checkText(payload: Uint8Array, map?: SourceMap): void {
  const found = findForbidden(new TextDecoder().decode(payload))
  if (!found) return
  const { line, column, reason } = found
  const entry = map?.findEntry(line - 1, column - 1)
  const place =
    entry && 'originalSource' in entry ? `${entry.originalSource}:${entry.originalLine + 1}:${entry.originalColumn + 1}` : `line ${line} of the payload`
  throw new OffboxError('BUNDLE_MALFORMED', `${place}: ${reason}`)
}

function compileErrors(error: unknown): string {
  const { errors } = error as { errors?: { text: string; location: { file: string; line: number; column: number } | null }[] }
  if (!Array.isArray(errors)) return messageOf(error)
  return errors
    .slice(0, 10)
    .map(({ text, location }) => (location ? `${location.file}:${location.line}:${location.column + 1}: ${text}` : text))
    .join('\n')
}
