/**
 * Keeps one BIRD running. It is started detached, so that it outlives the agent: a new agent finds it by its socket and takes it
 * over. When it dies it is started again, with graceful-restart recovery, so that neighbours and kernel keep its routes meanwhile.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { Clock } from '../../core/clock.ts'
import { birdCommand } from './bird-client.ts'
import { failed } from './bird-protocol.ts'
import type { DriverLog } from './types.ts'

/** How often a running BIRD is asked whether it is there. */
export const birdWatchIntervalMs = 2_000
/** Unanswered questions in a row after which a BIRD whose process lives is killed. It may digest a large configuration. */
export const birdSilencesMax = 6
export const birdRestartDelayMinMs = 500
export const birdRestartDelayMaxMs = 30_000
/** From its start to its first answer. */
export const birdStartTimeoutMs = 15_000
const POLL_MS = 50

export interface BirdPaths {
  readonly config: string
  readonly socket: string
  readonly pid: string
  readonly output: string
}

/** All under the run directory, which a reboot empties. */
export function birdPaths(runDir: string): BirdPaths {
  return { config: join(runDir, 'bird.conf'), socket: join(runDir, 'bird.sock'), pid: join(runDir, 'bird.pid'), output: join(runDir, 'bird.out') }
}

export interface BirdDaemonOptions {
  readonly command: string
  readonly paths: BirdPaths
  readonly clock: Clock
  readonly log: DriverLog
  /** BIRD died: called once each time, before it is started again from `paths.config`. */
  readonly onDeath: () => Promise<void>
  /** BIRD answers: called after each start or take-over, and then at every watch. */
  readonly onAnswer: () => Promise<void>
}

export class BirdDaemon {
  readonly #options: BirdDaemonOptions
  #child: ChildProcess | undefined
  #closed = false
  #silences = 0
  #deaths = 0
  #upSinceMs = 0
  #wake: () => void = () => {}
  #loop: Promise<void> | undefined

  constructor(options: BirdDaemonOptions) {
    this.#options = options
  }

  /**
   * Resolves once BIRD answers, or once the first attempt to start it failed; it is tried again for ever in the background.
   */
  async start(): Promise<void> {
    const { paths, clock, log } = this.#options
    if (await this.#answersInTime()) {
      log.info({ socket: paths.socket }, 'BIRD taken over')
      this.#upSinceMs = clock.monotonicMs()
    } else {
      await this.#restart()
    }
    this.#loop = this.#watch()
  }

  /** Stops watching; BIRD itself keeps running unless `stopBird`. */
  async close(options: { stopBird?: boolean } = {}): Promise<void> {
    this.#closed = true
    this.#wake()
    await this.#loop
    if (options.stopBird) await this.#end()
  }

