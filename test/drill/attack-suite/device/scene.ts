/** A running device: a real agent process, reached over mutual TLS by whoever has a certificate, and the fleet it belongs to. */
import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import nacl from 'tweetnacl'
import { formatAnchors } from '../../../../core/anchors.ts'
import { systemClock } from '../../../../core/clock.ts'
import { messageOf } from '../../../../core/errors.ts'
import { keyIdOf } from '../../../../core/signing.ts'
import { type SignedStatement, signStatement, type Statement } from '../../../../core/trust/statement.ts'
import { deviceDnsName } from '../../../../core/x509.ts'
import type { MetadataPush } from '../../../../core/tuf/push.ts'
import { RpcClient } from '../../../../fleet/rpc/client.ts'
import { Witness } from '../../../../fleet/witness/witness.ts'
import { type Change, ChangeState, type InstallOrderInit, LifecycleMethods } from '../../../../proto/gen/lifecycle.ts'
import { TrustMethods, type TrustStatus } from '../../../../proto/gen/trust.ts'
import { type AgentProcess, freePort, isServing, nodeStart, send, startAgent } from '../../../agent/agent-process.ts'
import { trust as trusted } from '../../../fixtures/bundles.ts'
import { SERVICE, SetUpFailed, type Stage } from '../attack.ts'
import { type Enroller, FLEET, type DrillFleet, type Identity } from './fleet.ts'
import { type DevicePush, DeviceRepository } from './repository.ts'

const callMs = 60_000
const settleMs = 30_000

/** What must not have changed. */
export interface Belief {
  readonly services: readonly { readonly service: string; readonly version: string; readonly state: number; readonly manifestSha256: string }[]
  /** Changes that are neither confirmed nor reverted. */
  readonly open: readonly string[]
  readonly trust: Pick<TrustStatus, 'rootVersion' | 'heights' | 'policyVersion' | 'policySha256' | 'needsWitness'>
  /** SHA-256 of what is stored of trust and of bundles, by path. */
  readonly files: Readonly<Record<string, string>>
}

export interface OrderMore {
  readonly order?: InstallOrderInit
  readonly file?: Uint8Array
  readonly client?: RpcClient
}

export class DeviceScene implements Stage {
  readonly fleet: DrillFleet
  readonly id: string
  /** What the owners have published. */
  honest: DeviceRepository
  /** What the case plays with: theirs in the attacker's hands. */
  repository: DeviceRepository
  witness!: Witness
  witnessKey = nacl.sign.keyPair()
  /** What the controller answers to a device that enrols. */
  enroller: Enroller
  /** As it was right before the attack. */
  before!: Belief
  agent!: AgentProcess
  client!: RpcClient
  /** Of the controller: the thief has its certificate. */
  #identity!: Identity
  #port = 0
  #boots = 0
  #stateDir = 'state'
  #installed = new Set<string>()

  private constructor(fleet: DrillFleet, id: string) {
    this.fleet = fleet
    this.id = id
    this.honest = new DeviceRepository(fleet.key)
    const rule = { keys: [fleet.key.keyId], capabilities: [], tiers: ['worker' as const] }
    this.honest.setPolicy(() => Object.fromEntries(['telemetry', 'routing', 'diamond'].map((name) => [name, rule])))
    this.repository = this.honest
    this.enroller = this.truthful
  }

  /** @param beside another device of the same owners */
  static async open(fleet: DrillFleet, id: string, beside?: DeviceScene): Promise<DeviceScene> {
    const scene = new DeviceScene(fleet, id)
    if (beside) Object.assign(scene, { honest: beside.repository, repository: beside.repository, witnessKey: beside.witnessKey })
    await mkdir(join(scene.home, 'witness'), { recursive: true })
    await writeFile(join(scene.home, 'witness/root.json'), scene.honest.anchor)
    const { publicKey, secretKey } = scene.witnessKey
    const key = { keyId: keyIdOf(publicKey), publicKey, sign: (message: Uint8Array) => nacl.sign.detached(message, secretKey) }
    scene.witness = beside?.witness ?? (await Witness.open({ directory: join(scene.home, 'witness'), fleet: FLEET, key, clock: systemClock }))
    const trust = {
      root: Buffer.from(scene.honest.anchor).toString('utf8'),
      witnessKeys: new Map([[key.keyId, publicKey]]),
      builtAtMs: Date.now() - 3_600_000,
    }
    await writeFile(scene.anchorsFile, formatAnchors({ fleet: FLEET, caPem: fleet.ca.certificatePem, bundleKeys: trusted(fleet.key), trust }))
    fleet.enrollers.set(id, async (request) => await scene.enroller(request))
    scene.#identity = await fleet.identity('controller', 'stolen')
    scene.#port = await freePort()
    await scene.start()
    return scene
  }

