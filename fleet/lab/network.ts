/**
 * The lab's network: a namespace of its own with a bridge, 10.77.0.1/24, a tap for each VM and a namespace with a veth for each
 * local agent. All names carry the lab's prefix, so that what a killed lab left behind is found and removed by the next one.
 * Nothing outside these namespaces changes.
 */
import { existsSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { OffboxError } from '../../core/errors.ts'
import { command, type LabLog } from './process.ts'

/** Address of the controller, of DHCP and of the gateway: the bridge itself. */
export const LAB_ADDRESS = '10.77.0.1'
export const LAB_PREFIX_LENGTH = 24
/** Only for the router advertisements that boot ROMs wait for; see dhcp.ts. */
export const LAB_ROUTER6_PREFIX = 'fd77:0:0:1::'
/** Devices are 10.77.0.11 upwards. */
const FIRST_DEVICE_HOST = 11
export const LAB_DEVICES_MAX = 200
const BRIDGE = 'lan'
const END_WAIT_MS = 5_000

/** Where a device is plugged in. `index` counts from 1. */
export interface Port {
  readonly index: number
  readonly address: string
  readonly mac: string
}

export interface LabNetwork {
  readonly prefix: string
  /** Namespace that holds the bridge: controller, boot server, DHCP and VMs run in it. */
  readonly namespace: string
  /** @returns the port's tap in `namespace`, made if it is not there */
  tap(port: Port): Promise<string>
  /** @returns the namespace of a local agent, with the port's address and MAC on `eth0`, made if it is not there */
  agentNamespace(port: Port): Promise<string>
  /** Unplugs (`up: false`) or plugs in the cable of a port. */
  cable(port: Port, up: boolean): Promise<void>
  /** Ends what still runs inside and removes everything. Safe to call twice. */
  remove(): Promise<void>
}

/** Address and MAC of device number `index`: the same in every lab, so that a device is known again after a restart. */
export function portOf(index: number): Port {
  if (!Number.isInteger(index) || index < 1 || index > LAB_DEVICES_MAX) throw new OffboxError('ARGUMENT_INVALID', `a lab has devices 1 to ${LAB_DEVICES_MAX}`)
  const host = FIRST_DEVICE_HOST + index - 1
  // 52:54:00 is what QEMU uses: locally administered.
  return { index, address: `10.77.0.${host}`, mac: `52:54:00:4f:42:${host.toString(16).padStart(2, '0')}` }
}

/**
 * Removes leftovers of the same prefix, then makes the network. One lab of a prefix at a time: the caller holds a lock.
 * @param prefix 1 to 20 of a-z, 0-9 and -
 * @throws SETUP_MISSING no right to make namespaces, or a program or kernel feature is missing
 */
export async function createLabNetwork(prefix: string, options: { signal?: AbortSignal; log: LabLog }): Promise<LabNetwork> {
  if (!/^[a-z][a-z0-9-]{0,19}$/.test(prefix)) throw new OffboxError('ARGUMENT_INVALID', `not a usable prefix: ${prefix}`)
  if (!existsSync('/bin/ip') && !existsSync('/usr/sbin/ip')) throw new OffboxError('SETUP_MISSING', 'ip is missing: apt-get install -y iproute2')
  await removeLab(prefix)
  const namespace = `${prefix}-${BRIDGE}`
  const network = new Network(prefix, namespace)
  try {
    await makeNamespace(namespace)
    await batch(namespace, [
      'link set lo up',
      // A bridge with no delay before it forwards: a port that waits 30 s outlasts the boot ROM's DHCP.
      `link add ${BRIDGE} type bridge stp_state 0 forward_delay 0`,
      `addr add ${LAB_ADDRESS}/${LAB_PREFIX_LENGTH} dev ${BRIDGE}`,
      `addr add ${LAB_ROUTER6_PREFIX}1/64 dev ${BRIDGE} nodad`,
      `link set ${BRIDGE} up`,
    ])
    options.signal?.throwIfAborted()
  } catch (error) {
    await network.remove()
    throw error
  }
  options.log('lab network made', { namespace, address: LAB_ADDRESS })
  return network
}

class Network implements LabNetwork {
  readonly prefix: string
  readonly namespace: string
  readonly #taps = new Set<string>()
  readonly #agents = new Set<string>()

  constructor(prefix: string, namespace: string) {
    this.prefix = prefix
    this.namespace = namespace
  }

  async tap(port: Port): Promise<string> {
    const name = `port${port.index}`
    if (this.#taps.has(name)) return name
    await batch(this.namespace, [`tuntap add dev ${name} mode tap`, `link set ${name} master ${BRIDGE} up`])
    this.#taps.add(name)
    return name
  }

  async agentNamespace(port: Port): Promise<string> {
    const name = `${this.prefix}-d${port.index}`
    if (this.#agents.has(name)) return name
    await makeNamespace(name)
    await batch(this.namespace, [
      `link add port${port.index} type veth peer name eth0 address ${port.mac} netns ${name}`,
      `link set port${port.index} master ${BRIDGE} up`,
    ])
    await batch(name, [
      'link set lo up',
      `addr add ${port.address}/${LAB_PREFIX_LENGTH} dev eth0`,
      'link set eth0 up',
      `route add default via ${LAB_ADDRESS} dev eth0`,
    ])
    this.#agents.add(name)
    return name
  }

  async cable(port: Port, up: boolean): Promise<void> {
    await batch(this.namespace, [`link set port${port.index} ${up ? 'up' : 'down'}`])
  }

  async remove(): Promise<void> {
    this.#taps.clear()
    this.#agents.clear()
    await removeLab(this.prefix)
  }
}

/**
 * Removes every namespace of a lab with this prefix, and ends the processes in them first: BIRD and QEMU outlive a lab that was
 * killed. Does nothing when there is none.
 */
export async function removeLab(prefix: string): Promise<void> {
  const listed: Array<{ name: string }> = JSON.parse((await command('ip', ['-j', 'netns', 'list'])) || '[]')
  const ours = new RegExp(`^${prefix}-(${BRIDGE}|d\\d+)$`)
  const names = listed.map((entry) => entry.name).filter((name) => ours.test(name))
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const deadlineMs = performance.now() + END_WAIT_MS
    let pids = await pidsIn(names)
    for (const pid of pids) endProcess(pid, signal)
    while (pids.length > 0 && performance.now() < deadlineMs) {
      await delay(50)
      pids = await pidsIn(names)
    }
  }
  for (const name of names) await command('ip', ['netns', 'delete', name])
}

async function pidsIn(namespaces: readonly string[]): Promise<number[]> {
  const pids = await Promise.all(namespaces.map(async (name) => (await command('ip', ['netns', 'pids', name])).split('\n').filter(Boolean).map(Number)))
  return pids.flat().filter((pid) => pid !== process.pid && pid !== process.ppid)
}

function endProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

async function makeNamespace(name: string): Promise<void> {
  await command('ip', ['netns', 'add', name]).catch((error) => {
    throw new OffboxError('SETUP_MISSING', `a network namespace cannot be made; the lab needs root or user namespaces: ${error.message}`, { cause: error })
  })
}

/** All or nothing per line, in order, one process: see "ip -batch" in ip(8). */
async function batch(namespace: string, lines: readonly string[]): Promise<void> {
  await command('ip', ['-n', namespace, '-batch', '-'], { input: `${lines.join('\n')}\n` })
}
