/** CPU time of another process's main thread, as the kernel counts it: unlike calls per second it does not depend on who else wants a core. */
import { readFileSync } from 'node:fs'

/** Nanoseconds on a core so far. The first number of schedstat; Linux with CONFIG_SCHED_INFO, which Debian's kernels have. */
export function mainThreadNs(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')[0])
}
