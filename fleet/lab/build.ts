/** Builds what the lab runs: signed bundles in the registry of its home, and the network image. */
import { spawn } from 'node:child_process'
import { unlink } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { isErrorCode, OffboxError } from '../../core/errors.ts'
import { type Home, readAnchors } from '../home/home.ts'
import { readSigningKey } from '../home/keys.ts'
import { buildBundle, signBundle } from '../registry/make.ts'
import { Registry } from '../registry/registry.ts'
import { ensureLabTrust, openLab, publishInLab, wishesOf } from '../trust/lab.ts'
import { allowing, changePolicy } from '../trust/policy.ts'
import { prepareWitness } from './witness.ts'

const root = join(import.meta.dirname, '../..')

/** The service that the lab upgrades. */
export const ROLLED = 'telemetry'
/** Service folders, in order of installation; the rolled one first in its old release. */
const FOLDERS = ['services/routing', 'services/telemetry/releases/1.0.0', 'services/secrets'] as const
const NEW_RELEASE = 'services/telemetry'

export interface LabBundles {
  /** What devices run at first. */
  readonly desired: readonly { service: string; version: string }[]
  readonly fromVersion: string
  readonly toVersion: string
  /** The repository and its witness are the lab's own. */
  readonly labTrust: boolean
}

/** Builds, signs and registers the lab's bundles. The same sources give the same bytes, so repeating it changes nothing. */
export async function buildBundles(home: Home, say: (text: string) => void): Promise<LabBundles> {
  const registry = new Registry(home.registry, (await readAnchors(home)).bundleKeys)
  const key = await readSigningKey(home)
  const files: Uint8Array[] = []
  const put = async (folder: string) => {
    const { manifest, file } = await buildBundle(join(root, folder))
    const signed = signBundle(file, key)
    await registry.put(signed).catch(async (error) => {
      if (!(error instanceof OffboxError) || error.code !== 'BUNDLE_EXISTS') throw error
      // A developer's checkout: the sources have changed under the same version. Nobody else's registry is treated like this.
      say(`  replacing ${manifest.name} ${manifest.version}: its sources have changed since the lab's last run`)
      await unlink(join(home.registry, manifest.name, `${manifest.version}.offbox`))
      await registry.put(signed)
    })
    files.push(signed)
    return { service: manifest.name, version: manifest.version }
  }
  const desired: { service: string; version: string }[] = []
  for (const folder of FOLDERS) desired.push(await put(folder))
  const { version: toVersion } = await put(NEW_RELEASE)
  const fromVersion = desired.find((one) => one.service === ROLLED)?.version ?? ''
  say(`built and signed ${[...desired, { service: ROLLED, version: toVersion }].map((one) => `${one.service} ${one.version}`).join(', ')}`)
  return { desired, fromVersion, toVersion, labTrust: await publishBundles(home, files, say) }
}

/**
 * What the lab runs is published in the trust repository, which the lab makes for itself together with a witness, a policy and what images carry
 * of all that. A repository of the home's owners is left to them.
 */
async function publishBundles(home: Home, files: readonly Uint8Array[], say: (text: string) => void): Promise<boolean> {
  const nowMs = Date.now()
  const context = await openLab(home, nowMs)
  if (!context) {
    say('the trust repository of this home has owners of its own: what they did not publish is refused by devices (offbox trust publish)')
    return false
  }
  const { bundleKeys } = await readAnchors(home)
  const wishes = wishesOf(files, bundleKeys)
  const made = await ensureLabTrust(context, [...new Set(wishes.map(({ service }) => service))])
  const published = await publishInLab(context, files, bundleKeys)
  const { policy, changed } = await changePolicy(context, (before) => allowing(before, wishes))
  const anchored = await prepareWitness(home, nowMs)
  if (made) say("trust repository: made, with the passphrase of its keys beside them (a lab's protect nothing)")
  const names = Object.keys(policy.services).join(', ')
  say(`trust repository: ${published.length} bundles published, each signed by the key of its service; policy ${policy.version} lets ${names} run`)
  if (changed && !made) say('  the policy was widened to what the manifests ask for')
  if (anchored) say('anchors.json: devices begin with this root and believe this witness from now on')
  return true
}

/** Runs image/build.ts as a program: fleet imports nothing of image. @throws SETUP_MISSING with its last words */
export async function buildImage(home: Home, say: (text: string) => void, signal: AbortSignal, agentDir?: string): Promise<void> {
  say('building the network image')
  const child = spawn(
    process.execPath,
    [join(root, 'image/build.ts'), '--home', home.path, '--out', home.image, ...(agentDir ? ['--agent', agentDir] : []), '--json'],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      signal,
    },
  )
  const words: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => {
    words.push(line)
    say(`  ${line}`)
  })
  let last = '{}'
  createInterface({ input: child.stdout }).on('line', (line) => (last = line))
  const code = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  const facts = JSON.parse(last)
  if (code !== 0) {
    const { code: error, message } = facts.error ?? { code: 'SETUP_MISSING', message: words.slice(-5).join('\n') }
    throw new OffboxError(isErrorCode(error) ? error : 'SETUP_MISSING', `the image could not be built: ${message}`)
  }
  say(
    `image ready: Linux ${facts.kernel.release}, Node ${facts.nodeVersion}, BIRD ${facts.packages.bird2}, ${facts.fileCount} files; sha256 ${facts.imageSha256.slice(0, 16)}`,
  )
}
