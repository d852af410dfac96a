/** One controller (or lab) a home. A lock left by a process that died is taken over. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { link, readFile, rename, unlink, writeFile } from 'node:fs/promises'
import { OffboxError } from '../../core/errors.ts'

interface Owner {
  readonly pid: number
  /** Start time of the process in kernel ticks: a pid alone may have been given to another process since. */
  readonly startTicks: string
  /** What holds it, for the message. */
  readonly holder: string
}

const ATTEMPTS_MAX = 5

/**
 * Takes the lock file at `path`. The result releases it; safe to call twice.
 * @param holder what the holder is, e.g. "controller"
 * @throws HOME_IN_USE naming the process that holds it
 */
export async function lockHome(path: string, holder: string): Promise<() => Promise<void>> {
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
      if (found && isAlive(found)) throw inUse(path, found)
      await takeAway(path)
    }
    throw new OffboxError('HOME_IN_USE', `${path} changes hands too quickly; try again`)
  } finally {
    await unlink(mine)
  }
}

function inUse(path: string, owner: Owner): OffboxError {
  return new OffboxError('HOME_IN_USE', `${path} is held by the ${owner.holder} with process id ${owner.pid}`)
}

/** Removes a dead owner's lock. Another starter may have replaced it by its own meanwhile: that one is put back. */
async function takeAway(path: string): Promise<void> {
  const aside = `${path}.stale-${process.pid}-${randomBytes(4).toString('hex')}`
  try {
    await rename(path, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  const owner = await readOwner(aside)
  if (owner && isAlive(owner)) {
    await link(aside, path)
    await unlink(aside)
    throw inUse(path, owner)
  }
  await unlink(aside)
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

/** Null for a lock that is gone or that no version of this program wrote. */
async function readOwner(path: string): Promise<Owner | null> {
  try {
    const owner = JSON.parse(await readFile(path, 'utf8')) as Owner
    return Number.isSafeInteger(owner?.pid) ? owner : null
  } catch {
    return null
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
