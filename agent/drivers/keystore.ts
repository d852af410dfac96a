/**
 * The `keystore` capability: the device's API key and certificate. Services see requests and certificates, never a key. The confirmed
 * identity is boot/identity.ts's file; one that waits for its confirm stands beside it in a file of its own, mode 0600, so that
 * the journal holds no secret.
 */
import { createPrivateKey, type KeyObject, randomUUID, sign } from 'node:crypto'
import { join } from 'node:path'
import type { Anchors } from '../../core/anchors.ts'
import type { Clock } from '../../core/clock.ts'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { chainPemBytesMax, makeCsr, readLeaf } from '../../core/x509.ts'
import { checkIdentity, type Identity, type IdentityStore } from '../boot/identity.ts'
import type { ChangeEngine, ChangeRecord } from '../change/types.ts'
import type { AtomicFiles } from '../store/atomic.ts'
import { Input } from './input.ts'
import { type DriverLog, type Operations, Serial } from './types.ts'

export const identityConfirmTimeoutMinMs = 5_000
export const identityConfirmTimeoutMaxMs = 3_600_000

export interface KeystoreOptions {
  readonly stateDir: string
  readonly files: AtomicFiles
  readonly identities: IdentityStore
  readonly anchors: Anchors
  readonly changes: ChangeEngine
  readonly clock: Clock
  readonly log: DriverLog
  /** The API's TLS context: new connections get this identity, open ones keep theirs. Throws when key and certificate do not fit. */
  readonly front: { rotate(identity: { keyPem: string; chainPem: string }): void }
}

interface Plan {
  readonly requestId: string
}

/** Confirmed rotations by service; `lastChangeId` keeps a repeated commit from counting twice. */
interface Rotations {
  readonly lastChangeId: string
  readonly counts: Readonly<Record<string, number>>
}

export class KeystoreDriver {
  readonly operations: Operations
  readonly #options: KeystoreOptions
  /** Changes of the stored or the served identity, one after another. */
  readonly #serial = new Serial()
  #request: { requestId: string; keyPem: string } | undefined
  #proposed = new Map<string, Identity>()
  #confirmed: Identity | undefined
  #signing: { readonly keyPem: string; readonly key: KeyObject } | undefined
  #provisional: { changeId: string; identity: Identity } | undefined

  constructor(options: KeystoreOptions) {
    this.#options = options
    this.operations = {
      request: async () => await this.#makeRequest(),
      install: async (service, input) => await this.#install(service, new Input(input)),
      status: async (service) => await this.#status(service),
    }
    options.changes.handle('certificate', {
      stage: async (record) => await this.#stage(record),
      apply: async (record) => await this.#serial.run(async () => await this.#goLive(record)),
      commit: async (record) => await this.#serial.run(async () => await this.#commit(record)),
      revert: async (record) => await this.#serial.run(async () => await this.#revert(record)),
    })
  }

  /** Before `changes.recover`. Finds no identity on a device that has not enrolled yet. */
  async start(): Promise<void> {
    try {
      this.#confirmed = (await this.#options.identities.load()) ?? undefined
    } catch (error) {
      // Set aside by now. The device enrols again, which adopts another one.
      this.#options.log.error({ error: messageOf(error) }, 'the stored identity cannot be used')
    }
  }

  /**
   * Stores and serves what enrolment returned. While a rotation is provisional only the stored one is replaced: it is what a revert
   * goes back to.
   * @throws CERTIFICATE_INVALID, STORE_FULL
   */
  async adopt(identity: Identity): Promise<void> {
    await this.#serial.run(async () => {
      checkIdentity(identity, this.#options.anchors, this.#options.clock.nowMs())
      await this.#options.identities.save(identity)
      this.#confirmed = identity
      if (!this.#provisional) this.#options.front.rotate(identity)
    })
  }

