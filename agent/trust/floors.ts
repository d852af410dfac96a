/** The signed floors in force. Only a signature by a trusted key raises them, and nothing lowers them. */
import { join } from 'node:path'
import { OffboxError } from '../../core/errors.ts'
import { type Floors, NO_FLOORS, readFloors } from '../../core/floors.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import type { AtomicFiles } from '../store/atomic.ts'

export class FloorStore {
  readonly #files: AtomicFiles
  readonly #path: string
  readonly #trusted: TrustedKeys
  #current: Floors = NO_FLOORS
  #raising: Promise<unknown> = Promise.resolve()

  constructor(files: AtomicFiles, stateDir: string, trusted: TrustedKeys) {
    this.#files = files
    this.#path = join(stateDir, 'trust', 'floors.bin')
    this.#trusted = trusted
  }

  /**
   * Reads what is stored, verifying it anew. A store without floors is one that may have been wiped: the controller sends
   * floors at every enrolment and with every order.
   * @throws STORE_CORRUPT, FLOORS_UNTRUSTED (e.g. after the keys changed); no floors are in force then
   */
  async load(): Promise<void> {
    const file = await this.#files.read(this.#path)
    if (file !== null) this.#current = readFloors(file, this.#trusted)
  }

  get current(): Floors {
    return this.#current
  }

  of(service: string): string | undefined {
    return Object.hasOwn(this.#current.floors, service) ? this.#current.floors[service] : undefined
  }

  /**
   * Puts a signed statement in force, durably. The one in force already, or none (no bytes), changes nothing. One at a time.
   * @throws FLOORS_UNTRUSTED badly signed, older than the one in force, or another one of the same version
   */
  async raise(file: Uint8Array): Promise<void> {
    if (file.length === 0) return
    const floors = readFloors(file, this.#trusted)
    const done = this.#raising.catch(() => {}).then(async () => await this.#replace(floors, file))
    this.#raising = done
    await done
  }

  async #replace(floors: Floors, file: Uint8Array): Promise<void> {
    const { version } = this.#current
    if (floors.version < version) throw new OffboxError('FLOORS_UNTRUSTED', `floors of version ${floors.version} are older than version ${version} in force`)
    if (floors.version === version) {
      if (sameFloors(floors, this.#current)) return
      throw new OffboxError('FLOORS_UNTRUSTED', `other floors of version ${version} are in force already`)
    }
    await this.#files.write(this.#path, file)
    this.#current = floors
  }
}

function sameFloors(one: Floors, other: Floors): boolean {
  const names = Object.keys(one.floors)
  return names.length === Object.keys(other.floors).length && names.every((name) => one.floors[name] === other.floors[name])
}
