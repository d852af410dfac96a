/** The words of the kernel command line that iPXE filled in. Pure. */
import { isIPv4 } from 'node:net'
import { OffboxError } from '../../core/errors.ts'

export interface BootWords {
  readonly address: string
  /** 0 to 32. */
  readonly prefixLength: number
  /** Empty: no default route. */
  readonly gateway: string
  /** Lower case with colons. */
  readonly mac: string
  /** Empty: read it from SMBIOS. */
  readonly serial: string
  readonly controller: { readonly address: string; readonly port: number }
}

/**
 * Words of others are left alone; of ours, the last one counts.
 * @param text /proc/cmdline
 * @throws CONFIG_INVALID a word of ours is missing or malformed (named)
 */
export function parseCommandLine(text: string): BootWords {
  const words = new Map<string, string>()
  for (const word of text.trim().split(/\s+/)) {
    const match = /^offbox\.([a-z]+)=(.*)$/.exec(word)
    if (match) words.set(match[1] ?? '', match[2] ?? '')
  }
  const take = (name: string, valid: (value: string) => boolean, what: string): string => {
    const value = words.get(name) ?? ''
    if (!valid(value)) throw new OffboxError('CONFIG_INVALID', `kernel command line: offbox.${name}=${value} must be ${what}`)
    return value
  }
  const address = take('ip', isIPv4, 'an IPv4 address')
  const mask = take('mask', (value) => prefixOf(value) !== null, 'a netmask or a prefix length')
  const gateway = take('gateway', (value) => value === '' || isIPv4(value), 'an IPv4 address or empty')
  const mac = take('mac', (value) => /^([0-9a-f]{2}[:-]){5}[0-9a-f]{2}$/i.test(value), 'a MAC address')
  const serial = take('serial', (value) => value.length <= 128, 'at most 128 characters')
  const controller = take('controller', (value) => /^[^:]+:\d{1,5}$/.test(value), 'ADDRESS:PORT')
  const [host = '', port = ''] = controller.split(':')
  return {
    address,
    prefixLength: prefixOf(mask) ?? 32,
    gateway,
    mac: mac.toLowerCase().replaceAll('-', ':'),
    serial: decoded(serial),
    controller: { address: host, port: Number(port) },
  }
}

/** "255.255.255.0" or "24" as 24; null for anything else. */
function prefixOf(mask: string): number | null {
  if (/^\d{1,2}$/.test(mask)) return Number(mask) <= 32 ? Number(mask) : null
  if (!isIPv4(mask)) return null
  const bits = mask
    .split('.')
    .map((byte) => Number(byte).toString(2).padStart(8, '0'))
    .join('')
  return /^1*0*$/.test(bits) ? bits.replaceAll('0', '').length : null
}

/** iPXE writes a space as %20 (`${serial:uristring}`). */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
