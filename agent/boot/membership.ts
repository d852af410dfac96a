/** Keeps this device a member of its fleet: enrols when it has no usable identity, announces itself at each start, renews in time. */
import { messageOf } from '../../core/errors.ts'
import { readLeaf } from '../../core/x509.ts'
import type { FloorStore } from '../trust/floors.ts'
import type { DeviceTrust } from '../trust/device-trust.ts'
import { type Enrolled, enrol, type EnrolOptions } from './enrol.ts'
import { checkIdentity, type Identity, type IdentityStore } from './identity.ts'

/** How often the certificate's age is looked at. */
const renewalCheckMs = 3_600_000
/** The witness did not answer, and nothing new is taken before it does. */
const witnessRetryMs = 60_000

export interface MembershipOptions extends Omit<EnrolOptions, 'question'> {
  readonly identities: IdentityStore
  readonly floors: FloorStore
  readonly trust: Pick<DeviceTrust, 'question' | 'learn' | 'needsWitness'>
  /** Stores an identity and puts it into service. */
  readonly adopt: (identity: Identity) => Promise<void>
  readonly log: EnrolOptions['log'] & { error(fields: object, message: string): void }
}

export class Membership {
  readonly #options: MembershipOptions
  readonly #ended = new AbortController()
  #cancelCheck = () => {}

  constructor(options: MembershipOptions) {
    this.#options = options
  }

  /** An identity to serve with: the stored one, else one that the controller gives now. `enrolled`: it has just announced itself. */
  async identity(): Promise<{ identity: Identity; enrolled: boolean }> {
    const { identities, anchors, clock, log } = this.#options
    const stored = await identities.load().catch((error) => {
      log.error({ error: messageOf(error) }, 'the stored identity cannot be read')
      return null
    })
    try {
      if (stored) {
        checkIdentity(stored, anchors, clock.nowMs())
        return { identity: stored, enrolled: false }
      }
    } catch (error) {
      log.warn({ error: messageOf(error) }, 'the stored identity cannot be used; enrolling')
    }
    const { identity } = await this.#enrol(stored?.keyPem)
    await identities.save(identity)
    log.info({ deviceId: identity.deviceId, serial: readLeaf(identity.chainPem).serial }, 'enrolled')
    return { identity, enrolled: true }
  }

  /** Tells the controller where the device is and which boot this is, with the key it has; takes the fresh certificate. */
  async announce(): Promise<void> {
    const { identities, adopt, log } = this.#options
    const before = await identities.load()
    const { identity } = await this.#enrol(before?.keyPem)
    const now = await identities.load()
    if (now && now.keyPem !== identity.keyPem) {
      log.info({ deviceId: identity.deviceId }, 'announced; the key was rotated meanwhile, so the certificate for the old one is dropped')
      return
    }
    await adopt(identity)
    log.info({ deviceId: identity.deviceId, serial: readLeaf(identity.chainPem).serial }, 'announced')
  }

  /** Announces (unless it just did), and again whenever a third of the certificate's life is left. */
  keep(enrolled: boolean): void {
    const { clock, identities, log, trust } = this.#options
    const due = async (): Promise<boolean> => {
      if (trust.needsWitness) return true
      const identity = await identities.load()
      if (!identity) return true
      const { notBeforeMs, notAfterMs } = readLeaf(identity.chainPem)
      return clock.nowMs() > notAfterMs - (notAfterMs - notBeforeMs) / 3
    }
    const check = async (now: boolean) => {
      try {
        if (now || (await due())) await this.announce()
      } catch (error) {
        if (this.#ended.signal.aborted) return
        log.error({ err: error }, 'the device could not announce itself')
      }
      arm()
    }
    const arm = () => {
      const pauseMs = trust.needsWitness ? witnessRetryMs : renewalCheckMs
      if (!this.#ended.signal.aborted) this.#cancelCheck = clock.after(pauseMs, () => void check(false))
    }
    if (enrolled) arm()
    else void check(true)
  }

  close(): void {
    this.#cancelCheck()
    this.#ended.abort(new Error('the agent stops'))
  }

  async #enrol(keyPem: string | undefined): Promise<Enrolled> {
    const { trust } = this.#options
    const enrolled = await enrol({ ...this.#options, question: () => trust.question() }, this.#ended.signal, keyPem)
    await this.#raise(enrolled.floors)
    await trust.learn(enrolled.lesson)
    return enrolled
  }

  async #raise(floors: Uint8Array): Promise<void> {
    try {
      await this.#options.floors.raise(floors)
    } catch (error) {
      // The device stays reachable with the floors it has; every order brings floors again.
      this.#options.log.error({ err: error }, 'floors sent with the enrolment are refused')
    }
  }
}
