/**
 * What the change engine knows on disk: one atomic file a change, the newest settled ones kept as history; and, while a change is open,
 * beside it the steps since that file was last written, a checked line each.
 */
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import { stepsMax } from '../limits.ts'
import { type AtomicFiles, CORRUPT_SUFFIX } from '../store/atomic.ts'
import { CHANGE_STATES } from './change.ts'
import type { ChangeRecord, ChangeState, StepMark } from './types.ts'

const FILE = /^(c-(\d{10,}))(\.corrupt|\.steps)?$/
const STEPS_SUFFIX = '.steps'

export class Journal {
  readonly #files: AtomicFiles
  readonly #directory: string
  readonly #report: (fields: Record<string, unknown>, message: string) => void
  /** Changes with a file of steps. */
  readonly #stepped = new Set<string>()
  #newest = 0

  /** @param report told of a record that cannot be read */
  constructor(files: AtomicFiles, directory: string, report: (fields: Record<string, unknown>, message: string) => void) {
    this.#files = files
    this.#directory = directory
    this.#report = report
  }

  /** Every readable record, oldest first. One that cannot be read is set aside and reported; its number is not used again. */
  async load(): Promise<ChangeRecord[]> {
    const records: ChangeRecord[] = []
    for (const name of await this.#files.list(this.#directory, { setAside: true })) {
      const match = FILE.exec(name)
      if (!match) continue
      this.#newest = Math.max(this.#newest, Number(match[2]))
      if (match[3] === STEPS_SUFFIX) this.#stepped.add(match[1] ?? '')
      if (match[3]) continue
      try {
        const raw = await this.#files.readJson(join(this.#directory, name))
        if (raw === null) continue
        if (!isRecord(raw, name)) {
          await this.#files.setAside(join(this.#directory, name))
          throw new OffboxError('STORE_CORRUPT', `${name} is not of the shape of a change; it is set aside`)
        }
        records.push(raw)
      } catch (error) {
        this.#report({ change: name, code: codeOf(error), error: messageOf(error) }, 'a change in the journal cannot be read')
      }
    }
    // A record that is settled has all its steps.
    const open = new Set(records.flatMap(({ id, settled }) => (settled ? [] : [id])))
    for (const id of [...this.#stepped]) if (!open.has(id)) await this.#dropSteps(id)
    return await Promise.all(records.map(async (record) => ({ ...record, receipt: record.receipt ?? '', steps: await this.#stepsOf(record) })))
  }

  /** The next id, e.g. "c-0000000012"; never one that a file of this journal has had. */
  nextId(): string {
    this.#newest += 1
    return `c-${String(this.#newest).padStart(10, '0')}`
  }

  /** Durable when it resolves. @throws STORE_FULL */
  async write(record: ChangeRecord): Promise<void> {
    await this.#files.writeJson(join(this.#directory, record.id), record)
    if (record.settled) await this.#dropSteps(record.id)
  }

  /**
   * Adds step number `at` (0 is the first) of a change whose record is written less often.
   * @param durable on disk when it resolves; otherwise only what a power cut leaves @throws STORE_FULL
   */
  async step(id: string, at: number, mark: StepMark, durable: boolean): Promise<void> {
    const text = JSON.stringify([at, mark])
    this.#stepped.add(id)
    await this.#files.append(join(this.#directory, id + STEPS_SUFFIX), Buffer.from(`${checkOf(text)} ${text}\n`), { durable })
  }

  async forget(id: string): Promise<void> {
    await this.#files.remove(join(this.#directory, id))
    await this.#files.remove(join(this.#directory, id + CORRUPT_SUFFIX))
    await this.#dropSteps(id)
  }

  async #dropSteps(id: string): Promise<void> {
    if (!this.#stepped.has(id)) return
    await this.#files.remove(join(this.#directory, id + STEPS_SUFFIX))
    this.#stepped.delete(id)
  }

  /** Those in the record, then those in the file that the record does not have yet. A line that was cut short is passed over. */
  async #stepsOf(record: ChangeRecord): Promise<StepMark[]> {
    const steps = [...(record.steps ?? [])]
    if (!this.#stepped.has(record.id)) return steps
    const bytes = await this.#files.readAppended(join(this.#directory, record.id + STEPS_SUFFIX))
    for (const line of Buffer.from(bytes ?? [])
      .toString('utf8')
      .split('\n')) {
      const text = line.slice(9)
      if (line.slice(0, 8) !== checkOf(text)) continue
      const [at, mark] = readStep(text)
      if (isStep(mark) && at >= steps.length && steps.length < stepsMax) steps.push(mark)
    }
    return steps
  }
}

const TEXTS = ['kind', 'service', 'from', 'to', 'author', 'reason', 'error'] as const
const NUMBERS = ['proposedAtMs', 'bakeMs', 'confirmTimeoutMs', 'provisionalAtMs', 'confirmDeadlineMs', 'heldMs', 'heldCalls'] as const

/** Everything goes by these fields, at each start: what only looks like a change would keep the agent from starting. */
function isRecord(raw: unknown, id: string): raw is ChangeRecord {
  if (typeof raw !== 'object' || raw === null) return false
  const record = raw as Record<string, unknown>
  const { state, settled, steps, receipt } = record
  if (record['id'] !== id || !CHANGE_STATES.includes(state as ChangeState) || typeof settled !== 'boolean') return false
  if (!TEXTS.every((name) => typeof record[name] === 'string') || !NUMBERS.every((name) => Number.isFinite(record[name]))) return false
  // An agent of before there were steps and receipts left these out.
  return (steps === undefined || (Array.isArray(steps) && steps.every(isStep))) && (receipt === undefined || typeof receipt === 'string')
}

function isStep(raw: unknown): raw is StepMark {
  const { step, atMs, detail } = (raw ?? {}) as { step?: unknown; atMs?: unknown; detail?: unknown }
  return typeof step === 'string' && Number.isFinite(atMs) && (detail === undefined || typeof detail === 'string')
}

/** The checksum of a line is none against intent, only against a cut. */
function readStep(text: string): [at: number, mark: unknown] {
  try {
    const raw: unknown = JSON.parse(text)
    return Array.isArray(raw) && Number.isSafeInteger(raw[0]) ? [raw[0], raw[1]] : [0, null]
  } catch {
    return [0, null]
  }
}

function checkOf(text: string): string {
  return crc32(text).toString(16).padStart(8, '0')
}
