/**
 * What QEMU runs guests with. /dev/kvm may be there and still not run an ordinary kernel (nested virtualisation that is half
 * there: the BIOS runs, the kernel never prints), so KVM is used only after it has shown a kernel's first words.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { ConsoleLines } from './lines.ts'
import { command, longRunning, type LabLog } from './process.ts'

export const QEMU = '/usr/bin/qemu-system-x86_64'
const PROBE_TIMEOUT_MS = 20_000

export interface Accelerator {
  readonly name: 'kvm' | 'tcg'
  /** QEMU arguments. */
  readonly args: readonly string[]
  /** Why this one, for people. */
  readonly why: string
}

const ARGS = {
  kvm: ['-accel', 'kvm', '-cpu', 'host'],
  // One host thread per virtual processor; la57 (five-level page tables) would make every page walk longer.
  tcg: ['-accel', 'tcg,thread=multi,tb-size=256', '-cpu', 'max,la57=off'],
} as const

/**
 * Finds the accelerator, once per boot of this machine, QEMU and kernel: the verdict is kept in the cache.
 * @param imageDir its vmlinuz is booted for the probe
 * @throws SETUP_MISSING QEMU or the image is not there
 */
export async function accelerator(imageDir: string, options: { log: LabLog; signal?: AbortSignal; cacheDir?: string }): Promise<Accelerator> {
  if (!existsSync(QEMU)) throw new OffboxError('SETUP_MISSING', `${QEMU} is missing: apt-get install -y qemu-system-x86 ipxe-qemu`)
  const kernel = join(imageDir, 'vmlinuz')
  if (!existsSync(kernel)) throw new OffboxError('SETUP_MISSING', `${kernel} is missing; run: offbox image build`)
  if (!existsSync('/dev/kvm')) return chosen('tcg', 'there is no /dev/kvm')
  const cacheDir = options.cacheDir ?? process.env['OFFBOX_CACHE'] ?? join(homedir(), '.cache/offbox')
  const facts = [await readFile('/proc/sys/kernel/random/boot_id', 'utf8'), await command(QEMU, ['--version']), await readFile(kernel)]
  const digest = createHash('sha256')
  for (const fact of facts) digest.update(fact)
  const file = join(cacheDir, `accelerator-${digest.digest('hex').slice(0, 16)}.json`)
  const cached = await readVerdict(file)
  if (cached) return chosen(cached.name, cached.why)
  const verdict = await probe(kernel, options)
  options.log('accelerator probed', { ...verdict })
  await mkdir(cacheDir, { recursive: true })
  await writeFile(`${file}.part-${process.pid}`, JSON.stringify(verdict))
  await rename(`${file}.part-${process.pid}`, file)
  return chosen(verdict.name, verdict.why)
}

interface Verdict {
  readonly name: Accelerator['name']
  readonly why: string
}

function chosen(name: Accelerator['name'], why: string): Accelerator {
  return { name, why, args: ARGS[name] }
}

async function probe(kernel: string, options: { signal?: AbortSignal }): Promise<Verdict> {
  const lines = new ConsoleLines()
  const machine = ['-m', '256', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio']
  const guest = await longRunning(QEMU, [...ARGS.kvm, ...machine, '-kernel', kernel, '-append', 'console=ttyS0 earlyprintk=serial panic=-1'], {
    onLine: (line) => lines.push(line),
  })
  guest.exited.then(() => lines.end())
  try {
    await lines.waitFor(/Linux version \d/, { timeoutMs: PROBE_TIMEOUT_MS, signal: options.signal })
    return { name: 'kvm', why: 'KVM runs a kernel on this machine' }
  } catch (error) {
    options.signal?.throwIfAborted()
    const last = lines.tail(1)[0]?.slice(0, 120)
    if (!(error instanceof OffboxError)) throw error
    return { name: 'tcg', why: `KVM is there but runs no kernel on this machine${last ? ` (${last})` : ''}` }
  } finally {
    await guest.stop('SIGKILL')
  }
}

/** An unreadable or foreign file counts as none: probing again is always right. */
async function readVerdict(file: string): Promise<Verdict | null> {
  try {
    const { name, why } = JSON.parse(await readFile(file, 'utf8'))
    return (name === 'kvm' || name === 'tcg') && typeof why === 'string' ? { name, why } : null
  } catch {
    return null
  }
}
