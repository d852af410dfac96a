/** The kernel of the image: Debian's, downloaded and unpacked into a cache, never installed on this machine. */
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { run } from './command.ts'
import { ImageFailure } from './failure.ts'
import { KERNEL_META_PACKAGE } from './profile.ts'

export interface Kernel {
  /** What `uname -r` will say. */
  readonly release: string
  /** Debian package and version, for the build facts. */
  readonly package: string
  readonly version: string
  readonly vmlinuz: string
  /** Directory of the modules, `lib/modules/RELEASE`. */
  readonly modulesDir: string
}

/**
 * The newest kernel that the package lists of this machine know; when they know none or the download fails, the newest in the cache.
 * Safe to run twice at once: an unpacked package appears under its final name in one step.
 * @throws SETUP_MISSING nothing to download and nothing cached
 */
export async function findKernel(cacheDir: string, log: (line: string) => void): Promise<Kernel> {
  await mkdir(join(cacheDir, 'kernel'), { recursive: true })
  try {
    const name = await newestPackage()
    const version = /Candidate: (\S+)/.exec(await run('apt-cache', ['policy', name]))?.[1]
    if (!version || version === '(none)') throw new ImageFailure('SETUP_MISSING', `apt knows no version of ${name}`)
    const dir = join(cacheDir, 'kernel', `${name}_${version}`)
    if (!existsSync(dir)) await download(name, version, dir, log)
    return describe(dir)
  } catch (error) {
    const cached = (await readdir(join(cacheDir, 'kernel'))).filter((name) => /^linux-image-\d.*_/.test(name)).sort(byNumbers)
    const newest = cached.at(-1)
    if (newest === undefined) throw error
    log(`kernel: ${(error as Error).message.split('\n')[0]}; taking ${newest} from the cache`)
    return describe(join(cacheDir, 'kernel', newest))
  }
}

async function newestPackage(): Promise<string> {
  const depends = await run('apt-cache', ['depends', '--important', KERNEL_META_PACKAGE])
  const name = /Depends: (linux-image-\d\S+)/.exec(depends)?.[1]
  if (!name) throw new ImageFailure('SETUP_MISSING', `apt does not know ${KERNEL_META_PACKAGE}; run apt-get update`)
  return name
}

async function download(name: string, version: string, dir: string, log: (line: string) => void): Promise<void> {
  log(`kernel: downloading ${name} ${version}`)
  const work = await mkdtemp(`${dir}.part-`)
  try {
    await run('apt-get', ['download', '-q', '-o', 'APT::Sandbox::User=root', `${name}=${version}`], { cwd: work })
    const file = (await readdir(work)).find((entry) => entry.endsWith('.deb'))
    if (!file) throw new ImageFailure('SETUP_MISSING', `apt-get download left no package of ${name}`)
    await run('dpkg', ['-x', join(work, file), join(work, 'root')])
    await rename(join(work, 'root'), dir).catch((error) => {
      if (!existsSync(dir)) throw error // another build was faster
    })
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

async function describe(dir: string): Promise<Kernel> {
  const file = (await readdir(join(dir, 'boot'))).find((name) => name.startsWith('vmlinuz-'))
  if (!file) throw new ImageFailure('SETUP_MISSING', `${dir} holds no kernel; remove that directory and build again`)
  const release = file.slice('vmlinuz-'.length)
  const [name = '', version = ''] = basename(dir).split('_')
  return { release, package: name, version, vmlinuz: join(dir, 'boot', file), modulesDir: join(dir, 'lib/modules', release) }
}

/**
 * The named modules and all they need, each after what it depends on (the `depends=` that the kernel's build wrote into each).
 * @returns file names; a module built into this kernel is left out
 * @throws SETUP_MISSING the kernel has no such module
 */
export async function orderModules(kernel: Kernel, names: readonly string[]): Promise<string[]> {
  const files = (await readdir(join(kernel.modulesDir, 'kernel'), { recursive: true })).filter((name) => name.endsWith('.ko'))
  const byName = new Map(files.map((file) => [moduleName(file), join(kernel.modulesDir, 'kernel', file)]))
  const builtIn = new Set((await readFile(join(kernel.modulesDir, 'modules.builtin'), 'utf8')).split('\n').map(moduleName))
  const ordered = new Map<string, string>()
  const visit = async (name: string): Promise<void> => {
    if (ordered.has(name) || builtIn.has(name)) return
    const file = byName.get(name)
    if (!file) throw new ImageFailure('SETUP_MISSING', `kernel ${kernel.release} has no module ${name}`)
    const depends = /\0depends=([^\0]*)\0/.exec((await readFile(file)).toString('latin1'))?.[1] ?? ''
    for (const needed of depends.split(',').filter(Boolean)) await visit(needed)
    ordered.set(name, file)
  }
  for (const name of names) await visit(name)
  return [...ordered.values()]
}

function moduleName(file: string): string {
  return basename(file, '.ko').replaceAll('-', '_')
}

function byNumbers(one: string, other: string): number {
  return one.localeCompare(other, 'en', { numeric: true })
}
