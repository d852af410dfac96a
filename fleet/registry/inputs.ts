/** What went into a payload: source files and npm packages, as esbuild tells, with digests from the disk and from package-lock.json. */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { promisify } from 'node:util'
import { sha256Hex } from '../home/keys.ts'

/** Of esbuild's metafile: the inputs of the one output, by path from the folder that was built. */
export type OutputInputs = Readonly<Record<string, { readonly bytesInOutput: number }>>

export interface SourceFile {
  /** From the checkout's root. */
  readonly path: string
  readonly sha256: string
}

export interface Package {
  readonly name: string
  readonly version: string
  /** SPDX expression; null when it says none. */
  readonly license: string | null
  /** SHA-512 of the registry's archive, hex; null when the lock file does not say. */
  readonly sha512: string | null
  /** Names of the packages it depends on that are in the payload as well. */
  readonly dependsOn: readonly string[]
}

export interface Inputs {
  /** Of the folder that was built, from the checkout's root. */
  readonly folder: string
  readonly sources: readonly SourceFile[]
  readonly packages: readonly Package[]
  /** SHA-256 of the lock file's entries of these packages and of esbuild; null without a lock file. */
  readonly lockSha256: string | null
  /** The newest commit that changed one of the sources, and whether they differ from it; null outside git. */
  readonly commit: { readonly id: string; readonly dirty: boolean } | null
}

interface LockEntry {
  readonly version?: string
  readonly integrity?: string
  readonly license?: string
  readonly dependencies?: Readonly<Record<string, string>>
}

const GIT_TIMEOUT_MS = 20_000
const run = promisify(execFile)

/** @param extra files beside those esbuild read, from the folder: manifest.json */
export async function inputsOf(folder: string, output: OutputInputs, extra: readonly string[]): Promise<Inputs> {
  const root = await checkoutOf(folder)
  const used = Object.entries(output).filter(([, { bytesInOutput }]) => bytesInOutput > 0)
  const paths = [...used.map(([path]) => path), ...extra].map((path) => relative(root, resolve(folder, path)).split(sep).join('/')).sort()
  const own = [...new Set(paths.filter((path) => !path.includes('node_modules/')))]
  const sources = await Promise.all(own.map(async (path) => ({ path, sha256: sha256Hex(await readFile(join(root, path))) })))
  const keys = [...new Set(paths.flatMap((path) => packageKey(path) ?? []))]
  const lock = await readLock(root)
  const names = new Set(keys.map(nameOf))
  const packages = await Promise.all(keys.map(async (key) => await packageOf(root, key, lock?.[key], names)))
  const entries = lock && [...keys, 'node_modules/esbuild'].map((key) => [key, lock[key] ?? null])
  return {
    folder: relative(root, folder).split(sep).join('/') || '.',
    sources,
    packages: packages.sort((a, b) => (`${a.name}@${a.version}` < `${b.name}@${b.version}` ? -1 : 1)),
    lockSha256: entries && sha256Hex(JSON.stringify(entries)),
    commit: await commitOf(root, own),
  }
}

/** The nearest folder above with a lock file; else the folder itself. */
async function checkoutOf(folder: string): Promise<string> {
  for (let at = folder; dirname(at) !== at; at = dirname(at)) {
    if (await exists(join(at, 'package-lock.json'))) return at
  }
  return folder
}

/** "node_modules/a/node_modules/@b/c" of a path to a file in that package. */
function packageKey(path: string): string | null {
  return /^.*node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path)?.[0] ?? null
}

const nameOf = (key: string) => key.slice(key.lastIndexOf('node_modules/') + 'node_modules/'.length)

async function packageOf(root: string, key: string, entry: LockEntry | undefined, names: ReadonlySet<string>): Promise<Package> {
  const own = JSON.parse(await readFile(join(root, key, 'package.json'), 'utf8')) as { version?: unknown; license?: unknown; dependencies?: object }
  const [name, version] = [nameOf(key), String(own.version)]
  // What is on the disk went in; the lock file's digest is of another package unless the versions agree.
  const digest = entry?.version === version ? /^sha512-([A-Za-z0-9+/=]+)$/.exec(entry.integrity ?? '')?.[1] : undefined
  return {
    name,
    version,
    license: typeof own.license === 'string' ? own.license : null,
    sha512: digest === undefined ? null : Buffer.from(digest, 'base64').toString('hex'),
    dependsOn: Object.keys(own.dependencies ?? {})
      .filter((one) => names.has(one))
      .sort(),
  }
}

async function readLock(root: string): Promise<Readonly<Record<string, LockEntry>> | null> {
  const text = await readFile(join(root, 'package-lock.json'), 'utf8').catch(() => null)
  return text === null ? null : ((JSON.parse(text) as { packages?: Record<string, LockEntry> }).packages ?? {})
}

/** Not HEAD: a commit that touched nothing of the service must not change its bundle. */
async function commitOf(root: string, paths: readonly string[]): Promise<Inputs['commit']> {
  const git = async (...args: string[]) => {
    const options = { cwd: root, timeout: GIT_TIMEOUT_MS, env: { ...process.env, GIT_OPTIONAL_LOCKS: '0', LC_ALL: 'C' } }
    return (await run('git', args, options)).stdout.trim()
  }
  try {
    const id = await git('log', '-1', '--format=%H', '--', ...paths)
    const changed = await git('status', '--porcelain', '--untracked-files=all', '--', ...paths)
    return id === '' ? null : { id, dirty: changed !== '' }
  } catch {
    // No git, or no repository: the provenance then says so by naming no commit.
    return null
  }
}

async function exists(path: string): Promise<boolean> {
  return await readFile(path).then(
    () => true,
    () => false,
  )
}
