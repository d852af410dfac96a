/**
 * The device's audit log: who called what, and what came of it. A mutation's intent is on disk before its effect; everything else is
 * written in batches, so that a crash loses the last second of reads and denials at most. Records form one chain (core/audit); what is
 * sealed goes only when a collector has acknowledged it, and when too much waits for that, changes are refused.
 */
import { randomBytes } from 'node:crypto'
import { type Head, BEFORE_FIRST } from '../../core/audit/chain.ts'
import { asciiJson, type AuditEvent, hashOf, lineOf, recordBytesMax } from '../../core/audit/record.ts'
import { checkpointBody, type Signed, statementSignedBytes } from '../../core/audit/statements.ts'
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import { type FileSystem, nodeFileSystem } from '../store/file-system.ts'
import { Acknowledged } from './acknowledged.ts'
import { findEarlier, moveEarlier } from './earlier.ts'
import { auditBytesMax, auditFlushMs, auditQueueMax, chainGroupMax, changesBytesMax, keptBytes, methodCharsMax, readsBytesMax } from './limits.ts'
import { Repeats } from './repeats.ts'
import { type Chunk, Segments } from './segments.ts'

export interface AuditOptions {
  /** Of its own. */
  readonly directory: string
  readonly clock: Clock
  readonly bootId: string
  readonly atomic: AtomicFiles
  /** Also told of every record, for the log; `body` is the record without its number, hash and first brace. */
  readonly show: (event: AuditEvent, body: string) => void
  readonly log: { info(fields: object, message: string): void; error(fields: object, message: string): void }
  /** Signs with the device's key, which stays where it is. @throws STATE_REFUSED the device has no identity yet */
  readonly sign: (bytesFor: (deviceId: string) => Uint8Array) => { signature: Uint8Array; chainPem: string }
  readonly files?: FileSystem
}

/** What Audit.Status and the metrics tell. */
export interface AuditStatus {
  readonly chain: string
  /** 0: none is kept. */
  readonly oldest: number
  /** On disk. */
  readonly head: Head
  readonly acknowledged: Head
  /** When the collector signed for them, by its own clock; 0: never. */
  readonly acknowledgedAtMs: number
  readonly unacknowledgedBytes: number
  /** Changes are refused. */
  readonly full: boolean
  /** Since the agent started: reads that were counted instead of recorded, records that were lost, changes that were refused. */
  readonly counted: number
  readonly dropped: number
  readonly refused: number
}

export class AuditLog {
  readonly #options: AuditOptions
  readonly #segments: Segments
  readonly #repeats: Repeats
  readonly #listeners = new Set<() => void>()
  readonly acknowledged: Acknowledged
  /** Bodies that have no number yet, oldest first. */
  #bodies: string[] = []
  /** With number and hash, not on disk yet. */
  #chunks: Chunk[] = []
  #chainedCount = 0
  #chain = ''
  /** Of what has a number, and of what is on disk. */
  #head: Head = BEFORE_FIRST
  #durable: Head = BEFORE_FIRST
  #waitingBytes = 0
  #storedBytes = 0
  #counted = 0
  #dropped = 0
  #droppedUntold = 0
  #refused = 0
  #writing: Promise<unknown> = Promise.resolve()
  #disarm: (() => void) | null = null
  /** What does not change from record to record. */
  readonly #bootFact: string

  private constructor(options: AuditOptions) {
    this.#options = options
    this.#segments = new Segments(options.directory, options.files ?? nodeFileSystem)
    this.acknowledged = new Acknowledged(options.directory, options.atomic)
    this.#repeats = new Repeats(options.clock, (event) => this.#put(event, asciiJson(event)))
    this.#bootFact = `,"bootId":${asciiJson([options.bootId]).slice(1, -1)},`
  }

  /**
   * Follows what is there and goes on behind it; where it cannot be followed, a new log begins that names the old one. Nothing is written yet.
   * @param facts for the record of this start
   */
  static async open(options: AuditOptions, facts: Record<string, unknown> = {}): Promise<AuditLog> {
    const log = new AuditLog(options)
    const { head, chain, damage } = await log.#segments.load()
    await log.acknowledged.load(options.log)
    const { chain: known, head: collected } = log.acknowledged
    const short = chain !== '' && known === chain && collected.sequence > head.sequence
    const why = damage || (short ? `the collector has ${collected.sequence} records of it, and ${head.sequence} are here` : '')
    if (why === '' && chain !== '') {
      log.#chain = chain
      log.#head = head
      log.#durable = head
    } else {
      if (why !== '') {
        await log.#segments.beginAnew()
        options.log.error({ chain, ...head, why }, 'the audit log cannot go on; a new one begins')
      }
      const before = why === '' ? {} : { before: { chain, sequence: head.sequence, hash: head.hash, why } }
      log.#note('audit/begin', { nonce: randomBytes(16).toString('hex'), ...before })
    }
    log.#countStored()
    log.#note('agent/start', facts)
    await log.#takeAlong()
    return log
  }

