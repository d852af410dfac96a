/** How far a collector has signed for this device's log: kept over restarts, since it says what may go, and what time it was at least. */
import { join } from 'node:path'
import { BEFORE_FIRST, type Head } from '../../core/audit/chain.ts'
import { readHead, type Signed } from '../../core/audit/statements.ts'
import { messageOf } from '../../core/errors.ts'
import type { AtomicFiles } from '../store/atomic.ts'

export interface Acknowledgement {
  readonly chain: string
  readonly head: Head
  /** The collector's clock, Unix milliseconds. */
  readonly atMs: number
  readonly signed: Signed
}

export class Acknowledged {
  readonly #path: string
  readonly #files: AtomicFiles
  readonly #listeners = new Set<(atMs: number) => void>()
  #known: Acknowledgement | null = null

  constructor(directory: string, files: AtomicFiles) {
    this.#path = join(directory, 'acknowledged')
    this.#files = files
  }

  /** Empty before the first. */
  get chain(): string {
    return this.#known?.chain ?? ''
  }

  get head(): Head {
    return this.#known?.head ?? BEFORE_FIRST
  }

  /** When the collector signed the newest statement, by its own clock, Unix milliseconds; 0 without one. As the disk has it: for showing. */
  get atMs(): number {
    return this.#known?.atMs ?? 0
  }

  /**
   * The same, verified anew: a signed lower bound of the present, the source "audit" of core/trust/time.ts. Whoever writes into the state
   * directory moves it nowhere. 0 without a statement that proves it.
   */
  provenAtMs(trust: { fleet: string; caPem: string; deviceId: string }): number {
    try {
      return this.#known ? readHead(this.#known.signed, trust).atMs : 0
    } catch {
      return 0
    }
  }

  /** Called after each newer statement, which was verified; with its time. */
  watch(listener: (atMs: number) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Lost or rotted, nothing counts as acknowledged: then more is kept than need be. */
  async load(log: { error(fields: object, message: string): void }): Promise<void> {
    try {
      const raw = (await this.#files.readJson(this.#path)) as (Omit<Acknowledgement, 'signed'> & { signed: Record<keyof Signed, string> }) | null
      if (!raw) return
      const { body, signature, chainPem } = raw.signed
      const signed = { body: Buffer.from(body, 'base64'), signature: Buffer.from(signature, 'base64'), chainPem }
      this.#known = { chain: raw.chain, head: raw.head, atMs: raw.atMs, signed }
    } catch (error) {
      log.error({ error: messageOf(error) }, 'what was acknowledged of the audit log cannot be read')
    }
  }

  /** @throws STORE_FULL */
  async store(next: Acknowledgement): Promise<void> {
    const { body, signature, chainPem } = next.signed
    const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
    await this.#files.writeJson(this.#path, { ...next, signed: { body: base64(body), signature: base64(signature), chainPem } })
    this.#known = next
    for (const listener of this.#listeners) listener(next.atMs)
  }
}
