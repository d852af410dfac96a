/** The `link` capability: interfaces and their counters from /sys/class/net. Read only. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { LinkInterface } from '../../core/capabilities.ts'
import type { Operations } from './types.ts'

/** Interfaces beyond these are left out. */
export const linkInterfacesMax = 1024

/** @param root for tests; the kernel's own tree otherwise, which shows the network namespace that mounted it */
export function linkOperations(root = '/sys/class/net'): Operations {
  let reading: Promise<LinkInterface[]> | undefined
  return {
    // Callers at the same time share one reading.
    interfaces: async () => {
      reading ??= interfaces(root).finally(() => {
        reading = undefined
      })
      return await reading
    },
  }
}

async function interfaces(root: string): Promise<LinkInterface[]> {
  const names = (await readdir(root)).filter((name) => name !== 'lo').sort()
  const found = await Promise.all(names.slice(0, linkInterfacesMax).map(async (name) => await read(root, name)))
  return found.filter((one) => one !== null)
}

/** Null when the interface went away meanwhile, or is no interface (bonding_masters). */
async function read(root: string, name: string): Promise<LinkInterface | null> {
  const text = async (path: string) => (await readFile(join(root, name, path), 'utf8')).trim()
  const count = async (counter: string) => Number(await text(`statistics/${counter}`))
  try {
    const [operStatus, mac, mtu] = await Promise.all([text('operstate'), text('address'), text('mtu')])
    const [inOctets, outOctets, inPackets, outPackets] = await Promise.all([count('rx_bytes'), count('tx_bytes'), count('rx_packets'), count('tx_packets')])
    const [inErrors, outErrors, inDiscards, outDiscards] = await Promise.all([count('rx_errors'), count('tx_errors'), count('rx_dropped'), count('tx_dropped')])
    return { name, operStatus, mac, mtu: Number(mtu), inOctets, outOctets, inPackets, outPackets, inErrors, outErrors, inDiscards, outDiscards }
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EINVAL', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) return null
    throw error
  }
}