  /**
   * Signs with the key of the confirmed identity: ECDSA P-256 over SHA-256, IEEE P1363 (64 bytes).
   * @param bytesFor what is signed may name who signs
   * @throws STATE_REFUSED the device has not enrolled
   */
  sign(bytesFor: (deviceId: string) => Uint8Array): { signature: Uint8Array; chainPem: string } {
    const { deviceId, keyPem, chainPem } = this.#identity()
    if (this.#signing?.keyPem !== keyPem) this.#signing = { keyPem, key: createPrivateKey(keyPem) }
    return { signature: sign('sha256', bytesFor(deviceId), { key: this.#signing.key, dsaEncoding: 'ieee-p1363' }), chainPem }
  }

  async #makeRequest(): Promise<{ requestId: string; csrPem: string }> {
    const { keyPem, csrPem } = await makeCsr(this.#identity().deviceId)
    const requestId = randomUUID()
    this.#request = { requestId, keyPem }
    return { requestId, csrPem }
  }

  async #install(service: string, input: Input): Promise<{ changeId: string; serial: string; notAfterMs: number }> {
    const requestId = input.text('requestId', 64)
    const chainPem = input.text('chainPem', chainPemBytesMax)
    const confirmTimeoutMs = input.integer('confirmTimeoutMs', identityConfirmTimeoutMinMs, identityConfirmTimeoutMaxMs)
    const [reason, author] = [input.text('reason', 1024), input.text('author', 1024)]
    const { anchors, clock, changes } = this.#options
    const request = this.#request
    if (request?.requestId !== requestId) throw new OffboxError('STATE_REFUSED', 'no key was made for this request, or a later one has taken its place')
    if (this.#provisional) throw new OffboxError('SWAP_IN_PROGRESS', `the certificate change ${this.#provisional.changeId} is not confirmed yet`)
    const { deviceId, chainPem: before } = this.#identity()
    const identity: Identity = { deviceId, keyPem: request.keyPem, chainPem }
    checkIdentity(identity, anchors, clock.nowMs())
    const { serial, notAfterMs } = readLeaf(chainPem)
    const plan: Plan = { requestId }
    this.#proposed.set(requestId, identity)
    try {
      const change = await changes.propose({
        kind: 'certificate',
        service,
        from: readLeaf(before).serial,
        to: serial,
        author,
        reason,
        plan,
        bakeMs: 0,
        confirmTimeoutMs,
      })
      // Used up: another certificate for the same key needs a request of its own. A refused one may be tried again.
      if (this.#request === request) this.#request = undefined
      return { changeId: change.id, serial, notAfterMs }
    } finally {
      this.#proposed.delete(requestId)
    }
  }

  async #stage({ plan }: ChangeRecord): Promise<void> {
    const { requestId } = plan as Plan
    const identity = this.#proposed.get(requestId)
    if (!identity) throw new OffboxError('STATE_REFUSED', 'the new identity is gone')
    await this.#options.files.writeJson(this.#stagedPath(requestId), identity, { mode: 0o600 })
  }

  async #goLive({ id, plan }: ChangeRecord): Promise<{ heldMs: number; heldCalls: number }> {
    const identity = this.#proposed.get((plan as Plan).requestId)
    if (!identity) throw new OffboxError('STATE_REFUSED', 'the new identity is gone')
    if (this.#provisional) throw new OffboxError('SWAP_IN_PROGRESS', `the certificate change ${this.#provisional.changeId} is not confirmed yet`)
    this.#options.front.rotate(identity)
    this.#provisional = { changeId: id, identity }
    return { heldMs: 0, heldCalls: 0 }
  }

  async #commit({ id, service, plan, to }: ChangeRecord): Promise<void> {
    const { files, identities, front } = this.#options
    const path = this.#stagedPath((plan as Plan).requestId)
    const staged = (await files.readJson(path)) as Identity | null
    if (staged) {
      await identities.save(staged)
      await this.#count(id, service)
      this.#confirmed = staged
    } else if (!this.#confirmed || readLeaf(this.#confirmed.chainPem).serial !== to) {
      throw new OffboxError('STORE_CORRUPT', 'the confirmed identity is not in the store')
    }
    this.#provisional = undefined
    front.rotate(this.#identity())
    await files.remove(path)
  }

  async #revert({ id, plan }: ChangeRecord): Promise<void> {
    const { files, front } = this.#options
    if (this.#provisional?.changeId === id) this.#provisional = undefined
    // Not while another change is live: this one never was.
    if (!this.#provisional) front.rotate(this.#identity())
    await files.remove(this.#stagedPath((plan as Plan).requestId))
  }

  async #status(service: string): Promise<Record<string, unknown>> {
    const { serial, spiffeId, notBeforeMs, notAfterMs } = readLeaf((this.#provisional?.identity ?? this.#identity()).chainPem)
    const rotations = (await this.#rotations()).counts[service] ?? 0
    return { serial, spiffeId, notBeforeMs, notAfterMs, provisional: this.#provisional !== undefined, changeId: this.#provisional?.changeId ?? '', rotations }
  }

  /** Removes what is kept for a service; call when it is removed. */
  async forget(service: string): Promise<void> {
    await this.#serial.run(async () => {
      const { lastChangeId, counts } = await this.#rotations()
      if (!Object.hasOwn(counts, service)) return
      const { [service]: _, ...others } = counts
      await this.#options.files.writeJson(this.#rotationsPath(), { lastChangeId, counts: others })
    })
  }

  async #count(changeId: string, service: string): Promise<void> {
    const { lastChangeId, counts } = await this.#rotations()
    if (lastChangeId === changeId) return
    const next: Rotations = { lastChangeId: changeId, counts: { ...counts, [service]: (counts[service] ?? 0) + 1 } }
    await this.#options.files.writeJson(this.#rotationsPath(), next)
  }

  async #rotations(): Promise<Rotations> {
    return ((await this.#options.files.readJson(this.#rotationsPath())) as Rotations | null) ?? { lastChangeId: '', counts: {} }
  }

  #identity(): Identity {
    if (!this.#confirmed) throw new OffboxError('STATE_REFUSED', 'the device has no identity yet: it has not enrolled')
    return this.#confirmed
  }

  #stagedPath(requestId: string): string {
    return join(this.#options.stateDir, 'identity', `staged-${requestId}.json`)
  }

  #rotationsPath(): string {
    return join(this.#options.stateDir, 'identity', 'rotations.json')
  }
}
