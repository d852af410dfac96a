/**
 * Carries to devices what they verify by themselves: the repository's metadata, the policy, the witness's answers. Nothing here is signed or
 * judged: a controller that lies is refused by the device, one that withholds keeps it on what it runs.
 */
import { randomBytes } from 'node:crypto'
import { readlink } from 'node:fs/promises'
import { join } from 'node:path'
import * as grpc from '@grpc/grpc-js'
import { codeOf, messageOf, OffboxError } from '../../core/errors.ts'
import type { TrustedKeys } from '../../core/signing.ts'
import { NONCE_BYTES } from '../../core/trust/statement.ts'
import type { MetadataPush } from '../../core/tuf/push.ts'
import type { EnrolRequest, EnrolResponseInit } from '../../proto/gen/enrol.ts'
import type { InstallOrderInit } from '../../proto/gen/lifecycle.ts'
import { TrustMethods, type TrustStatus } from '../../proto/gen/trust.ts'
import { type AttestResponse, type RepositoryFileInit, WitnessMethods } from '../../proto/gen/witness.ts'
import type { DeviceSession } from '../device/session.ts'
import { anchoredKeys, type BundleKeys } from '../registry/verify.ts'
import { RpcClient, RpcError, type RpcTarget } from '../rpc/client.ts'
import { makePush } from '../trust/make-push.ts'
import { type PublishedPolicy, readPolicyOf } from '../trust/policy.ts'
import { signersIn } from '../trust/publish.ts'
import { latestRoot, type Repository } from '../trust/repository.ts'
import { readTrust } from '../trust/trust.ts'
import type { Log } from './log.ts'

export const CARRIER_LIMITS = {
  /** A device waits for its enrolment meanwhile. */
  witnessTimeoutMs: 8_000,
  /** Verifying a chain of roots takes a device seconds, under emulation many. */
  deviceTimeoutMs: 60_000,
  /** Between two tries to show the witness what is published. */
  showAgainMs: 10_000,
  /** Pushes of roots alone to one device: 1,000 roots. */
  rootPushesMax: 64,
} as const

export interface CarrierOptions {
  /** $OFFBOX_HOME/trust. */
  readonly trust: string
  /** Null: the fleet has no witness, or nobody said where. */
  readonly witness: RpcTarget | null
  readonly log: Log
}

interface Content {
  readonly repository: Repository
  readonly policy: PublishedPolicy | null
}

/** What goes with an order or an enrolment. */
type Carried = Required<Pick<InstallOrderInit, 'metadata' | 'policy'>>
const NOTHING: Carried = { metadata: [], policy: new Uint8Array() }

/** May be used by several callers at once. */
export class Carrier {
  readonly #options: CarrierOptions
  #content: (Content & { readonly generation: string }) | null = null
  #client: RpcClient | null = null
  #saidMissing = false
  /** Generation that the witness has seen. */
  #shown = ''
  #showing: Promise<void> | null = null
  #showAgainMs = 0
  readonly #stop = new AbortController()

  constructor(options: CarrierOptions) {
    this.#options = options
  }

  /** Lets go of the witness. */
  async close(): Promise<void> {
    this.#stop.abort()
    await this.#showing
    this.#client?.close()
  }

  /**
   * What an enrolment brings along. Never fails: a device that goes without takes nothing new, and the next look at it tries again.
   */
  async enrolment(request: Pick<EnrolRequest, 'challenge' | 'rootVersion'>, deviceId: string): Promise<Partial<EnrolResponseInit>> {
    const { challenge, rootVersion } = request
    // A device without anchors of trust looks at none of it.
    if (rootVersion === 0) return {}
    try {
      const content = await this.#read()
      const witness = challenge.length === NONCE_BYTES ? await this.#ask(challenge, content).catch((error) => this.#missed(deviceId, error)) : null
      return { ...(content ? carried(content, { rootVersion, services: [] }).carried : {}), ...(witness ? { witness } : {}) }
    } catch (error) {
      this.#options.log.error({ deviceId, code: codeOf(error), error: messageOf(error) }, 'a device enrols without metadata')
      return {}
    }
  }

