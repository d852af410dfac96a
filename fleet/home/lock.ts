/** One controller (or lab) a home. A lock left by a process that died is taken over. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { link, readFile, unlink, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { OffboxError } from '../../core/errors.ts'

interface Owner {
  readonly pid: number
  /** Start time of the process in kernel ticks: a pid alone may have been given to another process since. */
  readonly startTicks: string
  /** What holds it, for the message. */
  readonly holder: string
}

/** With the pause between them, two seconds: taking a stale lock over takes milliseconds. */
const ATTEMPTS_MAX = 100
const ATTEMPT_PAUSE_MS = 20
/** A lock on the lock on the lock: only as many crashes, each in the middle of taking over the one before, get there. */
const DEPTH_MAX = 3

/**
 * Takes the lock file at `path`. The result releases it; safe to call twice.
 * @param holder what the holder is, e.g. "controller"
 * @throws HOME_IN_USE naming the process that holds it
 */
export async function lockHome(path: string, holder: string): Promise<() => Promise<void>> {
  const taken = await lock(path, holder, 0)
  if (typeof taken === 'function') return taken
  throw new OffboxError('HOME_IN_USE', `${path} is held by the ${taken.holder} with process id ${taken.pid}`)
}

/** Answers the way to release it, or the living owner, who alone is worth waiting for. */
async function lock(path: string, holder: string, depth: number): Promise<(() => Promise<void>) | Owner> {
  const own: Owner = { pid: process.pid, startTicks: startTicks(process.pid) ?? '', holder }
  const text = `${JSON.stringify(own)}\n`
  // Written aside and linked into place, so that nobody ever reads a lock without its owner.
  const mine = `${path}.${process.pid}-${randomBytes(4).toString('hex')}`
  await writeFile(mine, text, { mode: 0o600, flag: 'wx' })
  try {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      try {
        await link(mine, path)
        return release(path, text)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      }
      const found = await readOwner(path)
      if (found === 'gone') continue
      if (found && isAlive(found)) return found
      if (depth >= DEPTH_MAX) throw new OffboxError('HOME_IN_USE', `${path} is left over from a crash; remove it`)
      await removeStale(path, holder, depth)
    }
    throw new OffboxError('HOME_IN_USE', `${path} changes hands too quickly; try again`)
  } finally {
    await unlink(mine)
  }
}

/**
 * Removes a dead owner's lock. Only the holder of a second lock may: between reading a stale lock and removing it another starter may
 * have replaced it by its own, and that one must stay.
 */
async function removeStale(path: string, holder: string, depth: number): Promise<void> {
  const unlock = await lock(`${path}.stale`, holder, depth + 1)
  if (typeof unlock !== 'function') {
    // Another starter is at it; what it leaves is looked at in the next attempt.
    await delay(ATTEMPT_PAUSE_MS)
    return
  }
  try {
    const owner = await readOwner(path)
    if (owner !== 'gone' && !(owner && isAlive(owner))) await unlink(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  } finally {
    await unlock()
  }
}

function release(path: string, text: string): () => Promise<void> {
  let held = true
  return async () => {
    if (!held) return
    held = false
    const now = await readFile(path, 'utf8').catch(() => '')
    if (now === text) await unlink(path)
  }
}

/** Null for a lock that no version of this program wrote. */
async function readOwner(path: string): Promise<Owner | 'gone' | null> {
  try {
    const owner = JSON.parse(await readFile(path, 'utf8')) as Owner
    return Number.isSafeInteger(owner?.pid) ? owner : null
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'gone' : null
  }
}

function isAlive(owner: Owner): boolean {
  const ticks = startTicks(owner.pid)
  return ticks !== null && ticks === owner.startTicks
}

/** Field 22 of /proc/PID/stat, proc(5); null when there is no such process. The name in field 2 may hold spaces and brackets. */
function startTicks(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // A zombie holds nothing any more.
    return fields[0] === 'Z' ? null : (fields[19] ?? null)
  } catch {
    return null
  }
}
