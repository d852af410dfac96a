/** A device's trust over a disk in memory: opened as often as it is told to start, with a clock that stands still until it is told. */
import { TufTrust, type TufTrustOptions } from '../../../../agent/trust/tuf/tuf-trust.ts'
import { AtomicFiles } from '../../../../agent/store/atomic.ts'
import { FakeClock } from '../../../fakes/clock.ts'
import { FakeFileSystem } from '../../../fakes/file-system.ts'
import { BORN_MS, DAY_MS, type Repository } from './repository.ts'

export const FLEET = 'lab'
export const STORE = '/state/trust/tuf'

export class TrustingDevice {
  readonly clock = new FakeClock()
  disk = new FakeFileSystem()
  readonly #anchor: Uint8Array
  readonly #overrides: Partial<TufTrustOptions>

  constructor(repository: Repository, overrides: Partial<TufTrustOptions> = {}) {
    this.#anchor = repository.anchor
    this.#overrides = overrides
  }

  async start(overrides: Partial<TufTrustOptions> = {}): Promise<TufTrust> {
    const { clock } = this
    const files = new AtomicFiles(this.disk)
    await files.sweep('/state')
    const fixed = { files, stateDir: '/state', fleet: FLEET, anchor: this.#anchor, clock, buildTimeMs: BORN_MS - DAY_MS }
    return await TufTrust.open({ ...fixed, witness: { keys: new Map(), need: 'never' }, ...this.#overrides, ...overrides })
  }
}
