/** The iPXE script that every device runs: kernel, initramfs and a command line that carries the lease to the agent. */
import { OffboxError } from '../../core/errors.ts'

export interface BootScriptOptions {
  /** Enrolment endpoint, "address:port". */
  readonly controller: string
  /** Kernel parameters in place of `KERNEL_PARAMETERS`. */
  readonly kernelParameters?: readonly string[]
}

export const KERNEL_PARAMETERS = [
  'console=ttyS0',
  // Errors only: a serial line at 115,200 baud costs seconds.
  'quiet',
  // Whatever kills process 1 or the kernel boots the machine anew.
  'panic=5',
  // ramfs takes no second copy's worth of room while the initramfs unpacks.
  'rootfstype=ramfs',
] as const

/**
 * `${...}` is filled in by iPXE on the device: netX is the card it booted from. File names are relative to the script's own URL.
 * A serial number with spaces ends at the first one; the agent then reads it from the SMBIOS tables.
 * @throws ARGUMENT_INVALID `controller` would change the script
 */
export function bootScript({ controller, kernelParameters = KERNEL_PARAMETERS }: BootScriptOptions): string {
  if (!/^(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}$/.test(controller)) {
    throw new OffboxError('ARGUMENT_INVALID', `the controller must be ADDRESS:PORT, not ${JSON.stringify(controller)}`)
  }
  const lease = { ip: 'netX/ip', mask: 'netX/netmask', gateway: 'netX/gateway', mac: 'netX/mac', serial: 'serial' }
  const words = Object.entries(lease).map(([name, variable]) => `offbox.${name}=\${${variable}}`)
  return [
    '#!ipxe',
    `kernel vmlinuz initrd=initrd.img ${[...kernelParameters, ...words, `offbox.controller=${controller}`].join(' ')} || goto failed`,
    'initrd initrd.img || goto failed',
    'boot || goto failed',
    ':failed',
    'echo The image could not be loaded; starting again in 5 seconds',
    'sleep 5',
    'reboot',
    '',
  ].join('\n')
}
