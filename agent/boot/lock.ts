/** One agent a state directory. The owner is named by pid and start time, so that a lock of the dead holds nobody up. */
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'

/** Resolves with the way to let go. @throws HOME_IN_USE */
export async function takeLock(stateDir: string): Promise<() => Promise<void>> {
  const path = join(stateDir, 'lock')
  const own = join(stateDir, `lock.${process.pid}`)
  await writeFile(own, await nameOf(process.pid), { mode: 0o600 })
  try {
    for (;;) {
      try {
        // `link` is the one step that exactly one of several can win.
        await link(own, path)
        return async () => await rm(path, { force: true })
      } catch (error) {
        if ((error as { code?: unknown }).code !== 'EEXIST') throw error
      }
      await refuseIfAlive(path, stateDir)
      // Moved, not removed: should another agent have taken the lock since we looked, it is found alive here and put back.
      const stale = `${path}.stale.${process.pid}`
      await rename(path, stale).catch(ignoreAbsent)
      try {
        await refuseIfAlive(stale, stateDir)
      } catch (error) {
        await link(stale, path).catch(() => {})
        throw error
      } finally {
        await rm(stale, { force: true })
      }
    }
  } finally {
    await rm(own, { force: true })
  }
}

async function refuseIfAlive(path: string, stateDir: string): Promise<void> {
  const owner = await readFile(path, 'utf8').catch(ignoreAbsent)
  const pid = Number(owner?.split(' ')[0])
  if (!owner || !Number.isSafeInteger(pid) || (await nameOf(pid)) !== owner) return
  throw new OffboxError('HOME_IN_USE', `another agent (process ${pid}) uses ${stateDir}`)
}

/** "PID STARTTICKS BOOTID"; empty when there is no such process. proc(5), /proc/PID/stat field 22. */
async function nameOf(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(ignoreAbsent)
  if (!stat) return ''
  // The second field, the program's name, may hold spaces and brackets.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  return fields[0] === 'Z' ? '' : `${pid} ${fields[19]} ${bootId}`
}

function ignoreAbsent(error: unknown): undefined {
  const { code } = error as { code?: unknown }
  if (code === 'ENOENT' || code === 'ESRCH') return undefined
  throw error
}