  /**
   * Brings a device to where an order can be judged, and answers what the order has to carry.
   * @throws STORE_CORRUPT the repository; WITNESS_UNREACHABLE, and what the device says
   */
  async order(session: DeviceSession, service: string): Promise<Carried> {
    const content = await this.#read()
    if (!content) return NOTHING
    const status = await this.#prepare(session, content)
    if (!status) return NOTHING
    const { metadata, policy } = carried(content, { rootVersion: status.rootVersion, services: [service] }).carried
    return { metadata, policy: status.policySha256 === content.policy?.sha256 ? new Uint8Array() : policy }
  }

  /**
   * Tells a device what is new without an order: a revoked bundle, another policy, a fresh timestamp.
   * @returns what the device says of itself; null when it is not bound by any of this
   * @throws as `order`
   */
  async refresh(session: DeviceSession): Promise<TrustStatus | null> {
    const content = await this.#read()
    if (!content) return null
    const status = await this.#prepare(session, content)
    if (!status || !isBehind(status, content)) return status
    const { metadata, policy } = carried(content, { rootVersion: status.rootVersion, services: [] }).carried
    return await session.updateTrust({ metadata, policy }, { deadlineMs: CARRIER_LIMITS.deviceTimeoutMs })
  }

  /** Who may sign bundles: `anchors`, and what the repository says of services. @throws STORE_CORRUPT */
  async bundleKeys(anchors: TrustedKeys): Promise<BundleKeys> {
    const content = await this.#read()
    return content ? signersIn(content.repository.targets.signed, anchors) : anchoredKeys(anchors)
  }

  /** The witness's answer, if the device waits for one; then roots, until one push can hold what is left. Null: it asks for nothing of this. */
  async #prepare(session: DeviceSession, content: Content): Promise<TrustStatus | null> {
    const options = { deadlineMs: CARRIER_LIMITS.deviceTimeoutMs }
    let status = await statusOf(session)
    if (!status) return null
    if (status.needsWitness) {
      const { nonce } = await session.client.unary(TrustMethods.Challenge, {})
      status = await session.client.unary(TrustMethods.Attest, await this.#ask(nonce, content), options)
    }
    for (let pushes = 0; ; pushes++) {
      const { rootVersion } = status
      const { carried: next, more } = carried(content, { rootVersion, services: [] })
      if (!more) return status
      status = await session.updateTrust({ metadata: next.metadata }, options)
      if (status.rootVersion <= rootVersion || pushes >= CARRIER_LIMITS.rootPushesMax) {
        throw new OffboxError('TRUST_MISMATCH', `${session.deviceId} stays at root ${status.rootVersion}, whatever roots it is sent`)
      }
    }
  }

  /** @throws WITNESS_UNREACHABLE, and what the witness says of the metadata */
  async #ask(nonce: Uint8Array, content: Content | null): Promise<AttestResponse> {
    const { witness } = this.#options
    if (!witness) throw new OffboxError('WITNESS_UNREACHABLE', 'no address of a witness is set (controller.witness in offbox.yaml)')
    // One connection for all: a fleet that powers on at once asks a thousand questions.
    this.#client ??= new RpcClient(witness, 'WITNESS_UNREACHABLE')
    const client = this.#client
    try {
      // What the device is about to be shown the witness sees first: so it remembers it for all who come later.
      const pushes = content ? everything(content.repository) : []
      const options = { deadlineMs: CARRIER_LIMITS.witnessTimeoutMs, signal: this.#stop.signal }
      for (const push of pushes.slice(0, -1)) await client.unary(WitnessMethods.Attest, { nonce, files: messagesOf(push) }, options)
      return await client.unary(WitnessMethods.Attest, { nonce, files: messagesOf(pushes.at(-1) ?? { files: [] }) }, options)
    } catch (error) {
      // That it took too long is the witness's matter, and no verdict on the device.
      if (codeOf(error) === 'DEADLINE_PASSED') throw new OffboxError('WITNESS_UNREACHABLE', messageOf(error), { cause: error })
      if (error instanceof RpcError && error.code !== 'WITNESS_UNREACHABLE') throw new RpcError(error.code, error.status, `the witness says: ${error.message}`)
      throw error
    }
  }

