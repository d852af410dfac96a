/** Writes a new service into a checkout: all of it or nothing, and never over anything that is there. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, rmdir, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { isServiceName } from '../../core/manifest.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { rpcName, serviceFiles } from './templates.ts'

/** The checkout that this file belongs to. */
export const ownCheckout = resolve(import.meta.dirname, '../..')
/** Folders that builds and tests step over, and names that the tidy tests refuse. */
const RESERVED = /^(dist|gen|sdk)$|utils|helpers/

export interface NewService {
  readonly name: string
  readonly checkout: string
  /** Paths from the checkout. */
  readonly files: readonly string[]
}

/**
 * Writes services/NAME, its .proto and its tests, and generates the .proto's codec. Two at once: one of them is refused.
 * @throws ARGUMENT_INVALID the name is not fit or taken, or `checkout` is none
 * @throws SETUP_MISSING the codec cannot be generated; nothing is left behind
 */
export async function newService(name: string, checkout: string): Promise<NewService> {
  checkName(name)
  for (const needed of ['services/sdk/service.ts', 'proto/generate.mjs']) {
    if (!existsSync(join(checkout, needed))) throw invalid(`${checkout} is no checkout of Offbox: ${needed} is missing`)
  }
  const files = serviceFiles(name)
  const taken = ['services', 'test/services'].map((folder) => `${folder}/${name}`).concat(`proto/offbox/v1/${name}.proto`)
  for (const path of taken) if (existsSync(join(checkout, path))) throw invalid(`${path} is there already; nothing was written`)
  await checkRpcName(name, checkout)

  const undo: (() => Promise<unknown>)[] = []
  try {
    // Whoever makes this folder makes the service: a second one at the same time ends here, with nothing written.
    const own = join(checkout, 'services', name)
    await mkdir(own)
    undo.push(async () => await rmdir(own))
    for (const [path, text] of files) {
      const file = join(checkout, path)
      await makeFolders(dirname(file), undo)
      await writeFile(file, text, { flag: 'wx' })
      undo.push(async () => await rm(file))
    }
    undo.push(async () => await Promise.all(['.ts', '.pb.js', '.pb.d.ts'].map((end) => rm(join(checkout, 'proto/gen', `${name}${end}`), { force: true }))))
    await generateCodec(name, checkout)
  } catch (error) {
    for (const step of undo.reverse()) await step()
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw invalid(`somebody else is making ${name}: ${messageOf(error)}`)
    throw error
  }
  return { name, checkout, files: [...files.keys()] }
}

function checkName(name: string): void {
  if (!isServiceName(name) || !/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(name)) {
    throw invalid(`a service's name is words of lower-case letters and digits with hyphens between, at most 40 characters, not ${JSON.stringify(name)}`)
  }
  if (RESERVED.test(name)) throw invalid(`${name} cannot name a service; name it for what it does`)
}

/** "a-1" and "a1" would both be the gRPC service A1. */
async function checkRpcName(name: string, checkout: string): Promise<void> {
  const folder = join(checkout, 'proto/offbox/v1')
  for (const file of (await readdir(folder)).filter((one) => one.endsWith('.proto'))) {
    const text = await readFile(join(folder, file), 'utf8')
    if (new RegExp(`^service ${rpcName(name)}\\b`, 'm').test(text)) throw invalid(`${file} has a gRPC service ${rpcName(name)} already`)
  }
}

/** Makes what is missing above, from the top, so that only what this one made is ever taken back, and only when nobody else uses it. */
async function makeFolders(folder: string, undo: (() => Promise<unknown>)[]): Promise<void> {
  if (existsSync(folder)) return
  await makeFolders(dirname(folder), undo)
  try {
    await mkdir(folder)
    undo.push(async () => await rmdir(folder).catch(unless('ENOTEMPTY')))
  } catch (error) {
    unless('EEXIST')(error)
  }
}

/** Passes every error on but this one. */
function unless(code: string): (error: unknown) => void {
  return (error) => {
    if ((error as NodeJS.ErrnoException).code !== code) throw error
  }
}

async function generateCodec(name: string, checkout: string): Promise<void> {
  const child = spawn(process.execPath, [join(checkout, 'proto/generate.mjs'), '--only', name], { cwd: checkout, stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  child.stderr.on('data', (chunk) => {
    output = `${output}${chunk}`.slice(-4_000)
  })
  const code = await new Promise<number | null>((done, failed) => child.once('error', failed).once('close', done))
  if (code !== 0) throw new OffboxError('SETUP_MISSING', `proto/generate.mjs failed (run npm install in the checkout): ${output.trim()}`)
}

function invalid(text: string): OffboxError {
  return new OffboxError('ARGUMENT_INVALID', text)
}
