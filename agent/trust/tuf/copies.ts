/**
 * One content in two files, each atomic and with a checksum of its own. Both are written at every change, one after the other: whichever a
 * power cut or a bad block takes, the other one is whole, and after a finished write both are the newest.
 */
import { join } from 'node:path'
import type { AtomicFiles } from '../../store/atomic.ts'

export const COPY_NAMES = ['a', 'b'] as const
export type CopyName = (typeof COPY_NAMES)[number]

/** What was found in one of the two places. */
export interface Copy {
  readonly name: CopyName
  /** Null: nothing usable. */
  readonly bytes: Uint8Array | null
  /** There was something, and it failed its check or could not be read. */
  readonly corrupt: boolean
}

/** One write at a time. */
export class Copies {
  readonly #files: AtomicFiles
  readonly #directory: string

  constructor(files: AtomicFiles, directory: string) {
    this.#files = files
    this.#directory = directory
  }

  /** Both places. A copy that fails its check is set aside by AtomicFiles. */
  async read(): Promise<readonly Copy[]> {
    const copies: Copy[] = []
    for (const name of COPY_NAMES) copies.push(await this.#readOne(name))
    return copies
  }

  /** Durable in both places when it resolves. A rejection may leave the new content in the first. @throws STORE_FULL */
  async write(bytes: Uint8Array): Promise<void> {
    for (const name of COPY_NAMES) await this.#files.write(this.#at(name), bytes)
  }

  async #readOne(name: CopyName): Promise<Copy> {
    try {
      return { name, bytes: await this.#files.read(this.#at(name)), corrupt: false }
    } catch (error) {
      // A disk that cannot be read is no reason to be unreachable: what is not there is asked for, and nothing new runs before.
      if (typeof (error as NodeJS.ErrnoException).code !== 'string') throw error
      return { name, bytes: null, corrupt: true }
    }
  }

  #at(name: CopyName): string {
    return join(this.#directory, name)
  }
}
