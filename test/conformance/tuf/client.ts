/**
 * The command line that the published TUF conformance suite drives (github.com/theupdateframework/tuf-conformance, CLIENT-CLI.md), over the
 * device's own verification and store:
 *
 *   client --metadata-dir DIR init ROOT
 *   client --metadata-dir DIR --metadata-url URL refresh
 *   client --metadata-dir DIR --metadata-url URL --target-dir DIR --target-base-url URL --target-name PATH … download
 *
 * The store is in DIR/.offbox; copies lie beside it under the names that the suite reads. Exits with 0, or with 1 and the error.
 */
import { createHash } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Copies } from '../../../agent/trust/tuf/copies.ts'
import { packRecord, unpackRecord } from '../../../agent/trust/tuf/record.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { OffboxError } from '../../../core/errors.ts'
import { type Documents, type MetadataSource, NO_DOCUMENTS } from '../../../core/trust/documents.ts'
import { Verification, type VerifiedTarget } from '../../../core/trust/verification.ts'
import { OPEN_RULES } from './open-rules.ts'

const artifactBytesMax = 16 * 1024 * 1024

class Client {
  readonly #metadataDir: string
  readonly #copies: Copies

  constructor(metadataDir: string) {
    this.#metadataDir = resolve(metadataDir)
    this.#copies = new Copies(new AtomicFiles(), join(this.#metadataDir, '.offbox'))
  }

  async init(rootFile: string): Promise<void> {
    const root = await readFile(rootFile)
    await mkdir(join(this.#metadataDir, '.offbox'), { recursive: true })
    await writeFile(this.#anchor, root)
    await writeFile(join(this.#metadataDir, 'root.json'), root)
  }

  /** Refreshes, then does the rest; what was accepted is kept either way. */
  async refresh(metadataUrl: string, then: (verification: Verification) => Promise<void> = async () => {}): Promise<void> {
    const stored = await this.#stored()
    const anchor = await readFile(this.#anchor)
    const verification = new Verification({ anchor, stored, source: over(metadataUrl), nowMs: () => Date.now(), rules: OPEN_RULES })
    try {
      await verification.refresh()
      await then(verification)
    } finally {
      await this.#keep(verification.documents)
    }
  }

  get #anchor(): string {
    return join(this.#metadataDir, '.offbox', 'anchor')
  }

  async #stored(): Promise<Documents> {
    const whole = (await this.#copies.read()).find(({ bytes }) => bytes)?.bytes
    return whole ? unpackRecord(whole).documents : NO_DOCUMENTS
  }

  async #keep(documents: Documents): Promise<void> {
    await this.#copies.write(packRecord({ documents, statement: null }))
    const shown = new Map(documents.targets)
    const { roots, timestamp, snapshot } = documents
    for (const [role, bytes] of Object.entries({ root: roots.at(-1), timestamp, snapshot })) if (bytes) shown.set(role, bytes)
    for (const [role, bytes] of shown) await writeFile(join(this.#metadataDir, `${encodeURIComponent(role)}.json`), bytes)
  }
}

async function download(verification: Verification, path: string, options: { targetDir: string; targetBaseUrl: string }): Promise<void> {
  const target = await verification.target(path)
  if (!target) throw new OffboxError('TRUST_UNLISTED', `nobody vouches for ${path}`)
  const file = join(options.targetDir, encodeURIComponent(path))
  if (matches(target, await readFile(file).catch(() => null))) return
  const parts = path.split('/')
  const name = parts.pop() ?? ''
  if (verification.root.signed.consistent_snapshot) parts.push(`${Object.values(target.hashes)[0]}.${name}`)
  else parts.push(name)
  const bytes = await get(`${options.targetBaseUrl.replace(/\/$/, '')}/${parts.map(encodeURIComponent).join('/')}`, Math.min(target.length, artifactBytesMax))
  if (!matches(target, bytes)) throw new OffboxError('BUNDLE_CORRUPT', `${path} is not the file that was signed for`)
  await writeFile(file, bytes as Uint8Array)
}

function matches(target: VerifiedTarget, bytes: Uint8Array | null): boolean {
  if (!bytes || bytes.length !== target.length) return false
  const hashes = Object.entries(target.hashes)
  return hashes.length > 0 && hashes.every(([algorithm, hex]) => createHash(algorithm).update(bytes).digest('hex') === hex)
}

function over(url: string): MetadataSource {
  const at = (role: string, version: number | undefined) =>
    `${url.replace(/\/$/, '')}/${version === undefined ? '' : `${version}.`}${encodeURIComponent(role)}.json`
  return {
    root: async (version, bytesMax) => await get(at('root', version), bytesMax),
    timestamp: async (bytesMax) => await get(at('timestamp', undefined), bytesMax),
    snapshot: async (version, bytesMax) => await get(at('snapshot', version), bytesMax),
    targets: async (role, version, bytesMax) => await get(at(role, version), bytesMax),
  }
}

/** Null for 403 and 404. Reads no further than `bytesMax`. */
async function get(url: string, bytesMax: number): Promise<Uint8Array | null> {
  const response = await fetch(url, { signal: AbortSignal.timeout(30_000) })
  if (response.status === 404 || response.status === 403) return null
  if (!response.ok || !response.body) throw new OffboxError('TRUST_UNAVAILABLE', `${url} answers ${response.status}`)
  const chunks: Uint8Array[] = []
  let sizeBytes = 0
  for await (const chunk of response.body) {
    sizeBytes += chunk.length
    if (sizeBytes > bytesMax) throw new OffboxError('TRUST_MALFORMED', `${url} has more than ${bytesMax} bytes`)
    chunks.push(chunk)
  }
  return new Uint8Array(Buffer.concat(chunks))
}

async function main(): Promise<void> {
  const text = { type: 'string', default: '' } as const
  const options = {
    'metadata-dir': text,
    'metadata-url': text,
    'target-dir': text,
    'target-base-url': text,
    'target-name': { type: 'string', multiple: true },
  } as const
  const { values, positionals } = parseArgs({ options, allowPositionals: true })
  const [verb, rootFile = ''] = positionals
  const client = new Client(values['metadata-dir'])
  if (verb === 'init') await client.init(rootFile)
  else if (verb === 'refresh') await client.refresh(values['metadata-url'])
  else if (verb === 'download') {
    await client.refresh(values['metadata-url'], async (verification) => {
      for (const path of values['target-name'] ?? []) {
        await download(verification, path, { targetDir: values['target-dir'], targetBaseUrl: values['target-base-url'] })
      }
    })
  } else throw new OffboxError('ARGUMENT_INVALID', 'init, refresh or download')
}

try {
  await main()
} catch (error) {
  const { code, message } = error as { code?: string; message?: string }
  process.stderr.write(`${code ?? 'INTERNAL'}: ${message}\n${code ? '' : (error as Error).stack}\n`)
  process.exitCode = 1
}
