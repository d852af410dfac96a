/** DHCP for network boot: dnsmasq in the lab's namespace hands each registered MAC its address and points iPXE to the boot script. */
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { LAB_ADDRESS, LAB_ROUTER6_PREFIX, type LabNetwork, type Port } from './network.ts'
import { longRunning, type LabLog } from './process.ts'

const START_TIMEOUT_MS = 10_000
const LEASE = '12h'

export interface DhcpOptions {
  readonly network: LabNetwork
  readonly ports: readonly Port[]
  /** URL of the iPXE script. */
  readonly bootUrl: string
  /** For the lease file. */
  readonly workDir: string
  readonly signal?: AbortSignal
  readonly log: LabLog
}

export interface DhcpServer {
  close(): Promise<void>
  /** Settles when dnsmasq is gone, with how; before `close` that is a failure of the lab. */
  readonly exited: Promise<string>
}

/**
 * Resolves when dnsmasq answers on the bridge.
 * @throws SETUP_MISSING dnsmasq is missing or ends at once
 */
export async function serveDhcp(options: DhcpOptions): Promise<DhcpServer> {
  const { network, ports, log } = options
  options.signal?.throwIfAborted()
  if (!existsSync('/usr/sbin/dnsmasq')) throw new OffboxError('SETUP_MISSING', 'dnsmasq is missing: apt-get install -y dnsmasq-base')
  await mkdir(options.workDir, { recursive: true })
  const args = [
    '--keep-in-foreground',
    '--conf-file=/dev/null',
    '--log-facility=-',
    '--log-dhcp',
    '--port=0', // no DNS
    '--interface=lan',
    '--bind-interfaces',
    '--no-ping', // addresses are fixed; probing them costs 3 s a boot
    '--dhcp-authoritative',
    // In a user namespace there is nobody else to become.
    '--user=root',
    '--group=root',
    '--pid-file=',
    `--dhcp-leasefile=${join(options.workDir, 'dnsmasq.leases')}`,
    '--dhcp-range=10.77.0.0,static,255.255.255.0',
    `--dhcp-option=option:router,${LAB_ADDRESS}`,
    '--dhcp-match=set:ipxe,175',
    // iPXE's own option 176 "no-pxedhcp": without it the boot ROM waits another 2 s for a better offer.
    '--dhcp-option=tag:ipxe,encap:175,176,1b',
    // The boot ROM also configures IPv6 and waits 16 s for a router. This answers it; the image takes no address from anybody.
    `--dhcp-range=${LAB_ROUTER6_PREFIX},ra-only,64`,
    '--enable-ra',
    '--ra-param=lan,60,0',
    `--dhcp-boot=tag:ipxe,${options.bootUrl}`,
    ...ports.map((port) => `--dhcp-host=${port.mac},${port.address},${LEASE}`),
  ]
  const ready = Promise.withResolvers<void>()
  let lastLine = ''
  const server = await longRunning('/usr/sbin/dnsmasq', args, {
    namespace: network.namespace,
    onLine: (line) => {
      lastLine = line
      if (/DHCP, static leases only/.test(line)) ready.resolve()
      if (/DHCP(ACK|NAK)|failed|cannot/.test(line)) log('dhcp', { line })
    },
  })
  const refuse = (why: string) => ready.reject(new OffboxError('SETUP_MISSING', `dnsmasq ${why}: ${lastLine}`))
  server.exited.then((how) => refuse(`ended with ${how}`))
  const late = setTimeout(() => refuse('did not get ready'), START_TIMEOUT_MS)
  const abort = () => void server.stop()
  options.signal?.addEventListener('abort', abort, { once: true })
  try {
    await ready.promise
  } catch (error) {
    await server.stop()
    throw error
  } finally {
    clearTimeout(late)
  }
  return {
    exited: server.exited,
    close: async () => {
      options.signal?.removeEventListener('abort', abort)
      await server.stop()
    },
  }
}
