/** What the kernel says of a service's process: whether it is confined as planned, and what it uses (proc(5)). */
import { readFile, readlink, writeFile } from 'node:fs/promises'
import type { Layer } from './confinement.ts'
import type { Usage } from './transport.ts'

const PAGE_BYTES = 4_096
/** sysconf(_SC_CLK_TCK) is 100 on every Linux that Node runs on. */
const TICK_MS = 10
/** The kernel ends a service before anything else when the memory of the machine runs out; -1000 to 1000. */
const OOM_SCORE = 500

/**
 * The process that runs the service: `pid` itself, or its child where a tool stays between the two.
 * @throws Error when it is gone
 */
export async function serviceProcessOf(pid: number, namespaces: boolean): Promise<number> {
  if (!namespaces) return pid
  const child = Number((await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim())
  if (!Number.isInteger(child) || child <= 0) throw new Error('its process is gone')
  return child
}

/** Looks at a process before any service code runs in it. @throws Error naming what does not hold */
export async function checkConfined(pid: number, layers: ReadonlySet<Layer>, uid: number): Promise<void> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const line = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)?.[1]?.trim() ?? ''
  const need = (holds: boolean, what: string) => {
    if (!holds) throw new Error(`it is not confined: ${what}`)
  }
  const ids = (name: string) =>
    line(name)
      .split(/\s+/)
      .every((id) => id === `${uid}`)
  if (layers.has('uid')) need(ids('Uid') && ids('Gid') && line('Groups') === '', 'its uid')
  if (layers.has('privileges')) {
    need(line('NoNewPrivs') === '1', 'no new privileges')
    need(BigInt(`0x${line('CapEff')}`) === 0n && BigInt(`0x${line('CapPrm')}`) === 0n, 'capabilities')
  }
  if (layers.has('namespaces')) {
    for (const name of ['net', 'pid', 'ipc', 'uts']) {
      const [own, its] = await Promise.all(['self', pid].map(async (of) => await readlink(`/proc/${of}/ns/${name}`)))
      need(own !== its, `namespace ${name}`)
    }
  }
  // Best effort: an agent without privileges may not even look worse in its own child's name.
  await writeFile(`/proc/${pid}/oom_score_adj`, `${OOM_SCORE}`).catch(() => {})
}

/** @throws Error when it is gone */
export async function usageOf(pid: number): Promise<Usage> {
  const [memory, stat] = await Promise.all([readFile(`/proc/${pid}/statm`, 'utf8'), readFile(`/proc/${pid}/stat`, 'utf8')])
  // Fields 14 and 15, counted after the name in parentheses, which may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return { memoryBytes: Number(memory.split(' ')[1]) * PAGE_BYTES, cpuMs: (Number(fields[11]) + Number(fields[12])) * TICK_MS }
}
