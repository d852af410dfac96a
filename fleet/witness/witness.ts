/**
 * Remembers the highest versions of a fleet's repository, for devices that cannot: diskless ones, and ones whose store was wiped. It believes
 * nobody: metadata counts once it is verified from the witness's own root. What it signs can be carried by anybody.
 */
import { join } from 'node:path'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import { type Documents, NO_DOCUMENTS, NO_SOURCE, packDocuments, parseStored, sameDocuments, sourceOf, unpackDocuments } from '../../core/trust/documents.ts'
import type { Heights } from '../../core/trust/heights.ts'
import { DEVICE_RULES, remembering } from '../../core/trust/rules.ts'
import { NONCE_BYTES, type SignedStatement, signStatement } from '../../core/trust/statement.ts'
import { Verification } from '../../core/trust/verification.ts'
import { filesOf, type MetadataPush } from '../../core/tuf/push.ts'
import { readIfThere, writeAtomic } from '../home/atomic.ts'
import { sha256Hex, type SigningKey } from '../home/keys.ts'

/** Metadata of 256 services in base64. */
const stateBytesMax = 128 * 1024 * 1024

export interface WitnessOptions {
  /** Holds `root.json`, which it trusts from the start, and `seen.json`. */
  readonly directory: string
  readonly fleet: string
  readonly key: SigningKey
  readonly clock: Clock
}

/** One process a directory: hold a lock. */
export class Witness {
  readonly #options: WitnessOptions
  readonly #anchor: Uint8Array
  readonly #rules = remembering(DEVICE_RULES)
  #documents: Documents
  #heights: Heights | null
  #timeMs: number
  #last: Promise<unknown> = Promise.resolve()

  private constructor(options: WitnessOptions, anchor: Uint8Array, seen: { documents: Documents; timeMs: number }) {
    this.#options = options
    this.#anchor = anchor
    this.#documents = seen.documents
    this.#timeMs = seen.timeMs
    const stored = this.#verification(NO_SOURCE)
    stored.loadStored()
    this.#heights = stored.heights.timestamp > 0 ? stored.heights : null
  }

  /**
   * @throws HOME_INVALID no root.json
   * @throws STORE_CORRUPT what it has seen cannot be read. It must not start anew by itself: a witness that forgot lets old versions pass
   */
  static async open(options: WitnessOptions): Promise<Witness> {
    const anchor = await readIfThere(join(options.directory, 'root.json'))
    if (!anchor) throw new OffboxError('HOME_INVALID', `${options.directory} holds no root.json: run offbox witness init`)
    const seen = await readIfThere(seenPath(options))
    return new Witness(options, new Uint8Array(anchor), seen ? unpack(new Uint8Array(seen)) : { documents: NO_DOCUMENTS, timeMs: 0 })
  }

  /** How far the repository has come; null before the first push. */
  get heights(): Heights | null {
    return this.#heights
  }

  /**
   * Takes in the push, if any, durably, then signs.
   * @param nonce 32 bytes
   * @throws ARGUMENT_INVALID, and TRUST_… for a push that is not accepted
   */
  async attest(nonce: Uint8Array, push: MetadataPush = { files: [] }): Promise<SignedStatement> {
    if (nonce.length !== NONCE_BYTES) throw new OffboxError('ARGUMENT_INVALID', `the nonce must have ${NONCE_BYTES} bytes`)
    const done = this.#last.catch(() => {}).then(async () => await this.#observe(push))
    this.#last = done
    await done
    const { fleet, key } = this.#options
    const content = { fleet, nonce: Buffer.from(nonce).toString('hex'), heights: this.#heights, timeMs: this.#nowMs() }
    return signStatement(content, key.keyId, (message) => key.sign(message))
  }

  async #observe(push: MetadataPush): Promise<void> {
    if (push.files.length === 0) return
    const verification = this.#verification(sourceOf(filesOf(push)))
    if (push.files.some(({ name }) => name === 'timestamp.json')) await verification.refresh()
    else await verification.refreshRoot()
    const { documents } = verification
    if (!sameDocuments(documents, this.#documents)) {
      await writeAtomic(seenPath(this.#options), pack(documents, this.#nowMs()))
      this.#documents = documents
    }
    if (verification.heights.timestamp > 0) this.#heights = verification.heights
  }

  #verification(source: typeof NO_SOURCE): Verification {
    return new Verification({ anchor: this.#anchor, stored: this.#documents, source, nowMs: () => this.#nowMs(), rules: this.#rules })
  }

  /**
   * The witness is who tells the time, so its clock counts; but while it runs it never tells an earlier time than before. Over a restart it
   * tells none earlier than when it last took in something new: that is what is on disk.
   */
  #nowMs(): number {
    this.#timeMs = Math.max(this.#timeMs, this.#options.clock.nowMs())
    return this.#timeMs
  }
}

function seenPath({ directory }: WitnessOptions): string {
  return join(directory, 'seen.json')
}

/** One line of digest, then JSON: a rotted file must not pass for an older one. */
function pack(documents: Documents, timeMs: number): string {
  const body = JSON.stringify({ schema: 1, timeMs, documents: packDocuments(documents) })
  return `${sha256Hex(body)}\n${body}`
}

function unpack(file: Uint8Array): { documents: Documents; timeMs: number } {
  const body = file.subarray(65)
  if (Buffer.from(file.subarray(0, 65)).toString('latin1') !== `${sha256Hex(body)}\n`) {
    throw new OffboxError('STORE_CORRUPT', 'what the witness has seen fails its check; restore its newest backup')
  }
  const { schema, timeMs, documents } = parseStored(body, stateBytesMax)
  if (schema !== 1 || !Number.isSafeInteger(timeMs)) throw new OffboxError('STORE_CORRUPT', 'what the witness has seen is of another schema')
  return { documents: unpackDocuments(documents), timeMs: timeMs as number }
}
