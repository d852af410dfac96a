/** The controller's home directory ($OFFBOX_HOME, default ./.offbox): where everything is, and whether it may be used. */
import { chmod, lstat, readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { type Anchors, parseAnchors } from '../../core/anchors.ts'
import { OffboxError } from '../../core/errors.ts'
import type { CertificateAuthority } from '../../core/x509.ts'
import { cleanTemporaries, makeDirectory, readIfThere } from './atomic.ts'

/** A private key and its certificate, PEM. */
export interface Identity {
  readonly keyPem: string
  readonly certificatePem: string
}

export type IdentityName = 'controller' | 'operator'

/** Paths of one home. Making one touches no disk. */
export class Home {
  readonly path: string
  constructor(path: string) {
    this.path = resolve(path)
  }

  get anchors(): string {
    return join(this.path, 'anchors.json')
  }
  get config(): string {
    return join(this.path, 'offbox.yaml')
  }
  get caCertificate(): string {
    return join(this.path, 'ca/ca.pem')
  }
  get caKey(): string {
    return join(this.path, 'ca/ca.key')
  }
  get keys(): string {
    return join(this.path, 'keys')
  }
  get registry(): string {
    return join(this.path, 'registry')
  }
  get devices(): string {
    return join(this.path, 'devices')
  }
  get rollouts(): string {
    return join(this.path, 'rollouts')
  }
  get floors(): string {
    return join(this.path, 'floors.bin')
  }
  get trust(): string {
    return join(this.path, 'trust')
  }
  /** One directory a device: what the collector holds of its audit log. */
  get audit(): string {
    return join(this.path, 'audit')
  }
  get image(): string {
    return join(this.path, 'image')
  }
  get lock(): string {
    return join(this.path, 'lock')
  }
  get socket(): string {
    return join(this.path, 'controller.sock')
  }
  certificate(name: IdentityName): string {
    return join(this.path, `certs/${name}.pem`)
  }
  key(name: IdentityName): string {
    return join(this.path, `certs/${name}.key`)
  }
}

/** Directories that hold secrets or state; all 0700. */
const DIRECTORIES = ['.', 'ca', 'keys', 'certs', 'registry', 'devices', 'rollouts', 'image'] as const

/** A unix socket's path, its final zero included, has to fit `sun_path`: unix(7). */
export const socketPathBytesMax = 107

/** $OFFBOX_HOME, else ./.offbox. */
export function homePath(option: string | undefined): string {
  return resolve(option ?? (process.env['OFFBOX_HOME'] || '.offbox'))
}

/** Makes the directories of a home that are not there yet. @throws HOME_INVALID */
export async function makeHome(home: Home): Promise<void> {
  for (const name of DIRECTORIES) await makeDirectory(join(home.path, name))
  // A home made by hand (`mkdir .offbox`) before `offbox init` has the umask's mode; closing it is what init is for.
  await chmod(home.path, 0o700)
  await checkModes(home)
}

/**
 * Checks that a home is there, ours and closed to others.
 * @throws HOME_INVALID naming the path and what to do
 */
export async function checkHome(home: Home): Promise<void> {
  if (!(await exists(home.path))) throw new OffboxError('HOME_INVALID', `${home.path} does not exist`)
  await checkModes(home)
  for (const path of [home.anchors, home.caCertificate, home.caKey, home.certificate('controller'), home.key('controller')]) {
    if (!(await exists(path))) throw new OffboxError('HOME_INVALID', `${path} is missing`)
  }
}

/** Removes what a crash left half-written. For the holder of the lock. */
export async function cleanHome(home: Home): Promise<void> {
  for (const name of DIRECTORIES) {
    const directory = join(home.path, name)
    if (await exists(directory)) await cleanTemporaries(directory)
  }
}

/** @throws HOME_INVALID */
export async function readAnchors(home: Home): Promise<Anchors> {
  return parseAnchors(await readText(home.anchors))
}

/** @throws HOME_INVALID */
export async function readCa(home: Home): Promise<CertificateAuthority> {
  return { certificatePem: await readText(home.caCertificate), keyPem: await readText(home.caKey) }
}

/** @throws HOME_INVALID */
export async function readIdentity(home: Home, name: IdentityName): Promise<Identity> {
  return { keyPem: await readText(home.key(name)), certificatePem: await readText(home.certificate(name)) }
}

async function checkModes(home: Home): Promise<void> {
  for (const name of ['.', 'ca', 'keys', 'certs']) {
    const directory = join(home.path, name)
    if (!(await exists(directory))) continue
    await checkMode(directory, true)
    if (name === '.') continue
    for (const file of await readdir(directory)) {
      if (file.endsWith('.key') || file.endsWith('.json')) await checkMode(join(directory, file), false)
    }
  }
}

async function checkMode(path: string, directory: boolean): Promise<void> {
  const facts = await lstat(path)
  if (directory ? !facts.isDirectory() : !facts.isFile()) {
    throw new OffboxError('HOME_INVALID', `${path} is not a ${directory ? 'directory' : 'plain file'}`)
  }
  const own = process.getuid?.()
  if (own !== undefined && facts.uid !== own) throw new OffboxError('HOME_INVALID', `${path} belongs to user ${facts.uid}, not to ${own}`)
  if ((facts.mode & 0o077) !== 0) {
    const mode = (facts.mode & 0o777).toString(8)
    throw new OffboxError('HOME_INVALID', `${path} is open to others (mode ${mode}): chmod ${directory ? '700' : '600'} ${path}`)
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw new OffboxError('HOME_INVALID', `${path} cannot be read: ${(error as Error).message}`, { cause: error })
  }
}

async function readText(path: string): Promise<string> {
  let bytes: Buffer | null
  try {
    bytes = await readIfThere(path)
  } catch (error) {
    throw new OffboxError('HOME_INVALID', `${path} cannot be read: ${(error as Error).message}`, { cause: error })
  }
  if (!bytes) throw new OffboxError('HOME_INVALID', `${path} is missing`)
  return bytes.toString('utf8')
}
