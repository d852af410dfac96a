/** What accepts traffic in this network namespace, from the kernel's tables and not from configuration. proc(5). */
import { readdir, readFile, readlink } from 'node:fs/promises'

export interface ListeningSocket {
  readonly protocol: 'tcp' | 'udp'
  readonly address: string
  readonly port: number
  readonly inode: string
}

/** TCP_LISTEN; an unconnected UDP socket is in TCP_CLOSE (include/net/tcp_states.h). */
const LISTENING = { tcp: '0A', udp: '07' } as const
/** Without this many processes a device would have other troubles; the scan is for a name only. */
const processesMax = 4_096

/** Sorted by protocol, port and address. `process` is empty when the owner cannot be told. */
export async function readListeners(proc = '/proc'): Promise<{ protocol: string; address: string; port: number; process: string }[]> {
  const tables = await Promise.all(
    (['tcp', 'tcp6', 'udp', 'udp6'] as const).map(async (table) =>
      parseSockets(await textOf(`${proc}/self/net/${table}`), table.startsWith('tcp') ? 'tcp' : 'udp'),
    ),
  )
  const sockets = tables.flat()
  const owners = await ownersOf(new Set(sockets.map(({ inode }) => inode)), proc)
  const found = sockets.map(({ protocol, address, port, inode }) => ({ protocol, address, port, process: owners.get(inode) ?? '' }))
  return found.sort((one, other) => one.protocol.localeCompare(other.protocol) || one.port - other.port || one.address.localeCompare(other.address))
}

/** Pure. The listening sockets of one /proc/net table. */
export function parseSockets(table: string, protocol: 'tcp' | 'udp'): ListeningSocket[] {
  const found: ListeningSocket[] = []
  for (const line of table.split('\n').slice(1)) {
    const [, local = '', remote = '', state, , , , , , inode = ''] = line.trim().split(/\s+/)
    const [address = '', port = ''] = local.split(':')
    if (state !== LISTENING[protocol] || !/:0000$/.test(remote)) continue
    found.push({ protocol, address: parseAddress(address), port: Number.parseInt(port, 16), inode })
  }
  return found
}

/** Hex words in host byte order, i.e. each four bytes reversed on the little-endian machines we run on. */
function parseAddress(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) => (word.match(/../g) ?? []).reverse().map((byte) => Number.parseInt(byte, 16)))
  if (bytes.length === 4) return bytes.join('.')
  const groups = Array.from({ length: 8 }, (_, at) => (((bytes[2 * at] ?? 0) << 8) | (bytes[2 * at + 1] ?? 0)).toString(16))
  const text = groups.join(':')
  const longest = text.match(/\b0(?::0)+\b/g)?.sort((one, other) => other.length - one.length)[0]
  return longest ? text.replace(longest, '::').replace(/:{3,}/, '::') : text
}

async function ownersOf(inodes: ReadonlySet<string>, proc: string): Promise<Map<string, string>> {
  const owners = new Map<string, string>()
  if (inodes.size === 0) return owners
  const ours = await linkOf(`${proc}/self/ns/net`)
  const processes = (await readdir(proc)).filter((name) => /^\d+$/.test(name)).slice(0, processesMax)
  for (const pid of processes) {
    if ((await linkOf(`${proc}/${pid}/ns/net`)) !== ours) continue
    let name: string | undefined
    for (const fd of await readdir(`${proc}/${pid}/fd`).catch(() => [])) {
      const inode = /^socket:\[(\d+)\]$/.exec(await linkOf(`${proc}/${pid}/fd/${fd}`))?.[1]
      if (inode === undefined || !inodes.has(inode)) continue
      name ??= (await textOf(`${proc}/${pid}/comm`)).trim()
      owners.set(inode, name)
    }
  }
  return owners
}

/** Empty for what is gone or not ours to read: processes end while we look at them. */
async function linkOf(path: string): Promise<string> {
  return await readlink(path).catch(() => '')
}

/** Empty where the kernel lacks it, e.g. without IPv6. */
async function textOf(path: string): Promise<string> {
  return await readFile(path, 'utf8').catch(() => '')
}
