/**
 * A process of its own for one started version of a service. Not a byte of the service reaches the process before it is confined and
 * that was checked; what it writes is taken for hostile.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import type { Duplex, Readable } from 'node:stream'
import { encodeFrame, FrameReader, framesOf, type ProcessStart, writeAll } from '../../core/frames.ts'
import { messageOf } from '../../core/errors.ts'
import { limitsOf } from '../../core/manifest.ts'
import { pack, type ToWorker, unpack } from '../../services/sdk/wire.ts'
import type { Cgroup, Cgroups } from './cgroup.ts'
import { confinedCommand, describeMeans, nodeWords, type Means, UidPool } from './confinement.ts'
import { checkConfined, serviceProcessOf, usageOf } from './process-facts.ts'
import type { StartTransport, Transport, TransportListener, TransportOptions, Usage } from './transport.ts'

export const PROCESS_LIMITS = {
  /** What may wait for a process that does not read: the largest state that is handed over (64 MiB), and what follows it. One frame more may come on top. */
  unreadBytesMax: 80 * 1024 * 1024,
  /** Read of one process in one turn of the event loop; then others have theirs. A well-behaved process sends one frame a turn. */
  turnBytesMax: 1024 * 1024,
  turnFramesMax: 64,
  /** Printed text is read in pieces of up to 64 KiB, with this pause between two. */
  printPauseMs: 50,
  /** The end of what it printed, to say why it ended. */
  lastWordsCharsMax: 4_000,
  /** Its pipes close when it ends; something else that holds them open is not waited for. */
  closeTimeoutMs: 1_000,
} as const

export interface ProcessTierOptions {
  /** Text of the script that every process runs (services/sdk/run-process.ts, built). */
  readonly hostText: string
  readonly means: Means
  /** Or why there are none. */
  readonly cgroups: Cgroups | string
  /** Tells this agent's processes from those of another on this machine. */
  readonly key: string
}

export function processTransport(options: ProcessTierOptions): StartTransport {
  const uids = new UidPool()
  return (start, on) => {
    const uid = uids.take(`${options.key}/${start.bundle.manifest.name}`)
    const listener: TransportListener = {
      batch: (batch) => on.batch(batch),
      printed: (stream, text) => on.printed(stream, text),
      error: (reason) => on.error(reason),
      exit: (reason) => {
        uids.free(uid)
        on.exit(reason)
      },
    }
    try {
      return new ServiceProcess(options, start, uid, listener)
    } catch (error) {
      uids.free(uid)
      throw error
    }
  }
}

/** `booting`: nothing heard yet; `checking`: whether it is confined; `running`: it has the service; `closed`: only its end is of interest. */
type Phase = 'booting' | 'checking' | 'running' | 'closed'

class ServiceProcess implements Transport {
  readonly confinement: readonly string[]
  readonly #options: ProcessTierOptions
  readonly #start: TransportOptions
  readonly #on: TransportListener
  readonly #uid: number
  readonly #child: ChildProcess
  readonly #pipe: Duplex
  readonly #cgroup: Cgroup | undefined
  readonly #joined: Promise<void>
  readonly #reader = new FrameReader((batch) => this.#receive(batch))
  /** Batches posted before the process was known to be confined. */
  readonly #early: (readonly ToWorker[])[] = []
  #phase: Phase = 'booting'
  #pid: number | undefined
  #turnBytes = 0
  /** Of what was read, not yet taken apart. */
  #rest: Uint8Array | undefined
  #lastWords = ''
  #ended = false

