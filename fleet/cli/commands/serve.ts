/** offbox controller serve, offbox boot serve */
import { join } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import pino from 'pino'
import { systemClock } from '../../../core/clock.ts'
import { OffboxError } from '../../../core/errors.ts'
import type { BootServer } from '../../boot/boot-server.ts'
import type { Home } from '../../home/home.ts'
import { action, type CommonOptions, leaf } from '../context.ts'

interface ServeOptions extends CommonOptions {
  readonly address?: string
  readonly boot?: boolean
  readonly witness?: string
  readonly log?: string
  readonly logLevel?: string
}

const LEVELS = ['debug', 'info', 'warn', 'error']

export function serveCommands(root: Command): void {
  const controller = root.command('controller').description('the fleet controller')
  served(controller, 'serve', 'serve the API, enrol devices, keep them as desired, run rollouts; until Ctrl-C', [
    'offbox controller serve',
    'offbox controller serve --boot --log controller.log',
  ])
    .option('--boot', 'serve the boot image as well')
    .option('--witness <address:port>', 'carry the questions of devices to this witness (default: controller.witness in offbox.yaml)', addressPort)
    .action(
      action<ServeOptions, []>(async ({ home, print, signal }, options) => {
        const log = logger(options)
        const { startController } = await import('../../controller/controller.ts')
        const { address: listen, witness } = options
        const given = { ...(listen ? { address: listen } : {}), ...(witness === undefined ? {} : { witness }) }
        const running = await startController({ home: home.path, clock: systemClock, log, ...given })
        try {
          const boot = options.boot ? await startBoot(home, running.address, log) : null
          try {
            const { fleet, address, apiPort, enrolPort, socket } = running
            const facts = { serving: 'controller', fleet, address, apiPort, enrolPort, socket, bootUrl: boot?.url ?? '' }
            print.item(facts, `fleet ${fleet}: API ${address}:${apiPort}, enrolment ${address}:${enrolPort}${boot ? `, boot ${boot.url}` : ''}; Ctrl-C ends it`)
            await aborted(signal)
          } finally {
            await boot?.close()
          }
        } finally {
          await running.close()
        }
      }),
    )

  const boot = root.command('boot').description('the network boot server')
  served(boot, 'serve', 'serve boot.ipxe, kernel and initramfs over HTTP; until Ctrl-C', ['offbox boot serve', 'offbox boot serve --address 10.77.0.1']).action(
    action<ServeOptions, []>(async ({ home, print, signal }, options) => {
      const server = await startBoot(home, options.address, logger(options))
      try {
        print.item({ serving: 'boot', url: server.url }, `boot image at ${server.url}; Ctrl-C ends it`)
        await aborted(signal)
      } finally {
        await server.close()
      }
    }),
  )
}

function served(parent: Command, spec: string, summary: string, examples: readonly string[]): Command {
  return leaf(parent, spec, summary, examples)
    .option('--address <address>', 'listen on this IPv4 address (default: controller.address in offbox.yaml)', ipv4)
    .option('--log <file>', 'append the log, JSON lines, to this file (default: stderr)')
    .option('--log-level <level>', LEVELS.join(', '), level, 'info')
}

async function startBoot(home: Home, address: string | undefined, log: pino.Logger): Promise<BootServer> {
  const { readConfig } = await import('../../config/config.ts')
  const { serveBoot } = await import('../../boot/boot-server.ts')
  const { controller } = await readConfig(home.config)
  const host = address ?? controller.address
  const server = await serveBoot({
    imageDir: home.image,
    host,
    port: controller.bootPort,
    controller: `${host}:${controller.enrolPort}`,
    log: (message, fields) => log.info({ ...fields, part: 'boot' }, message),
  })
  log.info({ url: server.url }, 'boot server serving')
  return server
}

function logger({ log, logLevel = 'info' }: ServeOptions): pino.Logger {
  try {
    return pino({ level: logLevel, base: null }, pino.destination({ dest: log ?? 2, sync: true, mkdir: false }))
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${join(log ?? 'stderr')} cannot be written to`, { cause: error })
  }
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}

function ipv4(text: string): string {
  if (!/^(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}$/.test(text)) throw new InvalidArgumentError('must be an IPv4 address')
  return text
}

function addressPort(text: string): string {
  if (!/^[\w.-]+:\d{1,5}$/.test(text)) throw new InvalidArgumentError('must be ADDRESS:PORT')
  return text
}

function level(text: string): string {
  if (!LEVELS.includes(text)) throw new InvalidArgumentError(`must be of ${LEVELS.join(', ')}`)
  return text
}
