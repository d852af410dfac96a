/** One agent a state directory. The owner is named by pid and start time, so that a lock of the dead holds nobody up. */
import { randomBytes } from 'node:crypto'
import { link, readFile, rm, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { OffboxError } from '../../core/errors.ts'

/** With the pause between them, two seconds: taking a stale lock over takes milliseconds. */
const ATTEMPTS_MAX = 100
const ATTEMPT_PAUSE_MS = 20
/** A lock on the lock on the lock: only as many crashes, each in the middle of taking over the one before, get there. */
const DEPTH_MAX = 3

/** Resolves with the way to let go, safe to call twice. @throws HOME_IN_USE */
export async function takeLock(stateDir: string): Promise<() => Promise<void>> {
  const taken = await take(join(stateDir, 'lock'), 0)
  if (typeof taken === 'function') return taken
  throw new OffboxError('HOME_IN_USE', `another agent (process ${taken}) uses ${stateDir}`)
}

/** Answers the way to let go, or the pid of the living owner, who alone is worth waiting for. */
async function take(path: string, depth: number): Promise<(() => Promise<void>) | number> {
  // Told from another lock of this very process, too.
  const name = `${await nameOf(process.pid)} ${randomBytes(4).toString('hex')}`
  const own = `${path}.${name.split(' ').at(-1)}-${process.pid}`
  await writeFile(own, name, { mode: 0o600, flag: 'wx' })
  try {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      try {
        // `link` is the one step that exactly one of several can win.
        await link(own, path)
        return async () => await release(path, name)
      } catch (error) {
        if ((error as { code?: unknown }).code !== 'EEXIST') throw error
      }
      const owner = await ownerOf(path)
      if (owner === 'gone') continue
      if (owner !== 'dead') return owner
      if (depth >= DEPTH_MAX) throw new OffboxError('HOME_IN_USE', `${path} is left over from a crash; remove it`)
      await removeStale(path, depth)
    }
    throw new OffboxError('HOME_IN_USE', `${path} changes hands too quickly; try again`)
  } finally {
    await rm(own, { force: true })
  }
}

/**
 * Removes a dead owner's lock. Only the holder of a second lock may: between reading a stale lock and removing it another starter may
 * have replaced it by its own, and that one must stay.
 */
async function removeStale(path: string, depth: number): Promise<void> {
  const letGo = await take(`${path}.stale`, depth + 1)
  if (typeof letGo !== 'function') {
    // Another starter is at it; what it leaves is looked at in the next attempt.
    await delay(ATTEMPT_PAUSE_MS)
    return
  }
  try {
    if ((await ownerOf(path)) === 'dead') await unlink(path).catch(ignoreAbsent)
  } finally {
    await letGo()
  }
}

async function release(path: string, name: string): Promise<void> {
  const now = await readFile(path, 'utf8').catch(ignoreAbsent)
  if (now === name) await rm(path, { force: true })
}

/** Pid of the process that holds a lock and lives; gone: there is no such file. */
async function ownerOf(path: string): Promise<number | 'dead' | 'gone'> {
  const owner = await readFile(path, 'utf8').catch(ignoreAbsent)
  if (owner === undefined) return 'gone'
  const pid = Number(owner.split(' ')[0])
  if (!Number.isSafeInteger(pid) || pid <= 0) return 'dead'
  const name = await nameOf(pid)
  return name !== '' && (owner === name || owner.startsWith(`${name} `)) ? pid : 'dead'
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
