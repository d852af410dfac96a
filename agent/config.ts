/** Where the agent's settings come from: the kernel command line in the image, a JSON file for a local agent. */
import { readFile } from 'node:fs/promises'
import { isAbsolute, resolve } from 'node:path'
import { messageOf, OffboxError } from '../core/errors.ts'
import { parseCommandLine } from './boot/command-line.ts'
import { bringUp } from './boot/network.ts'
import { type Tier, TIERS } from '../core/manifest.ts'
import { LEVELS, type Level } from './log.ts'
import { TIER_POLICIES, type TierPolicy } from './supervisor/tiers.ts'
import { AGENT_VERSION } from './version.ts'

export interface AgentConfig {
  /** "local": a process on somebody's machine, which it does not own. */
  readonly boot: 'pxe' | 'local'
  readonly serial: string
  readonly mac: string
  readonly address: string
  readonly port: number
  readonly stateDir: string
  readonly runDir: string
  readonly controller: { readonly address: string; readonly port: number }
  readonly anchorsFile: string
  readonly birdCommand: string
  readonly ipCommand: string
  readonly logLevel: Level
  readonly agentVersion: string
  /** Empty for a local agent. */
  readonly imageSha256: string
  /** Where services run here: supervisor/tiers.ts. */
  readonly processTier: TierPolicy['processTier']
  readonly tierMin: Tier
}

/** @throws CONFIG_INVALID, SETUP_MISSING, DRIVER_FAILED */
export async function readConfig(args: readonly string[]): Promise<AgentConfig> {
  const [mode, file] = args
  if (mode === '--image' && args.length === 1) return await imageConfig()
  if (mode === '--config' && file !== undefined && args.length === 2) {
    const text = await readFile(file, 'utf8').catch((error) => {
      throw new OffboxError('CONFIG_INVALID', `the agent's configuration cannot be read: ${messageOf(error)}`, { cause: error })
    })
    return parseConfig(text)
  }
  throw new OffboxError('ARGUMENT_INVALID', 'usage: main.mjs --config FILE | --image')
}

/** A local agent's file. @throws CONFIG_INVALID names field and rule */
export function parseConfig(text: string): AgentConfig {
  const refuse = (why: string, cause?: unknown) => new OffboxError('CONFIG_INVALID', `the agent's configuration cannot be used: ${why}`, { cause })
  let raw: Record<string, unknown>
  try {
    raw = JSON.parse(text)
  } catch (error) {
    throw refuse(`it is not JSON: ${messageOf(error)}`, error)
  }
  const known = [
    ...['boot', 'serial', 'mac', 'address', 'port', 'stateDir', 'runDir', 'controller', 'anchorsFile', 'birdCommand', 'ipCommand', 'logLevel'],
    ...['processTier', 'tierMin'],
  ]
  const unknown = Object.keys(raw).find((key) => !known.includes(key))
  if (unknown !== undefined) throw refuse(`unknown field "${unknown}"`)
  const string = (name: string, fallback?: string): string => {
    const value = raw[name] ?? fallback
    if (typeof value !== 'string' || value === '') throw refuse(`"${name}" must be a string`)
    return value
  }
  const port = (value: unknown, name: string): number => {
    if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > 65_535) throw refuse(`"${name}" must be a port, 1 to 65535`)
    return value as number
  }
  const path = (name: string, fallback?: string): string => {
    const value = string(name, fallback)
    return isAbsolute(value) ? value : resolve(value)
  }
  if (raw['boot'] !== 'local') throw refuse('"boot" must be "local"')
  const controller = raw['controller'] as { address?: unknown; port?: unknown } | undefined
  if (typeof controller?.address !== 'string') throw refuse('"controller" must be {"address": "...", "port": n}')
  const oneOf = <T extends string>(name: string, values: readonly T[], fallback: T): T => {
    const value = string(name, fallback) as T
    if (!values.includes(value)) throw refuse(`"${name}" must be one of ${values.join(', ')}`)
    return value
  }
  return {
    boot: 'local',
    serial: string('serial'),
    mac: string('mac').toLowerCase(),
    address: string('address'),
    port: port(raw['port'], 'port'),
    stateDir: path('stateDir'),
    runDir: path('runDir'),
    controller: { address: controller.address, port: port(controller.port, 'controller.port') },
    anchorsFile: path('anchorsFile'),
    birdCommand: string('birdCommand', '/usr/sbin/bird'),
    ipCommand: string('ipCommand', '/sbin/ip'),
    logLevel: oneOf<Level>('logLevel', LEVELS, 'info'),
    agentVersion: AGENT_VERSION,
    imageSha256: '',
    processTier: oneOf('processTier', TIER_POLICIES, 'best-effort'),
    tierMin: oneOf('tierMin', TIERS, 'worker'),
  }
}

/** Inside the image: reads what the boot server said, and brings the network up with it. */
async function imageConfig(): Promise<AgentConfig> {
  const words = parseCommandLine(await readFile('/proc/cmdline', 'utf8'))
  const ipCommand = '/sbin/ip'
  const serial = words.serial || (await readFile('/sys/class/dmi/id/product_serial', 'utf8').catch(() => '')).trim()
  if (serial === '') throw new OffboxError('CONFIG_INVALID', 'neither the kernel command line nor SMBIOS names a serial number')
  await bringUp(words, ipCommand)
  return {
    boot: 'pxe',
    serial,
    mac: words.mac,
    address: words.address,
    port: 9339,
    stateDir: '/state',
    runDir: '/run/offbox',
    controller: words.controller,
    anchorsFile: '/etc/offbox/anchors.json',
    birdCommand: '/usr/sbin/bird',
    ipCommand,
    logLevel: 'info',
    agentVersion: AGENT_VERSION,
    imageSha256: await imageDigest('/etc/offbox/image.json'),
    // The image has all that it takes; a kernel that cannot is not to be trusted with such a service.
    processTier: 'required',
    tierMin: 'worker',
  }
}

async function imageDigest(file: string): Promise<string> {
  const facts = JSON.parse(await readFile(file, 'utf8')) as { imageSha256?: unknown }
  return typeof facts.imageSha256 === 'string' ? facts.imageSha256 : ''
}
