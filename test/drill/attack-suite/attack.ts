/** What an attack is, and the verifier that it meets: the real TufTrust over a disk in memory, so that a case takes milliseconds. */
import { TufTrust, type TufTrustOptions } from '../../../agent/trust/tuf/tuf-trust.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { type ErrorCode, messageOf } from '../../../core/errors.ts'
import type { MetadataRules } from '../../../core/trust/rules.ts'
import type { MetadataPush } from '../../../core/tuf/push.ts'
import { keyIdOf } from '../../../core/signing.ts'
import { Witness } from '../../../fleet/witness/witness.ts'
import { BORN_MS, DAY_MS, makeKey, Repository } from '../../agent/trust/tuf/repository.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A defence that can be switched off, for the proof that it was the one that held. */
export type Defence = 'signatures' | 'expiry' | 'memory' | 'digests' | 'witness' | 'paths'

export interface Attack {
  readonly name: string
  /** Codes that it must be refused with: one of them. */
  readonly refused: readonly ErrorCode[]
  /** What the refusal must say, where other checks refuse with the same code. */
  readonly why?: RegExp
  /** Resolves when the attack went through. */
  run(scene: AttackScene): Promise<unknown>
  /** Defence without which this attack is accepted; left out where more than one holds. */
  readonly heldBy?: Defence
}

/** What a case about the repository alone needs: it meets the verifier here, and a running device in device/scene.ts. */
export interface Stage {
  /** Publishes whatever the attacker wants. The device knows its root, or all of it as it was. */
  readonly repository: Repository
  /** A repository of somebody else. */
  stranger(): Repository
  /** A push and a path as a controller would order it; resolves when it was taken. */
  order(path: string, push?: MetadataPush): Promise<unknown>
  /** The same, of what has to go well before the attack begins. @throws SetUpFailed */
  honestOrder(path: string): Promise<unknown>
}

/**
 * What a device goes on with although it refused the rest, as TUF demands of what was signed as it should be: a newer root; how far timestamp says
 * that things have come; what the snapshot says of every role; a newer policy.
 */
export type Kept = 'root' | 'timestamp' | 'snapshot' | 'policy'

/** What stands when `role` is the first that is refused. */
export function keptBefore(role: string): readonly Kept[] {
  if (role === 'root' || role === 'timestamp') return []
  return role === 'snapshot' ? ['timestamp'] : ['snapshot']
}

/** A case for both. */
export interface StagedAttack extends Attack {
  /** Left out: nothing of it. */
  readonly keeps?: readonly Kept[]
  run(stage: Stage): Promise<unknown>
}

export const SERVICE = 'telemetry'
export const FLEET = 'lab'

/** An attack that was never tried: no refusal, but an error of the drill. */
export class SetUpFailed extends Error {}

/** A fleet's repository with two releases, and a device that knows the first of them or nothing yet. */
export class AttackScene implements Stage {
  readonly repository = new Repository()
  readonly clock = new FakeClock()
  disk = new FakeFileSystem()
  /** Switched off in this process. */
  static without: Defence | null = null
  static rules: MetadataRules | null = null
  readonly #overrides: Partial<TufTrustOptions>
  #trust: TufTrust | null = null
  #undo: (() => Promise<void>)[] = []

  constructor(overrides: Partial<TufTrustOptions> = {}) {
    this.#overrides = overrides
  }

  /** Opened once; `restart` opens it anew. */
  async trust(overrides: Partial<TufTrustOptions> = {}): Promise<TufTrust> {
    if (AttackScene.without === 'memory') {
      this.disk = new FakeFileSystem()
      this.#trust = null
    }
    this.#trust ??= await this.restart(overrides)
    return this.#trust
  }

  async restart(overrides: Partial<TufTrustOptions> = {}): Promise<TufTrust> {
    const { anchor } = this.repository
    const fixed = { files: new AtomicFiles(this.disk), stateDir: '/state', fleet: FLEET, anchor, clock: this.clock, buildTimeMs: BORN_MS - DAY_MS }
    const given = { ...fixed, witness: { keys: new Map(), need: 'never' as const }, ...this.#overrides, ...overrides }
    const witness = AttackScene.without === 'witness' ? { ...given.witness, need: 'never' as const } : given.witness
    this.#trust = await TufTrust.open({ ...given, witness, ...(AttackScene.rules ? { rules: AttackScene.rules } : {}) })
    return this.#trust
  }

  stranger(): Repository {
    return new Repository()
  }

  /** A push and a path as a controller would order it. */
  async order(path: string, push = this.repository.push()): Promise<unknown> {
    return await (await this.trust()).update(push, [path])
  }

  /** What has to go well before the attack begins: an order as honest as any, or whatever else. @throws SetUpFailed */
  async setUp<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act()
    } catch (error) {
      throw new SetUpFailed(`the set-up failed: ${messageOf(error)}`, { cause: error })
    }
  }

  async honestOrder(path: string): Promise<unknown> {
    return await this.setUp(async () => await this.order(path))
  }

  /** A witness of this fleet, and how a device is told of it. */
  async witness(): Promise<{ witness: Witness; options: TufTrustOptions['witness'] }> {
    const directory = await mkdtemp(join(tmpdir(), 'obx-witness-'))
    this.#undo.push(async () => await rm(directory, { recursive: true, force: true }))
    await writeFile(join(directory, 'root.json'), this.repository.anchor)
    const { publicKey, sign } = makeKey()
    const key = { keyId: keyIdOf(publicKey), publicKey, sign }
    const clock = { ...this.clock, nowMs: () => this.repository.nowMs, monotonicMs: () => 0, after: () => () => {} }
    const witness = await Witness.open({ directory, fleet: FLEET, key, clock })
    return { witness, options: { keys: new Map([[key.keyId, publicKey]]), need: 'without-store' } }
  }

  async close(): Promise<void> {
    for (const undo of this.#undo.splice(0)) await undo()
  }
}
