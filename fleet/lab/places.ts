/** Where the lab's devices can run on this machine, and what they find there. */
import { createHash } from 'node:crypto'
import { appendFileSync, existsSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import type { Home } from '../home/home.ts'
import { missingPackages } from './needs.mjs'
import type { LabLog } from './process.ts'
import { UNSHARED } from './rootless.ts'

export interface Place {
  readonly boot: 'pxe' | 'local'
  /** What the user should know of the choice; empty when there is nothing. */
  readonly why: string
  readonly birdCommand: string
  readonly ipCommand: string
  /** Prefix of the lab's namespaces: two homes may have a lab at once. */
  prefix(home: Home): string
  /** Appends to lab/lab.log below the home. */
  log(home: Home): LabLog
}

/** @throws SETUP_MISSING naming what is missing, also for agents as processes */
export async function chooseBoot(local: boolean): Promise<Place> {
  const name = (missing: readonly { need: string; package: string; why: string }[]) => missing.map((one) => `${one.package} (${one.why})`).join(', ')
  const missing = missingPackages('local', existsSync)
  if (missing.length > 0) throw new OffboxError('SETUP_MISSING', `Debian packages are missing: ${name(missing)}`)
  const forVirtual = missingPackages('pxe', existsSync)
  const notRoot = process.getuid?.() !== 0 || process.env[UNSHARED] !== undefined
  const obstacle = notRoot ? 'not root' : forVirtual.length > 0 ? `missing: ${name(forVirtual)}` : ''
  const why = local || !obstacle ? '' : `no virtual machines here (${obstacle}): agents run as processes in network namespaces instead`
  return {
    boot: local || obstacle ? 'local' : 'pxe',
    why,
    birdCommand: '/usr/sbin/bird',
    ipCommand: existsSync('/sbin/ip') ? '/sbin/ip' : '/bin/ip',
    prefix: (home) => `obx${createHash('sha256').update(home.path).digest('hex').slice(0, 8)}`,
    log: (home) => {
      const file = join(home.path, 'lab/lab.log')
      mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
      return (message, fields = {}) => appendFileSync(file, `${JSON.stringify({ at: new Date().toISOString(), message, ...fields })}\n`, { mode: 0o600 })
    },
  }
}
