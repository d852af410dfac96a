/** The lab's witness: a process of its own with a key of its own. In a real fleet it is on another machine. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { OffboxError } from '../../core/errors.ts'
import { fileName } from '../../core/tuf/metadata.ts'
import type { Home } from '../home/home.ts'
import { writeTrustAnchors } from '../trust/anchors.ts'
import { readKeyFiles } from '../trust/key-file.ts'
import { labPassphraseFile } from '../trust/lab.ts'
import { fromFile } from '../trust/passphrase.ts'
import { readTrust } from '../trust/trust.ts'
import { initWitness } from '../witness/serve.ts'
import { type Kept, keepRunning } from './kept.ts'
import { LAB_ADDRESS } from './network.ts'
import type { LongRunning } from './process.ts'

const WITNESS_PORT = 9342
const READY_TIMEOUT_MS = 60_000
/** Its certificate lasts twice as long. */
const CERTIFICATE_AGE_MS_MAX = 180 * 24 * 60 * 60 * 1000

/** Where the lab's witness answers. */
export const LAB_WITNESS = `${LAB_ADDRESS}:${WITNESS_PORT}`

export function labWitnessDirectory(home: Home): string {
  return join(home.path, 'witness')
}

/**
 * Makes the lab's witness, and puts its key and the repository's root into anchors.json. Repeating it changes nothing.
 * @returns whether anchors.json changed: devices go on with what they were given
 */
export async function prepareWitness(home: Home, nowMs: number): Promise<boolean> {
  const directory = labWitnessDirectory(home)
  const made = await stat(join(directory, 'tls.json')).catch(() => null)
  // Its key is opened by the witness itself; here its public half is enough.
  const there = made && nowMs - made.mtimeMs < CERTIFICATE_AGE_MS_MAX ? await readKeyFiles(directory) : []
  const publicKey = there.find(({ role }) => role === 'witness')?.publicKey ?? (await make(home, directory))
  return await writeTrustAnchors(home, { nowMs, witnessKeys: [publicKey] })
}

async function make(home: Home, directory: string): Promise<Uint8Array> {
  const first = (await readTrust(home.trust)).files.get(fileName('root', 1)) as Uint8Array
  const { publicKey } = await initWitness(home, directory, first, await fromFile(labPassphraseFile(home.trust)))
  return publicKey
}

/** Resolves when it serves. @throws SETUP_MISSING with its last words */
export async function startWitness(home: Home, namespace: string, say: (text: string) => void, signal: AbortSignal): Promise<Kept> {
  const where = ['--dir', labWitnessDirectory(home), '--address', LAB_ADDRESS, '--port', String(WITNESS_PORT)]
  const args = ['--home', home.path, 'witness', 'serve', ...where, '--passphrase-file', labPassphraseFile(home.trust), '--json']
  return await keepRunning({ what: 'the witness', args, namespace, say, ready: async (running, words) => await serving(running, words, signal) })
}

async function serving(running: LongRunning, words: readonly string[], signal: AbortSignal): Promise<void> {
  let gone = ''
  running.exited.then((how) => (gone = how))
  const deadlineMs = performance.now() + READY_TIMEOUT_MS
  while (!words.some((line) => line.includes('"serving":"witness"'))) {
    signal.throwIfAborted()
    if (gone || performance.now() > deadlineMs) {
      throw new OffboxError('SETUP_MISSING', `the witness ${gone ? `ended (${gone})` : 'does not serve'}:\n${words.slice(-8).join('\n')}`)
    }
    await delay(50)
  }
}
