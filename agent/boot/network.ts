/** Brings the management interface up as the boot server said, with `ip`. Safe to repeat: a restarted agent runs it again. */
import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { networkWaitMsMax } from '../limits.ts'
import type { BootWords } from './command-line.ts'

const run = promisify(execFile)
const ipTimeoutMs = 10_000

/** Returns the interface's name. @throws SETUP_MISSING no interface has this MAC; DRIVER_FAILED `ip` refused */
export async function bringUp(words: Pick<BootWords, 'address' | 'prefixLength' | 'gateway' | 'mac'>, ipCommand: string): Promise<string> {
  const name = await findInterface(words.mac)
  const ip = async (...args: string[]) => {
    try {
      await run(ipCommand, args, { timeout: ipTimeoutMs })
    } catch (error) {
      throw new OffboxError('DRIVER_FAILED', `${ipCommand} ${args.join(' ')}: ${messageOf(error)}`, { cause: error })
    }
  }
  await ip('link', 'set', 'dev', name, 'up')
  await ip('address', 'replace', `${words.address}/${words.prefixLength}`, 'dev', name)
  if (words.gateway !== '') await ip('route', 'replace', 'default', 'via', words.gateway, 'dev', name)
  return name
}

/** Drivers may bring a card up after the agent has started, so it is waited for. */
async function findInterface(mac: string, root = '/sys/class/net'): Promise<string> {
  for (let waitedMs = 0; ; waitedMs += 100) {
    const names = await readdir(root).catch(() => [])
    for (const name of names) {
      const address = await readFile(`${root}/${name}/address`, 'utf8').catch(() => '')
      if (address.trim().toLowerCase() === mac) return name
    }
    if (waitedMs >= networkWaitMsMax) throw new OffboxError('SETUP_MISSING', `no interface has the MAC ${mac}; there are ${names.join(', ') || 'none'}`)
    await pause(100)
  }
}