  get home(): string {
    return join(this.fleet.directory, this.id)
  }

  get anchorsFile(): string {
    return join(this.home, 'anchors.json')
  }

  get stateDir(): string {
    return join(this.home, this.#stateDir)
  }

  /** A controller that hides nothing. */
  truthful: Enroller = async ({ challenge, rootVersion }) => {
    const push = this.honest.pushSince(rootVersion)
    return { ...carried(push), witness: challenge.length > 0 ? await this.witness.attest(challenge, this.honest.pushSince(1)) : null }
  }

  /** One that says nothing of what it knows. */
  silent: Enroller = async () => ({})

  /** One that hands out `push` as if it were the newest, with the true word of the witness. */
  stale(push: MetadataPush): Enroller {
    return async ({ challenge }) => ({ ...carried(push), witness: challenge.length > 0 ? await this.witness.attest(challenge) : null })
  }

  /** @param how.clockShiftMs of the wall clock, in the agent's process alone */
  async start({ clockShiftMs = 0 } = {}): Promise<void> {
    const start = await nodeStart(this.fleet)
    const preload = `--import=${join(import.meta.dirname, 'clock-shift.mjs')}`
    const shifted = { flags: [...start.flags, preload], environment: { ...start.environment, CLOCK_SHIFT_MS: `${clockShiftMs}` } }
    const over = { stateDir: this.stateDir, anchorsFile: this.anchorsFile, serial: `SN-${this.id}` }
    this.agent = await startAgent(this.fleet, this.id, this.#port, over, clockShiftMs === 0 ? start : shifted)
    await this.agent.line(isServing)
    this.client = await this.connect()
    this.#boots += 1
  }

  /** @param how.diskless it finds nothing of what it had @param how.between while it is off */
  async restart(how: { diskless?: boolean; clockShiftMs?: number; between?: () => Promise<unknown> } = {}): Promise<void> {
    this.client.close()
    await this.agent.kill()
    if (how.diskless) {
      this.#stateDir = `state-${this.#boots}`
      this.#installed.clear()
    }
    await how.between?.()
    await this.start(how)
  }

  async connect(identity: Identity = this.#identity, ca = this.fleet.ca): Promise<RpcClient> {
    const serverName = deviceDnsName(FLEET, this.id)
    return new RpcClient({ target: `127.0.0.1:${this.#port}`, serverName, caPem: ca.certificatePem, identity })
  }

  /** Another device of this repository, which runs nothing yet. */
  async beside(): Promise<DeviceScene> {
    return await this.setUp(async () => await DeviceScene.open(this.fleet, `${this.id}-beside`, this))
  }

  /** The witness sees what the owners have published. */
  async shown(repository = this.repository): Promise<void> {
    await this.setUp(async () => await this.witness.attest(new Uint8Array(32), repository.pushSince(1)))
  }

  /** Relays a question to the witness and its answer back. */
  async relay(): Promise<TrustStatus> {
    const { nonce } = await this.client.unary(TrustMethods.Challenge, {}, { deadlineMs: callMs })
    return await this.attest(await this.witness.attest(nonce))
  }

  async attest({ statement, keyId, signature }: SignedStatement): Promise<TrustStatus> {
    return await this.client.unary(TrustMethods.Attest, { statement, keyId, signature }, { deadlineMs: callMs })
  }

  /** A statement of this witness, or of whoever has `secretKey`, in answer to the device's newest question. */
  async forged(over: Partial<Statement>, secretKey: Uint8Array = this.witnessKey.secretKey): Promise<SignedStatement> {
    const { nonce } = await this.client.unary(TrustMethods.Challenge, {}, { deadlineMs: callMs })
    const content = { fleet: FLEET, nonce: Buffer.from(nonce).toString('hex'), heights: this.witness.heights, timeMs: Date.now(), ...over }
    return signStatement(content, keyIdOf(secretKey.subarray(32)), (message) => nacl.sign.detached(message, secretKey))
  }

  /** Newer in everything, so that nothing but its keys is wrong with it. */
  stranger(): DeviceRepository {
    const other = new DeviceRepository(this.fleet.key)
    const { major, policyBytes, policyVersion, bundles } = this.repository
    Object.assign(other, { major, policyBytes, policyVersion, bundles })
    for (const role of ['targets', 'snapshot', 'timestamp']) other.roles[role].version += 10_000
    other.addService(SERVICE)
    other.roles[`service-${SERVICE}`].version = 10_000
    other.publish(`service-${SERVICE}`)
    other.setPolicy((before) => before)
    return other
  }

  /** Orders with the controller's certificate whatever the path names: the bundle that is listed, else one that a leaked bundle key signed. */
  async order(path: string, push: MetadataPush = this.repository.push(), more: OrderMore = {}): Promise<Change> {
    const [service, version] = /^services\/([^/]+)\/(.+)\.offbox$/.exec(path)?.slice(1) ?? [SERVICE, '6.6.6']
    const listed = this.repository.bundles.get(path)
    const mapped = listed || more.file ? version : this.repository.mapped(version ?? '')
    const file = more.file ?? listed ?? this.repository.bundle(service ?? '', mapped ?? '')
    const order = { service, version: mapped, bakeMs: 0, confirmTimeoutMs: 60_000, allowDowngrade: true, ...carried(push), ...more.order }
    return await send(more.client ?? this.client, this.#installed.has(order.service ?? '') ? 'Upgrade' : 'Install', order, file)
  }

  async honestOrder(path: string, push?: MetadataPush, more?: OrderMore): Promise<Change> {
    return await this.setUp(async () => {
      const change = await this.order(path, push, more)
      const fresh = await this.connect()
      try {
        await fresh.unary(LifecycleMethods.Confirm, { changeId: change.id }, { deadlineMs: callMs })
      } finally {
        fresh.close()
      }
      this.#installed.add(change.service)
      await this.mark()
      return change
    })
  }

  /** What follows is the attack: from here on nothing may change. */
  async mark(): Promise<void> {
    this.before = await this.belief()
  }

  /** The owners publish the next version, which the device runs. @throws SetUpFailed */
  async goOn(): Promise<void> {
    this.repository = this.honest
    if ((await this.status()).needsWitness) await this.setUp(async () => await this.relay())
    await this.honestOrder(this.honest.release(SERVICE, '9.0.0'))
  }

  /** What has to go well before the attack begins. @throws SetUpFailed */
  async setUp<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act()
    } catch (error) {
      throw new SetUpFailed(`the set-up failed: ${messageOf(error)}`, { cause: error })
    }
  }

  async status(): Promise<TrustStatus> {
    return await this.client.unary(TrustMethods.Status, {}, { deadlineMs: callMs })
  }

  async belief(): Promise<Belief> {
    const { services } = await this.client.unary(LifecycleMethods.List, {}, { deadlineMs: callMs })
    const isOpen = (state: number | undefined) => state !== undefined && state !== ChangeState.CONFIRMED && state !== ChangeState.REVERTED
    const { rootVersion, heights, policyVersion, policySha256, needsWitness } = await this.status()
    return {
      services: services.map(({ service, version, state, manifestSha256 }) => ({ service, version, state, manifestSha256 })),
      open: services.flatMap(({ change }) => (isOpen(change?.state) ? [`${change?.id}`] : [])),
      trust: { rootVersion, heights, policyVersion, policySha256, needsWitness },
      files: { ...(await digests(join(this.stateDir, 'trust'))), ...(await digests(join(this.stateDir, 'bundles'))) },
    }
  }

  /** The state of a service once it has one that lasts: its reason says why it does not run. */
  async serviceReason(service: string): Promise<{ state: number; reason: string }> {
    for (const deadline = Date.now() + settleMs; ; ) {
      const { state, health } = await this.client.unary(LifecycleMethods.Get, { service })
      const reason = health?.reason ?? ''
      if (reason !== '' || Date.now() > deadline) return { state, reason }
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }

  async close(): Promise<void> {
    this.client?.close()
    await this.agent?.kill()
    this.fleet.enrollers.delete(this.id)
  }
}

/** As the fields of an order, an update and an enrolment are called. */
export function carried(push: MetadataPush): { metadata: { name: string; content: Uint8Array }[]; policy: Uint8Array } {
  const metadata = push.files.map(({ name, bytes }) => ({ name, content: bytes }))
  return { metadata, policy: (push as Partial<DevicePush>).policy ?? new Uint8Array() }
}

async function digests(directory: string): Promise<Record<string, string>> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => [])
  const found: Record<string, string> = {}
  for (const entry of entries.filter((one) => one.isFile() && !one.name.startsWith('.tmp-'))) {
    const path = join(entry.parentPath, entry.name)
    found[path] = createHash('sha256')
      .update(await readFile(path))
      .digest('hex')
  }
  return found
}