  constructor(options: ProcessTierOptions, start: TransportOptions, uid: number, on: TransportListener) {
    this.#options = options
    this.#start = start
    this.#uid = uid
    this.#on = on
    const { means, cgroups } = options
    const { manifest } = start.bundle
    const limits = limitsOf(manifest)
    const { group, missing } = makeGroup(cgroups, manifest.name, limits)
    this.#cgroup = group
    const memoryMbMax = group?.words.some((word) => word.startsWith('cgroup memory')) ? undefined : limits.memoryMbMax
    const rlimit = memoryMbMax !== undefined && means.layers.has('rlimits') ? [`rlimit data ${memoryMbMax} MiB above node's own`] : []
    this.confinement = [...describeMeans(means, uid), 'ses', ...(group?.words ?? []), ...rlimit, ...missing]
    const words = [...confinedCommand(means, { uid, memoryMbMax }), ...nodeWords(manifest.heapMbMax, start.limits.youngGenerationMbMax)]
    const node = openSync(process.execPath, 'r')
    try {
      this.#child = spawn(words[0] as string, words.slice(1), { cwd: '/', env: {}, stdio: ['pipe', 'pipe', 'pipe', 'pipe', node] })
    } finally {
      closeSync(node)
    }
    this.#pipe = this.#child.stdio[3] as Duplex
    // Moved while the tools are still at work; whether it is in is checked before the service is handed over.
    this.#joined = this.#child.pid === undefined ? Promise.resolve() : (group?.join(this.#child.pid) ?? Promise.resolve())
    this.#joined.catch(() => {})
    this.#listen()
    this.#child.stdin?.end(options.hostText)
  }