  #missed(deviceId: string, error: unknown): null {
    this.#options.log.warn({ deviceId, code: codeOf(error), error: messageOf(error) }, 'a device enrols without an answer of the witness')
    return null
  }

  /** As it is now: a publication replaces the link as a whole. Null: the home has no repository. @throws STORE_CORRUPT */
  async #read(): Promise<Content | null> {
    const { trust, log } = this.#options
    const generation = await readlink(join(trust, 'repository')).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return null
      throw new OffboxError('STORE_CORRUPT', `${join(trust, 'repository')} cannot be read: ${error.message}`, { cause: error })
    })
    if (generation === null) {
      if (!this.#saidMissing) log.warn({ trust }, 'no trust repository: orders carry no metadata, and devices that demand it refuse them')
      this.#saidMissing = true
      return null
    }
    if (this.#content?.generation === generation) {
      this.#show(generation, this.#content)
      return this.#content
    }
    const repository = await readTrust(trust)
    const policy = await readPolicyOf(trust, repository)
    log.info({ generation, timestamp: repository.timestamp.signed.version, policy: policy?.policy.version ?? 0 }, 'trust repository read')
    // Should it have been replaced meanwhile, the next one who asks reads it again.
    this.#content = { generation, repository, policy }
    this.#show(generation, this.#content)
    return this.#content
  }

  /** What is published the witness sees at once, and not only when a device asks: till then a backup of the day before would pass. Waits for nothing. */
  #show(generation: string, content: Content): void {
    const { witness, log } = this.#options
    if (!witness || this.#shown === generation || this.#showing || performance.now() < this.#showAgainMs || this.#stop.signal.aborted) return
    const show = async () => {
      try {
        await this.#ask(new Uint8Array(randomBytes(NONCE_BYTES)), content)
        this.#shown = generation
      } catch (error) {
        if (this.#stop.signal.aborted) return
        this.#showAgainMs = performance.now() + CARRIER_LIMITS.showAgainMs
        log.warn({ generation, code: codeOf(error), error: messageOf(error) }, 'the witness has not seen what is published')
      }
    }
    this.#showing = show().finally(() => {
      this.#showing = null
    })
  }
}

/** Null: a device that is not bound by any of this, by its image or its age. */
async function statusOf(session: DeviceSession): Promise<TrustStatus | null> {
  try {
    const status = await session.trustStatus()
    return status.enforced ? status : null
  } catch (error) {
    if (error instanceof RpcError && error.status === grpc.status.UNIMPLEMENTED) return null
    throw error
  }
}

function isBehind(status: TrustStatus, { repository, policy }: Content): boolean {
  const { timestamp, snapshot } = repository
  if (status.rootVersion < latestRoot(repository).signed.version) return true
  if ((status.heights['timestamp'] ?? 0) < timestamp.signed.version || (status.heights['snapshot'] ?? 0) < snapshot.signed.version) return true
  return policy !== null && status.policySha256 !== policy.sha256
}

function carried({ repository, policy }: Content, order: { rootVersion: number; services: readonly string[] }): { carried: Carried; more: boolean } {
  const { push, more } = makePush(repository, order)
  return { carried: { metadata: messagesOf(push), policy: more ? new Uint8Array() : (policy?.bytes ?? new Uint8Array()) }, more }
}

/** For somebody whose root is not known. */
function everything(repository: Repository): MetadataPush[] {
  const pushes: MetadataPush[] = []
  for (let rootVersion = 0; ; ) {
    const { push, more } = makePush(repository, { rootVersion, services: [] })
    pushes.push(push)
    if (!more) return pushes
    rootVersion = Math.max(rootVersion, 1) + push.files.length
  }
}

function messagesOf({ files }: MetadataPush): RepositoryFileInit[] {
  return files.map(({ name, bytes }) => ({ name, content: bytes }))
}