  async #watch(): Promise<void> {
    const { clock, log, onAnswer } = this.#options
    while (!this.#closed) {
      await this.#pause(birdWatchIntervalMs)
      if (this.#closed) return
      try {
        if (await this.#answers()) {
          this.#silences = 0
          if (clock.monotonicMs() - this.#upSinceMs > birdRestartDelayMaxMs) this.#deaths = 0
          await onAnswer()
        } else if (!(await this.#isAlive())) {
          await this.#restart()
        } else if (++this.#silences >= birdSilencesMax) {
          log.error({ silences: this.#silences }, 'BIRD is silent; it is killed and started again')
          await this.#signal('SIGKILL')
        }
      } catch (error) {
        log.error({ error: messageOf(error) }, 'the watch over BIRD failed')
      }
    }
  }

  /** One attempt. Leaves the rest to the next watch. */
  async #restart(): Promise<void> {
    const { command, paths, clock, log, onDeath, onAnswer } = this.#options
    // Removed by an orderly end, so its presence means that this boot's BIRD crashed: only then is there something to recover.
    const crashed = await exists(paths.pid)
    if (crashed || this.#upSinceMs > 0) {
      this.#deaths += 1
      this.#upSinceMs = 0
      log.warn({ deaths: this.#deaths, crashed }, 'BIRD died')
      await onDeath()
      await rm(paths.pid, { force: true })
    }
    if (this.#deaths > 1) await this.#pause(Math.min(birdRestartDelayMinMs * 2 ** Math.min(this.#deaths - 2, 10), birdRestartDelayMaxMs))
    if (this.#closed) return
    try {
      await this.#spawn(crashed)
      const deadlineMs = clock.monotonicMs() + birdStartTimeoutMs
      while (!(await this.#answers())) {
        if (this.#closed) return
        if (!this.#child) throw new OffboxError('DRIVER_FAILED', `it ended at start: ${await lastWords(paths.output)}`)
        if (clock.monotonicMs() > deadlineMs) throw new OffboxError('DRIVER_FAILED', `it did not answer within ${birdStartTimeoutMs} ms`)
        await new Promise<void>((resolve) => clock.after(POLL_MS, resolve))
      }
      this.#silences = 0
      this.#upSinceMs = clock.monotonicMs()
      log.info({ pid: this.#child?.pid, recovering: crashed }, 'BIRD started')
      await onAnswer()
    } catch (error) {
      this.#deaths += 1
      log.error({ command, error: messageOf(error) }, 'BIRD did not start')
    }
  }

  async #spawn(recover: boolean): Promise<void> {
    const { command, paths } = this.#options
    const output = openSync(paths.output, 'w', 0o600)
    try {
      const args = ['-f', '-c', paths.config, '-s', paths.socket, '-P', paths.pid, ...(recover ? ['-R'] : [])]
      const child = spawn(command, args, { detached: true, stdio: ['ignore', output, output], env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } })
      this.#child = child
      child.on('exit', () => {
        if (this.#child === child) this.#child = undefined
        this.#wake()
      })
      await new Promise<void>((resolve, reject) => {
        child.once('spawn', resolve)
        child.once('error', (error) => {
          this.#child = undefined
          reject(error)
        })
      })
      child.unref()
    } finally {
      closeSync(output)
    }
  }

  /** At the agent's start BIRD may be there but busy; only one that stays silent is killed. */
  async #answersInTime(): Promise<boolean> {
    const { clock } = this.#options
    const deadlineMs = clock.monotonicMs() + birdStartTimeoutMs
    while (!(await this.#answers())) {
      if (!(await this.#isAlive())) return false
      if (clock.monotonicMs() > deadlineMs) await this.#signal('SIGKILL')
      await new Promise<void>((resolve) => clock.after(POLL_MS, resolve))
    }
    return true
  }

  async #answers(): Promise<boolean> {
    try {
      return !failed(await birdCommand(this.#options.paths.socket, 'show status', { timeoutMs: birdWatchIntervalMs }))
    } catch (error) {
      if (error instanceof OffboxError) return false
      throw error
    }
  }

  /** Whether the process of the pid file is our BIRD: pids are used again, so its command line must name our socket. */
  async #isAlive(): Promise<boolean> {
    return (await this.#pid()) !== undefined
  }

  async #pid(): Promise<number | undefined> {
    const { paths } = this.#options
    if (this.#child?.pid !== undefined) return this.#child.pid
    try {
      const pid = Number((await readFile(paths.pid, 'utf8')).trim())
      if (!Number.isSafeInteger(pid) || pid <= 1) return undefined
      const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')
      return words.includes(paths.socket) ? pid : undefined
    } catch (error) {
      if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
      throw error
    }
  }

  async #signal(signal: NodeJS.Signals): Promise<void> {
    const pid = await this.#pid()
    try {
      if (pid !== undefined) process.kill(pid, signal)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }

  async #end(): Promise<void> {
    await this.#signal('SIGTERM')
    const { clock } = this.#options
    const deadlineMs = clock.monotonicMs() + birdStartTimeoutMs
    while ((await this.#pid()) !== undefined) {
      if (clock.monotonicMs() > deadlineMs) await this.#signal('SIGKILL')
      await new Promise<void>((resolve) => clock.after(POLL_MS, resolve))
    }
  }

  async #pause(delayMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const cancel = this.#options.clock.after(delayMs, resolve)
      this.#wake = () => {
        cancel()
        resolve()
      }
    })
    this.#wake = () => {}
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await readFile(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

async function lastWords(path: string): Promise<string> {
  const text = await readFile(path, 'utf8')
  return text.trim().split('\n').at(-1)?.slice(-300) || 'no message'
}
