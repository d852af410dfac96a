/** The lab's controller, a process of its own in the lab's namespace, and the client that the lab talks to it with. */
import { setTimeout as delay } from 'node:timers/promises'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { FleetMethods, type FleetDevice, type Rollout } from '../../proto/gen/fleet.ts'
import { RoutingConfig, type RoutingConfigInit } from '../../proto/gen/routing.ts'
import { type Home, readAnchors, readIdentity } from '../home/home.ts'
import { RpcClient } from '../rpc/client.ts'
import { offerInLab } from '../trust/lab.ts'
import { type Kept, keepRunning } from './kept.ts'
import type { LabDevice } from './mesh.ts'
import { LAB_ADDRESS } from './network.ts'
import type { LongRunning } from './process.ts'

const READY_TIMEOUT_MS = 60_000
/** Below the 256 KiB that the controller takes at once. */
const CHUNK_BYTES = 128 * 1024

interface ControllerInput {
  readonly home: Home
  readonly namespace: string
  /** Also serve the boot image. */
  readonly boot: boolean
  /** Where the witness answers, ADDRESS:PORT; empty: nowhere. */
  readonly witness: string
  readonly signal: AbortSignal
  readonly say: (text: string) => void
}

/**
 * Resolves when the controller answers.
 * @throws HOME_IN_USE, PORT_TAKEN, CONTROLLER_UNREACHABLE with its last words
 */
export async function startController({ home, namespace, boot, witness, signal, say }: ControllerInput): Promise<Kept> {
  const more = [...(witness ? ['--witness', witness] : []), ...(boot ? ['--boot'] : [])]
  const args = ['--home', home.path, 'controller', 'serve', '--address', LAB_ADDRESS, ...more]
  return await keepRunning({
    what: 'the controller',
    args,
    namespace,
    say,
    ready: async (running, words) => await answers(home, running, words, signal),
  })
}

async function answers(home: Home, controller: LongRunning, words: readonly string[], signal: AbortSignal): Promise<void> {
  let gone = ''
  controller.exited.then((how) => (gone = how))
  const deadlineMs = performance.now() + READY_TIMEOUT_MS
  const client = await ControllerClient.connect(home, (await readAnchors(home)).fleet)
  try {
    for (;;) {
      signal.throwIfAborted()
      const failure = await client.devices().then(
        () => '',
        (error) => messageOf(error),
      )
      if (!failure) return
      const last = `:\n${words.slice(-8).join('\n')}`
      if (gone) throw new OffboxError('CONTROLLER_UNREACHABLE', `the controller ended (${gone})${last}`)
      if (performance.now() > deadlineMs) throw new OffboxError('CONTROLLER_UNREACHABLE', `the controller does not answer: ${failure}${last}`)
      await delay(100)
    }
  } finally {
    client.close()
  }
}

/** What the lab asks of the controller, over its unix socket. */
export class ControllerClient {
  readonly #home: Home
  readonly #rpc: RpcClient

  private constructor(home: Home, rpc: RpcClient) {
    this.#home = home
    this.#rpc = rpc
  }

  static async connect(home: Home, fleet: string): Promise<ControllerClient> {
    const identity = await readIdentity(home, 'operator')
    const { caPem } = await readAnchors(home)
    return new ControllerClient(
      home,
      new RpcClient({ target: `unix:${home.socket}`, serverName: `controller.${fleet}.offbox`, caPem, identity }, 'CONTROLLER_UNREACHABLE'),
    )
  }

  async devices(): Promise<FleetDevice[]> {
    return (await this.#rpc.unary(FleetMethods.ListDevices, {})).devices
  }

  async register(device: LabDevice, services: readonly { service: string; version: string }[], routing: RoutingConfigInit): Promise<void> {
    await this.#rpc.unary(FleetMethods.AddDevice, { deviceId: device.id, serial: device.serial, mac: device.port.mac })
    await this.#rpc.unary(FleetMethods.SetDesired, { deviceId: device.id, desired: { services: [...services], routingConfig: RoutingConfig.encode(routing) } })
  }

  /** One more service that a device is to run. The controller brings it there. */
  async run(deviceId: string, service: { service: string; version: string }): Promise<void> {
    const { desired } = await this.#rpc.unary(FleetMethods.GetDevice, { deviceId })
    const others = (desired?.services ?? []).filter((one) => one.service !== service.service)
    await this.#rpc.unary(FleetMethods.SetDesired, { deviceId, desired: { ...desired, services: [...others, service] } })
  }

  /** A lab that was killed may have left a rollout running; this one begins anew. */
  async abandonRollouts(): Promise<void> {
    const newest = await this.#rpc.unary(FleetMethods.GetRollout, {}).catch((error) => {
      if (error instanceof OffboxError && error.code === 'ROLLOUT_NOT_FOUND') return null
      throw error
    })
    if (newest?.state === 'running' || newest?.state === 'aborting')
      await this.#rpc.unary(FleetMethods.AbortRollout, { rolloutId: newest.rolloutId, reason: 'the lab was started anew' }, { deadlineMs: 120_000 })
  }

  /** Puts a signed bundle into the registry, and publishes it: without that no device takes it. */
  async putBundle(file: Uint8Array): Promise<void> {
    await offerInLab(this.#home, [file], Date.now())
    const chunks = Array.from({ length: Math.ceil(file.length / CHUNK_BYTES) }, (_, index) => ({
      chunk: file.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES),
    }))
    await this.#rpc.clientStream(FleetMethods.PutBundle, chunks)
  }

  /** Starts a rollout and yields it after every step until it has ended. */
  async *rollOut(order: { service: string; version: string; bakeMs: number; deviceIds: string[] }, signal: AbortSignal): AsyncGenerator<Rollout> {
    const { rolloutId } = await this.#rpc.unary(FleetMethods.StartRollout, order)
    yield* this.#rpc.serverStream(FleetMethods.WatchRollout, { rolloutId }, { signal })
  }

  close(): void {
    this.#rpc.close()
  }
}
