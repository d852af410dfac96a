/** Options of commands that sign with keys of the trust repository, and how those keys are opened. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { OffboxError } from '../../core/errors.ts'
import { readAnchors } from '../home/home.ts'
import type { TrustContext } from '../trust/trust.ts'
import type { CommonOptions, Context } from './context.ts'

export interface KeyOptions extends CommonOptions {
  readonly passphraseFile?: string
  readonly passphraseFd?: number
  readonly keyDir?: readonly string[]
}

/** Adds the options. @param keyDir what --key-dir means here */
export function withKeys(command: Command, keyDir = 'private keys are here as well as in the home; repeatable'): Command {
  return command
    .option('--key-dir <dir>', keyDir, collect)
    .option('--passphrase-file <file>', 'a file of mode 0600: one passphrase a line, the first for new keys (default: ask at the terminal)')
    .option('--passphrase-fd <n>', 'the same from an open file descriptor', integer)
}

/** @throws HOME_INVALID the home is not ours, or open to others; ARGUMENT_INVALID */
export async function trustContext({ home, print }: Context, options: KeyOptions): Promise<TrustContext> {
  const [{ KeyRing }, { keysOf }, source, { labPassphraseFile }] = await Promise.all([
    import('../trust/key-ring.ts'),
    import('../trust/trust.ts'),
    import('../trust/passphrase.ts'),
    import('../trust/lab.ts'),
  ])
  // Above all: the home is ours, and closed to others.
  await readAnchors(home)
  const lab = labPassphraseFile(home.trust)
  const { passphraseFile, passphraseFd, keyDir = [] } = options
  if (passphraseFile !== undefined && passphraseFd !== undefined)
    throw new OffboxError('ARGUMENT_INVALID', 'give --passphrase-file or --passphrase-fd, not both')
  const inLab = passphraseFile === undefined && passphraseFd === undefined && existsSync(lab)
  if (inLab) print.note(`This is a lab: its keys open with the passphrase beside them, ${lab}. They protect nothing.`)
  const file = passphraseFile ?? (inLab ? lab : undefined)
  const passphrases =
    file !== undefined ? await source.fromFile(resolve(file)) : passphraseFd !== undefined ? source.fromDescriptor(passphraseFd) : source.fromTerminal()
  return { path: home.trust, nowMs: Date.now(), keys: new KeyRing([keysOf(home.trust), ...keyDir.map((one) => resolve(one))], passphrases) }
}

export function integer(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('a whole number')
  return Number(text)
}

/** Of an option that may be given several times. */
export function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text]
}

/** @throws ARGUMENT_INVALID not 64 hex digits */
export function publicKeyFrom(hex: string, option: string): Uint8Array {
  if (!/^[0-9a-f]{64}$/.test(hex)) throw new OffboxError('ARGUMENT_INVALID', `${option} must be 64 lower-case hex digits`)
  return new Uint8Array(Buffer.from(hex, 'hex'))
}
