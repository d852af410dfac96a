/** What every command has: its home, its way of printing, a signal for Ctrl-C, and a connection to the controller. */
import { existsSync } from 'node:fs'
import type { Command } from 'commander'
import { OffboxError } from '../../core/errors.ts'
import { Home, homePath, readAnchors, readIdentity } from '../home/home.ts'
import { RpcClient } from '../rpc/client.ts'
import { type Printer, printer } from './output.ts'

export interface Context {
  readonly home: Home
  readonly print: Printer
  /** Aborts on Ctrl-C or SIGTERM. */
  readonly signal: AbortSignal
  /** Calls the controller as operator. */
  controller<T>(use: (client: RpcClient) => Promise<T>): Promise<T>
  /** Ends the process with this code when the command is done; default 0. */
  exitCode: number
}

export interface CommonOptions {
  readonly home?: string
  readonly json?: boolean
  readonly controller?: string
}

const interrupt = new AbortController()
/** Of the whole process. */
export const interrupted: AbortSignal = interrupt.signal
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    // Whoever asks twice means it.
    if (interrupt.signal.aborted) process.exit(130)
    interrupt.abort(new OffboxError('STATE_REFUSED', `ended by ${signal}`))
  })
}

/** A command with the options that all have, and its examples. */
export function leaf(parent: Command, spec: string, summary: string, examples: readonly string[]): Command {
  return parent
    .command(spec)
    .description(summary)
    .option('--home <dir>', 'home directory of the fleet (default: $OFFBOX_HOME, else ./.offbox)')
    .option('--json', 'one JSON object on the last line of stdout (streams: one a line)')
    .addHelpText('after', `\nExamples:\n${examples.map((line) => `  $ ${line}`).join('\n')}`)
}

/** One that talks to the controller. */
export function remoteLeaf(parent: Command, spec: string, summary: string, examples: readonly string[]): Command {
  return leaf(parent, spec, summary, examples).option('--controller <address:port>', "in place of the home's socket or the configured address")
}

/** Exit code of the process, set by the command that ran. */
export const outcome = { exitCode: 0, json: false }

/** Makes a commander action of a function over a context. */
export function action<O extends CommonOptions, A extends unknown[]>(run: (context: Context, options: O, ...args: A) => Promise<void>) {
  return async (...given: unknown[]): Promise<void> => {
    // commander passes the arguments, then the options, then the command itself.
    const command = given.at(-1) as Command
    const options = command.optsWithGlobals() as O
    outcome.json = options.json === true
    const home = new Home(homePath(options.home))
    const context: Context = {
      home,
      print: printer(outcome.json),
      signal: interrupted,
      controller: async (use) => await withController(home, options.controller, use),
      exitCode: 0,
    }
    await run(context, options, ...(given.slice(0, -2) as A))
    outcome.exitCode = context.exitCode
  }
}

async function withController<T>(home: Home, address: string | undefined, use: (client: RpcClient) => Promise<T>): Promise<T> {
  const anchors = await readAnchors(home)
  const identity = await readIdentity(home, 'operator')
  const client = new RpcClient(
    { target: await targetOf(home, address), serverName: `controller.${anchors.fleet}.offbox`, caPem: anchors.caPem, identity },
    'CONTROLLER_UNREACHABLE',
  )
  try {
    return await use(client)
  } finally {
    client.close()
  }
}

async function targetOf(home: Home, address: string | undefined): Promise<string> {
  if (address !== undefined) {
    if (!/^[\w.-]+:\d{1,5}$/.test(address)) throw new OffboxError('ARGUMENT_INVALID', `--controller must be ADDRESS:PORT, got ${JSON.stringify(address)}`)
    return address
  }
  if (existsSync(home.socket)) return `unix:${home.socket}`
  const { readConfig } = await import('../config/config.ts')
  const { controller } = await readConfig(home.config)
  return `${controller.address}:${controller.apiPort}`
}