  /**
   * For what has happened: written within auditFlushMs, or sooner when half the queue waits.
   * @param json the event as JSON of printable ASCII, from a caller that has most of it ready; a call of it costs less than half that way
   */
  record(event: AuditEvent, json?: string): void {
    if (event.decision === 'deny' && !this.#repeats.isFirst(event)) return
    const read = event.decision === 'allow' && event.mutation !== true
    if (read && this.#heldBytes > readsBytesMax) {
      this.#counted += 1
      this.#repeats.count(event)
    } else this.#put(event, json ?? asciiJson(event))
  }

  /**
   * For what is about to happen: on disk when it resolves.
   * @param evenWhenFull for a revert, which has the rest of the room
   * @throws STORE_FULL, AUDIT_FULL the effect must not happen
   */
  async intent(event: AuditEvent, evenWhenFull = false): Promise<void> {
    const heldBytes = this.#heldBytes
    if (heldBytes > (evenWhenFull ? auditBytesMax : changesBytesMax)) {
      this.#refused += 1
      throw new OffboxError(
        'AUDIT_FULL',
        `${heldBytes} bytes of audit records wait for their acknowledgement, the first of them number ${this.#unacknowledged}`,
      )
    }
    if (this.#queued >= auditQueueMax) throw new OffboxError('STORE_FULL', `${this.#queued} audit records cannot be written`)
    this.#put(event, asciiJson(event))
    await this.#write()
  }

  get status(): AuditStatus {
    const heldBytes = this.#heldBytes
    return {
      chain: this.#chain,
      oldest: this.#segments.oldest,
      head: this.#durable,
      acknowledged: this.#chain !== '' && this.acknowledged.chain === this.#chain ? this.acknowledged.head : BEFORE_FIRST,
      acknowledgedAtMs: this.acknowledged.atMs,
      unacknowledgedBytes: heldBytes,
      full: heldBytes > changesBytesMax,
      counted: this.#counted,
      dropped: this.#dropped,
      refused: this.#refused,
    }
  }

  /** Records that are on disk, without line feeds. */
  async *read(from: number, to: number): AsyncGenerator<Uint8Array[]> {
    yield* this.#segments.read(from, to)
  }

  /** Called whenever more is on disk. */
  watch(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** The device's word on how far its log goes. @throws STATE_REFUSED it has no identity yet */
  checkpoint(head: Head): Signed {
    const { bootId, clock, sign } = this.#options
    let body: Uint8Array = new Uint8Array()
    const { signature, chainPem } = sign((deviceId) => {
      body = checkpointBody({ deviceId, chain: this.#chain, ...head, bootId, atMs: clock.nowMs() })
      return statementSignedBytes('checkpoint', body)
    })
    return { body, signature, chainPem }
  }

  /**
   * Takes a collector's word that it has this log up to `head`; `signed` was checked.
   * @throws AUDIT_BROKEN it has another log than this one
   */
  async acknowledge(chain: string, head: Head, atMs: number, signed: Signed): Promise<void> {
    if (chain !== this.#chain) throw new OffboxError('AUDIT_BROKEN', `this device keeps the log ${this.#chain}, not ${chain}`)
    if (head.sequence <= this.status.acknowledged.sequence) return
    const own = await this.#hashAt(head.sequence)
    if (own !== head.hash) {
      this.#options.log.error({ ...head, own }, 'a collector acknowledges another audit log than the one of this device')
      throw new OffboxError('AUDIT_BROKEN', `number ${head.sequence} of this device's log is another one`)
    }
    await this.acknowledged.store({ chain, head, atMs, signed })
    this.#countStored()
    this.#note('audit/acknowledged', { acknowledged: head.sequence, collectedAtMs: atMs })
    await this.#segments.drop(head.sequence, keptBytes)
  }

  /** Writes what waits, and that this was the end. */
  async close(): Promise<void> {
    this.#repeats.flush()
    this.#note('agent/stop', {})
    this.#disarm?.()
    this.#disarm = null
    await this.#write()
  }

  /** Writes what waits. @throws STORE_FULL it waits still */
  async flush(): Promise<void> {
    await this.#write()
  }

  /** Number of the newest record, on disk or on its way there. */
  get written(): number {
    return this.#head.sequence + this.#bodies.length
  }

  get #queued(): number {
    return this.#bodies.length + this.#chainedCount
  }

  get #unacknowledged(): number {
    return this.status.acknowledged.sequence + 1
  }

  /** What waits for its acknowledgement: on disk, and on its way there. */
  get #heldBytes(): number {
    return this.#storedBytes + this.#waitingBytes
  }

  /** After whatever changes it: a call must not count segments. */
  #countStored(): void {
    this.#storedBytes = this.#segments.bytesAbove(this.status.acknowledged.sequence)
  }

  async #takeAlong(): Promise<void> {
    const { directory, files = nodeFileSystem } = this.#options
    const earlier = await findEarlier(directory, files)
    if (earlier.length === 0) return
    this.#note('audit/earlier', { earlier })
    try {
      await this.#write()
      await moveEarlier(directory, earlier, files)
    } catch (error) {
      // They stay where they are and are found again at the next start.
      this.#options.log.error({ err: error }, 'the audit log of an earlier agent could not be taken along')
    }
  }