  post(batch: readonly ToWorker[]): void {
    if (this.#phase === 'running') this.#send(batch)
    else if (this.#phase !== 'closed') this.#early.push(batch)
  }

  close(): void {
    this.#phase = 'closed'
  }

  kill(): void {
    this.#phase = 'closed'
    this.#cgroup?.kill()
    // Ends the tool before the service, and the kernel the service with it; or the service itself.
    this.#child.kill('SIGKILL')
  }

  async usage(): Promise<Usage | undefined> {
    if (this.#ended || this.#pid === undefined) return undefined
    const pid = this.#pid
    // Without a memory controller the group has no such file.
    return await (this.#cgroup?.words.some((word) => word.startsWith('cgroup memory')) ? this.#cgroup.usage() : usageOf(pid)).catch(() => undefined)
  }

  #listen(): void {
    const child = this.#child
    child.on('error', (error) => {
      this.#on.error(`its process could not be started: ${error.message}`)
      if (child.pid === undefined) this.#gone(null, null)
    })
    child.on('exit', (code, signal) => {
      const late = setTimeout(() => this.#gone(code, signal), PROCESS_LIMITS.closeTimeoutMs)
      child.once('close', () => {
        clearTimeout(late)
        this.#gone(code, signal)
      })
    })
    // A pipe to a process that has ended: its end is told by `exit`.
    child.stdin?.on('error', () => {})
    this.#pipe.on('error', () => {})
    this.#pipe.on('data', (chunk: Uint8Array) => this.#read(chunk))
    this.#pipe.on('end', () => {
      if (this.#reader.torn && !this.#rest) this.#fail('it ended in the middle of a frame')
    })
    for (const name of ['stdout', 'stderr'] as const) this.#print(child[name] as Readable, name)
  }

  #print(stream: Readable, name: 'stdout' | 'stderr'): void {
    stream.on('error', () => {})
    stream.on('data', (chunk: Uint8Array) => {
      const text = String(chunk)
      if (name === 'stderr') this.#lastWords = (this.#lastWords + text).slice(-PROCESS_LIMITS.lastWordsCharsMax)
      if (this.#phase !== 'closed') this.#on.printed(name, text)
      if (chunk.byteLength < 4_096) return
      stream.pause()
      setTimeout(() => stream.resume(), PROCESS_LIMITS.printPauseMs)
    })
  }

  #read(chunk: Uint8Array): void {
    if (this.#phase === 'closed') return
    let read = 0
    try {
      read = this.#reader.push(chunk, PROCESS_LIMITS.turnFramesMax)
    } catch (error) {
      this.#fail(`it broke the protocol: ${messageOf(error)}`)
      return
    }
    if (this.#turnBytes === 0) setImmediate(() => this.#nextTurn())
    this.#turnBytes += chunk.byteLength
    this.#rest = read < chunk.byteLength ? chunk.subarray(read) : undefined
    if (this.#rest || this.#turnBytes >= PROCESS_LIMITS.turnBytesMax) this.#pipe.pause()
  }

  #nextTurn(): void {
    this.#turnBytes = 0
    const rest = this.#rest
    this.#rest = undefined
    if (rest) this.#read(rest)
    if (!this.#rest) this.#pipe.resume()
  }

  #receive(batch: unknown[]): void {
    if (this.#phase === 'running') this.#on.batch(unpack(batch[0], false))
    else if (this.#phase === 'booting' && batch.length === 0) void this.#admit()
    else if (this.#phase !== 'closed') this.#fail('it broke the protocol: it spoke before it was asked')
  }

  /** The script runs and waits: hands the service over once the process is known to be confined. */
  async #admit(): Promise<void> {
    this.#phase = 'checking'
    const { means } = this.#options
    const { bundle, limits } = this.#start
    try {
      const pid = await serviceProcessOf(this.#child.pid as number, means.layers.has('namespaces'))
      await this.#joined
      // It was forked before its parent was moved.
      if (this.#cgroup && !(await this.#cgroup.pids()).includes(pid)) await this.#cgroup.join(pid)
      await checkConfined(pid, means.layers, this.#uid)
      this.#pid = pid
    } catch (error) {
      // One that has ended says itself why.
      if (this.#child.exitCode === null && this.#child.signalCode === null) this.#fail(messageOf(error))
      return
    }
    if (!this.#is('checking')) return
    this.#phase = 'running'
    const start: ProcessStart = { code: bundle.payload, manifest: bundle.manifest, quiesceTimeoutMs: limits.quiesceTimeoutMs }
    this.#write(encodeFrame([start]))
    for (const batch of this.#early.splice(0)) this.#send(batch)
  }

  #is(phase: Phase): boolean {
    return this.#phase === phase
  }

  #send(batch: readonly ToWorker[]): void {
    this.#write(framesOf(batch, (portion) => pack(portion, [])))
  }

  #write(pieces: readonly Uint8Array[]): void {
    if (this.#phase === 'closed') return
    if (this.#pipe.writableLength > PROCESS_LIMITS.unreadBytesMax) {
      this.#fail(`it does not read: ${this.#pipe.writableLength} bytes wait for it`)
      return
    }
    writeAll(this.#pipe, pieces)
  }

  #fail(reason: string): void {
    if (this.#phase === 'closed') return
    this.#on.error(reason)
    this.kill()
  }

  #gone(code: number | null, signal: NodeJS.Signals | null): void {
    if (this.#ended) return
    this.#ended = true
    this.#phase = 'closed'
    for (const stream of [this.#pipe, this.#child.stdout, this.#child.stderr, this.#child.stdin]) stream?.destroy()
    void this.#epitaph(code, signal).then((reason) => {
      this.#on.exit(reason)
      void this.#cgroup?.end()
    })
  }

  /** Why it ended. */
  async #epitaph(code: number | null, signal: NodeJS.Signals | null): Promise<string> {
    const { manifest } = this.#start.bundle
    const met = await this.#cgroup?.met()
    const how = signal ? `its process was ended by ${signal}` : `its process ended with code ${code ?? 'unknown'}`
    if (met && met.memory > 0) return `MEMORY_EXCEEDED: it used more than ${limitsOf(manifest).memoryMbMax} MiB, and the kernel ended it; ${how}`
    if (/heap out of memory/.test(this.#lastWords)) return `MEMORY_EXCEEDED: its heap grew beyond ${manifest.heapMbMax} MiB; ${how}`
    if (/Array buffer allocation failed|Failed to allocate memory/.test(this.#lastWords)) return `MEMORY_EXCEEDED: no more memory was given to it; ${how}`
    const words = /^\[?(?:Uncaught )?(\w*Error\b[^\n]*|FATAL[^\n]*|\w+: [^\n]* failed\b[^\n]*)/m.exec(this.#lastWords)?.[1]
    const threads = met && met.pids > 0 ? `; it was refused a thread ${met.pids} times: more than its cgroup's pids.max` : ''
    return `${how}${words ? `: ${words.slice(0, 300)}` : ''}${threads}`
  }
}

/** A bound that the machine has and then refuses is a reason not to start; without groups the process runs, and says so. */
function makeGroup(cgroups: Cgroups | string, service: string, limits: ReturnType<typeof limitsOf>): { group?: Cgroup; missing: readonly string[] } {
  if (typeof cgroups === 'string') return { missing: [`no cgroup: ${cgroups}`] }
  return { group: cgroups.make(service, limits), missing: cgroups.missing }
}
