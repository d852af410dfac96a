/**
 * A device as a virtual machine: no disk, one network card, and a boot ROM that loads the image over the network. Power is cut
 * as a power cut does it: the QEMU process is killed, and nothing in the guest gets a word.
 */
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { QEMU, type Accelerator } from './accelerator.ts'
import { ConsoleLines } from './lines.ts'
import type { LabNetwork, Port } from './network.ts'
import { longRunning, type LabLog, type LongRunning } from './process.ts'

/** Boot ROM of the virtio network card; Debian package ipxe-qemu. */
const BOOT_ROM = '/usr/lib/ipxe/qemu/pxe-virtio.rom'
const MEMORY_MB_MIN = 320
const SERIAL_PATTERN = /^[A-Za-z0-9._-]{1,60}$/

export interface VmOptions {
  /** For logs only. */
  readonly name: string
  readonly network: LabNetwork
  readonly port: Port
  /** SMBIOS system serial number. */
  readonly serial: string
  readonly accelerator: Accelerator
  /** Default 512. */
  readonly memoryMb?: number
  /** Default 2: one runs the agent, the other its compiler and garbage collector. */
  readonly processors?: number
  /** Appended to, over all power cycles. */
  readonly consoleFile: string
  readonly signal?: AbortSignal
  readonly log: LabLog
}

export interface Vm {
  readonly name: string
  readonly port: Port
  readonly console: ConsoleLines
  /** Monotonic time (performance.now) of the last power-on, milliseconds. */
  readonly poweredOnAtMs: number
  readonly running: boolean
  /** Starts QEMU; nothing happens while it runs. */
  powerOn(): Promise<void>
  /** Kills QEMU; resolves when it is gone. */
  powerOff(): Promise<void>
  /** powerOff and the end of the console. The VM is of no use afterwards. */
  close(): Promise<void>
}

/**
 * Describes a VM and plugs it in; it is off until `powerOn`. `signal` cuts its power.
 * @throws SETUP_MISSING QEMU or its boot ROM is missing
 */
export async function createVm(options: VmOptions): Promise<Vm> {
  if (!existsSync(QEMU)) throw new OffboxError('SETUP_MISSING', `${QEMU} is missing: apt-get install -y qemu-system-x86`)
  if (!existsSync(BOOT_ROM)) throw new OffboxError('SETUP_MISSING', `${BOOT_ROM} is missing: apt-get install -y ipxe-qemu`)
  if (!SERIAL_PATTERN.test(options.serial)) throw new OffboxError('ARGUMENT_INVALID', `not a usable serial number: ${JSON.stringify(options.serial)}`)
  if ((options.memoryMb ?? 512) < MEMORY_MB_MIN) throw new OffboxError('ARGUMENT_INVALID', `a device needs ${MEMORY_MB_MIN} MB of memory`)
  options.signal?.throwIfAborted()
  await mkdir(dirname(options.consoleFile), { recursive: true })
  return new QemuVm(options, await options.network.tap(options.port))
}

class QemuVm implements Vm {
  readonly name: string
  readonly port: Port
  readonly console: ConsoleLines
  poweredOnAtMs = Number.NaN
  readonly #options: VmOptions
  readonly #tap: string
  #guest: LongRunning | null = null
  /** Power switches happen one after the other. */
  #turn: Promise<void> = Promise.resolve()
  readonly #abort = () => void this.close()

  constructor(options: VmOptions, tap: string) {
    this.name = options.name
    this.port = options.port
    this.console = new ConsoleLines(options.consoleFile)
    this.#options = options
    this.#tap = tap
    options.signal?.addEventListener('abort', this.#abort, { once: true })
  }

  get running(): boolean {
    return this.#guest !== null
  }

  powerOn(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#guest) return
      this.#options.signal?.throwIfAborted()
      const { log, network } = this.#options
      this.poweredOnAtMs = performance.now()
      const guest = await longRunning(QEMU, this.#arguments(), { namespace: network.namespace, onLine: (line) => this.console.push(line) })
      this.#guest = guest
      log('powered on', { device: this.name, pid: guest.pid })
      guest.exited.then((how) => {
        if (this.#guest !== guest) return
        this.#guest = null
        log('virtual machine ended by itself', { device: this.name, how, console: this.console.tail(3) })
      })
    })
  }

  powerOff(): Promise<void> {
    return this.#inTurn(async () => {
      const guest = this.#guest
      if (!guest) return
      this.#guest = null
      await guest.stop('SIGKILL')
      this.#options.log('powered off', { device: this.name })
    })
  }

  async close(): Promise<void> {
    this.#options.signal?.removeEventListener('abort', this.#abort)
    await this.powerOff()
    this.console.end()
  }

  #inTurn(step: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(step)
    this.#turn = done.catch(() => {}) // the caller has it from `done`
    return done
  }

  #arguments(): string[] {
    const { accelerator, serial, port, memoryMb = 512, processors = 2 } = this.#options
    return [
      ...accelerator.args,
      ...['-machine', 'pc,graphics=off,usb=off', '-smp', String(processors), '-m', String(memoryMb)],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-rtc', 'base=utc'],
      ...['-smbios', `type=1,manufacturer=Offbox,product=lab,serial=${serial}`],
      ...['-netdev', `tap,id=lan,ifname=${this.#tap},script=no,downscript=no`],
      // The ROM is made for the modern device; QEMU's default one answers to the id of the transitional one, and SeaBIOS skips it.
      ...['-device', `virtio-net-pci,disable-legacy=on,netdev=lan,mac=${port.mac},romfile=${BOOT_ROM},bootindex=0`],
      ...['-boot', 'n'],
    ]
  }
}
