/** What a case of the conformance suite needs: a repository, a device that trusts its first root, and what the device was seen to ask for. */
import type { Test } from 'tap'
import type { TufTrust } from '../../../../../agent/trust/tuf/tuf-trust.ts'
import { type Documents, NO_DOCUMENTS, sourceOf } from '../../../../../core/trust/documents.ts'
import { DEVICE_RULES } from '../../../../../core/trust/rules.ts'
import { Verification, type VerifiedTarget } from '../../../../../core/trust/verification.ts'
import { filesOf, type MetadataPush } from '../../../../../core/tuf/push.ts'
import { TrustingDevice } from '../device.ts'
import { Repository } from '../repository.ts'

export type Case = (scene: Scene, t: Test) => Promise<void>

export class Scene {
  readonly repository = new Repository()
  readonly device = new TrustingDevice(this.repository)
  readonly #t: Test
  #trust: TufTrust | null = null

  constructor(t: Test) {
    this.#t = t
  }

  /** Opened at first use; kept, as an agent keeps it. */
  async trust(): Promise<TufTrust> {
    this.#trust ??= await this.device.start()
    return this.#trust
  }

  /** The agent starts again on what is on its disk. */
  restart(): void {
    this.#trust = null
  }

  async refresh(paths: readonly string[] = [], push: MetadataPush = this.repository.push()): Promise<readonly VerifiedTarget[]> {
    return await (await this.trust()).update(push, paths)
  }

  async refused(code: string, paths: readonly string[] = [], push: MetadataPush = this.repository.push()): Promise<void> {
    await this.#t.rejects(this.refresh(paths, push), { code })
  }

  /** Checks the versions that the device counts as seen. */
  async seen(versions: object): Promise<void> {
    this.#t.match((await this.trust()).heights, versions)
  }

  /** What the workflow asks a repository for, in order, as "role version". */
  async asked(paths: readonly string[], stored: Documents = NO_DOCUMENTS): Promise<{ names: string[]; found: (VerifiedTarget | null)[] }> {
    const names: string[] = []
    const from = sourceOf(filesOf(this.repository.push()))
    const noted = <A extends unknown[], R>(role: (...args: A) => string, get: (...args: A) => R) => {
      return (...args: A): R => {
        names.push(role(...args))
        return get(...args)
      }
    }
    const source = {
      root: noted((version) => `root ${version}`, from.root),
      timestamp: noted((_bytesMax: number) => 'timestamp', from.timestamp),
      snapshot: noted((version) => `snapshot ${version}`, from.snapshot),
      targets: noted((role, version) => `${role} ${version}`, from.targets),
    }
    const { nowMs } = this.repository
    const verification = new Verification({ anchor: this.repository.anchor, stored, source, nowMs: () => nowMs, rules: DEVICE_RULES })
    await verification.refresh()
    const found = []
    for (const path of paths) found.push(await verification.target(path))
    return { names, found }
  }
}
