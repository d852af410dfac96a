/** offbox witness init, offbox witness serve */
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import pino from 'pino'
import { systemClock } from '../../../core/clock.ts'
import { OffboxError } from '../../../core/errors.ts'
import { type Home, readAnchors } from '../../home/home.ts'
import { fromFile, fromTerminal, type PassphraseSource } from '../../trust/passphrase.ts'
import { action, type CommonOptions, leaf } from '../context.ts'

interface WitnessOptions extends CommonOptions {
  readonly dir: string
  readonly passphraseFile?: string
}

const DEFAULT_PORT = 9342

export function witnessCommands(root: Command): void {
  const witness = root.command('witness').description('remembers how far the repository has come, for devices that cannot')
  own(witness, 'init', 'make its directory: key, certificate by the fleet CA, the root that it trusts', [
    'offbox witness init --dir /srv/witness --root 1.root.json',
  ])
    .requiredOption('--root <file>', 'root metadata that it trusts from the start')
    .action(
      action<WitnessOptions & { readonly root: string }, []>(async ({ home, print }, options) => {
        const { initWitness } = await import('../../witness/serve.ts')
        const bytes = await readFile(options.root).catch((error: Error) => {
          throw new OffboxError('ARGUMENT_INVALID', `${options.root} cannot be read: ${error.message}`)
        })
        const directory = resolve(options.dir)
        const { keyId, publicKey } = await initWitness(home, directory, new Uint8Array(bytes), await passphrases(options))
        const anchored = await anchor(home, publicKey)
        const facts = { directory, keyId, publicKey: Buffer.from(publicKey).toString('hex'), anchored }
        const next = anchored
          ? `${home.anchors} names this key: devices of the next image believe it (offbox image build)`
          : `no image names this key: there is no trust repository in ${home.path}. On the machine that has it: offbox trust anchors --witness-key ${facts.publicKey}`
        print.result(
          facts,
          `witness in ${directory}; its public key: ${facts.publicKey}\n${next}\nTell the controller where it serves: controller.witness in offbox.yaml`,
        )
      }),
    )
  own(witness, 'serve', 'answer the questions of devices, until Ctrl-C', ['offbox witness serve --dir /srv/witness --address 10.77.0.1'])
    .option('--address <address>', 'listen on this address', '127.0.0.1')
    .option('--port <port>', 'listen on this port; 0 for any', port, DEFAULT_PORT)
    .action(
      action<WitnessOptions & { readonly address: string; readonly port: number }, []>(async ({ print, signal }, options) => {
        const { serveWitness } = await import('../../witness/serve.ts')
        const log = pino({ base: null }, pino.destination({ dest: 2, sync: true }))
        const { address, port } = options
        const server = await serveWitness({ directory: resolve(options.dir), address, port, passphrases: await passphrases(options), clock: systemClock, log })
        try {
          const facts = { serving: 'witness', fleet: server.fleet, address, port: server.port, keyIds: [...server.keys.keys()] }
          print.item(facts, `witness of ${server.fleet} at ${address}:${server.port}; Ctrl-C ends it`)
          if (!signal.aborted) await new Promise<void>((done) => signal.addEventListener('abort', () => done(), { once: true }))
        } finally {
          await server.close()
        }
      }),
    )
}

/** Beside the witnesses named already. @returns whether the anchors name it now */
async function anchor(home: Home, publicKey: Uint8Array): Promise<boolean> {
  const [{ writeTrustAnchors }, { readGeneration }] = await Promise.all([import('../../trust/anchors.ts'), import('../../trust/generations.ts')])
  if (!(await readGeneration(home.trust))) return false
  const { trust } = await readAnchors(home)
  const others = [...(trust?.witnessKeys.values() ?? [])].filter((key) => Buffer.compare(key, publicKey) !== 0)
  await writeTrustAnchors(home, { nowMs: Date.now(), witnessKeys: [...others, publicKey] })
  return true
}

function own(parent: Command, spec: string, summary: string, examples: readonly string[]): Command {
  return leaf(parent, spec, summary, examples)
    .requiredOption('--dir <dir>', "the witness's own directory: not on the controller's machine")
    .option('--passphrase-file <file>', 'passphrase of its key, mode 0600 (default: ask)')
}

async function passphrases({ passphraseFile }: WitnessOptions): Promise<PassphraseSource> {
  return passphraseFile === undefined ? fromTerminal() : await fromFile(passphraseFile)
}

function port(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0 || value > 65_535) throw new InvalidArgumentError('must be a port')
  return value
}