  #note(method: string, facts: Record<string, unknown>): void {
    const event = { principal: '', method, decision: 'note', ...facts } as const
    this.#put(event, asciiJson(event))
  }

  /** @param json an object with at least one member */
  #put(event: AuditEvent, json: string): void {
    const { clock, show } = this.#options
    if (json.length > EVENT_CHARS_MAX) {
      this.#note('audit/shortened', { of: event.method.slice(0, methodCharsMax), chars: json.length })
      return
    }
    const body = `"atMs":${clock.nowMs()},"monotonicMs":${Math.round(clock.monotonicMs())}${this.#bootFact}${json.slice(1)}`
    show(event, body)
    if (this.#queued >= auditQueueMax || this.#heldBytes > auditBytesMax) {
      this.#dropped += 1
      this.#droppedUntold += 1
      return
    }
    this.#bodies.push(body)
    this.#waitingBytes += body.length
    if (this.#bodies.length >= chainGroupMax) this.#link()
    // Once a crossing: on a disk that cannot be written, only the timer tries again.
    if (this.#queued === auditQueueMax / 2) this.#flushSoon()
    this.#disarm ??= clock.after(auditFlushMs, () => {
      this.#disarm = null
      this.#flushSoon()
    })
  }

  #flushSoon(): void {
    this.#write().catch((error) => this.#options.log.error({ err: error }, 'audit records could not be written'))
  }

  /** Gives what waits its numbers and hashes. From here on its order stands, also when it cannot be written at once. */
  #link(): void {
    if (this.#droppedUntold > 0) {
      const told = asciiJson({ principal: '', method: 'audit/dropped', decision: 'note', dropped: this.#droppedUntold })
      const { clock } = this.#options
      this.#bodies.push(`"atMs":${clock.nowMs()},"monotonicMs":${Math.round(clock.monotonicMs())}${this.#bootFact}${told.slice(1)}`)
      this.#droppedUntold = 0
    }
    const bodies = this.#bodies
    if (bodies.length === 0) return
    this.#bodies = []
    const after = this.#head
    let { sequence, hash } = after
    let bytesMax = 0
    for (const body of bodies) bytesMax += body.length + LINE_OVERHEAD_BYTES
    // Exactly one buffer for the group, from which each line is hashed as it will be on disk.
    const bytes = Buffer.allocUnsafeSlow(bytesMax)
    let at = 0
    for (const body of bodies) {
      sequence += 1
      const end = at + bytes.write(lineOf(sequence, hash, body), at, 'latin1')
      hash = hashOf(bytes.subarray(at, end))
      if (sequence === 1) this.#chain = hash
      bytes[end] = 10
      at = end + 1
    }
    this.#head = { sequence, hash }
    this.#chunks.push({ bytes: bytes.subarray(0, at), after, head: this.#head })
    this.#chainedCount += bodies.length
  }

  /** Everything that waits now, one write at a time. @throws STORE_FULL it waits still */
  async #write(): Promise<void> {
    const done = this.#writing.catch(() => {}).then(async () => await this.#writeAll())
    this.#writing = done
    await done
  }

  async #writeAll(): Promise<void> {
    this.#link()
    const upTo = this.#head.sequence
    while (this.#durable.sequence < upTo) {
      const written = await this.#segments.append(this.#chunks, this.#chain, (head) => this.#seal(head))
      const done = this.#chunks.splice(0, written)
      for (const { bytes, after, head } of done) {
        this.#chainedCount -= head.sequence - after.sequence
        this.#waitingBytes = Math.max(0, this.#waitingBytes - bytes.length)
        this.#durable = head
      }
      this.#countStored()
      if (this.#queued === 0) this.#waitingBytes = 0
      await this.#segments.drop(this.status.acknowledged.sequence, keptBytes).catch((error) => {
        this.#options.log.error({ err: error }, 'an acknowledged audit segment could not be removed')
      })
    }
    for (const listener of this.#listeners) listener()
  }

  /** The last line of a segment. A device without an identity seals nothing: whoever collects asks for a checkpoint anyway. */
  #seal(head: Head): Uint8Array | null {
    try {
      const { body, signature, chainPem } = this.checkpoint(head)
      const line = { checkpoint: Buffer.from(body).toString('utf8'), signature: Buffer.from(signature).toString('base64'), chainPem }
      return Buffer.from(`${JSON.stringify(line)}\n`)
    } catch (error) {
      this.#options.log.info({ ...head, why: messageOf(error) }, 'an audit segment is sealed without a signature')
      return null
    }
  }

  async #hashAt(sequence: number): Promise<string> {
    if (sequence === this.#durable.sequence) return this.#durable.hash
    for await (const [line] of this.#segments.read(sequence, sequence)) if (line) return hashOf(line)
    return ''
  }
}

/** `{"sequence":N,"previous":"…",` and the line feed: 16 digits and 64 hex digits at most. */
const LINE_OVERHEAD_BYTES = 128
/** What a line may have beside the event: number, hash, times and boot. */
const EVENT_CHARS_MAX = recordBytesMax - 512
