/** The lab's controller, a process of its own in the lab's namespace, and the client that the lab talks to it with. */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { FleetMethods, type FleetDevice, type Rollout } from '../../proto/gen/fleet.ts'
import { RoutingConfig, type RoutingConfigInit } from '../../proto/gen/routing.ts'
import { type Home, readAnchors, readIdentity } from '../home/home.ts'
import { RpcClient } from '../rpc/client.ts'
import type { LabDevice } from './mesh.ts'
import { LAB_ADDRESS } from './network.ts'
import { type LongRunning, longRunning } from './process.ts'

const READY_TIMEOUT_MS = 60_000
const WORDS_KEPT_MAX = 50
const RESTART_DELAY_MS = 1_000
/** Below the 256 KiB that the controller takes at once. */
const CHUNK_BYTES = 128 * 1024
const root = join(import.meta.dirname, '../..')

export interface RunningController {
  stop(): Promise<void>
}

interface ControllerInput {
  readonly home: Home
  readonly namespace: string
  /** Also serve the boot image. */
  readonly boot: boolean
  readonly signal: AbortSignal
  readonly say: (text: string) => void
}

/**
 * Resolves when the controller answers. One that ends later is started again after a second, as an init system would do it.
 * @throws HOME_IN_USE, PORT_TAKEN, CONTROLLER_UNREACHABLE with its last words
 */
export async function startController(input: ControllerInput): Promise<RunningController> {
  const { home, namespace, say } = input
  const words: string[] = []
  const args = ['fleet/cli/main.ts', '--home', home.path, 'controller', 'serve', '--address', LAB_ADDRESS, ...(input.boot ? ['--boot'] : [])]
  const onLine = (line: string) => void words.splice(0, Math.max(0, words.push(line.slice(0, 500)) - WORDS_KEPT_MAX))
  const start = () => longRunning(process.execPath, args, { namespace, cwd: root, onLine })
  const first = await start()
  try {
    await answers(home, first, words, input.signal)
  } catch (error) {
    await first.stop()
    throw error
  }
  const ended = new AbortController()
  let running = first
  const keepRunning = async () => {
    for (;;) {
      const how = await running.exited
      if (ended.signal.aborted) return
      say(`the controller ended (${how}); starting it again`)
      await delay(RESTART_DELAY_MS, undefined, { signal: ended.signal }).catch(() => {})
      if (ended.signal.aborted) return
      running = await start()
    }
  }
  const kept = keepRunning().catch((error) => say(`the controller could not be started again: ${messageOf(error)}`))
  return {
    stop: async () => {
      ended.abort()
      await running.stop()
      await kept
    },
  }
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
  readonly #rpc: RpcClient

  private constructor(rpc: RpcClient) {
    this.#rpc = rpc
  }

  static async connect(home: Home, fleet: string): Promise<ControllerClient> {
    const identity = await readIdentity(home, 'operator')
    const { caPem } = await readAnchors(home)
    return new ControllerClient(
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

  /** A lab that was killed may have left a rollout running; this one begins anew. */
  async abandonRollouts(): Promise<void> {
    const newest = await this.#rpc.unary(FleetMethods.GetRollout, {}).catch((error) => {
      if (error instanceof OffboxError && error.code === 'ROLLOUT_NOT_FOUND') return null
      throw error
    })
    if (newest?.state === 'running' || newest?.state === 'aborting')
      await this.#rpc.unary(FleetMethods.AbortRollout, { rolloutId: newest.rolloutId, reason: 'the lab was started anew' }, { deadlineMs: 120_000 })
  }

  /** Puts a signed bundle into the registry. */
  async putBundle(file: Uint8Array): Promise<void> {
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
