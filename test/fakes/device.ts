/**
 * A small working device: enrols, serves Lifecycle, Device and Routing over mutual TLS, and keeps one change a service with
 * bake, deadline and fresh confirm. It verifies nothing and runs nothing; it can be told to fail in named ways.
 */
import { randomBytes } from 'node:crypto'
import type { Anchors } from '../../core/anchors.ts'
import { splitBundle } from '../../core/bundle-format.ts'
import { OffboxError } from '../../core/errors.ts'
import { makeCsr, readLeaf } from '../../core/x509.ts'
import { RpcClient } from '../../fleet/rpc/client.ts'
import { type Caller, clientStream, RpcServer, type Route, serverStream, unary } from '../../fleet/rpc/server.ts'
import { DeviceMethods } from '../../proto/gen/device.ts'
import { EnrolMethods } from '../../proto/gen/enrol.ts'
import {
  type BundleUpload,
  type ChangeInit,
  ChangeState,
  type InstallOrder,
  LifecycleMethods,
  ServiceState,
  type ServiceStatusInit,
} from '../../proto/gen/lifecycle.ts'
import { RoutingConfig, RoutingMethods } from '../../proto/gen/routing.ts'

/** How a version behaves on this device, by "service@version". */
export type Behaviour =
  | { readonly kind: 'throwsAtStart' }
  /** Is refused while another service does not run. */
  | { readonly kind: 'requires'; readonly service: string }
  /** Goes live, then turns unhealthy; the device goes back by itself. */
  | { readonly kind: 'unhealthyAfter'; readonly ms: number }
  | { readonly kind: 'degraded' }
  /** Goes live, but the connection breaks before the answer. */
  | { readonly kind: 'cutsConnection' }
  /** Holds the upgrade for this long. */
  | { readonly kind: 'slow'; readonly ms: number }

interface Running {
  version: string
  previous: string
  health: number
  reason: string
  change: Change | null
  /** Versions that crashed too often, and when. */
  failed?: { version: string; atMs: number }[]
}

interface Change {
  id: string
  kind: string
  service: string
  from: string
  to: string
  state: number
  reason: string
  error: string
  liveAtMs: number
  bakeMs: number
  timer: NodeJS.Timeout | null
  undo: () => void
}

export interface FakeDeviceOptions {
  readonly serial: string
  readonly mac: string
  readonly anchors: Anchors
  readonly enrolPort: number
}

export class FakeDevice {
  readonly behaviours = new Map<string, Behaviour>()
  readonly services = new Map<string, Running>()
  /** Every order that reached the device, e.g. "Upgrade telemetry 1.1.0 (rollout r-0001 attempt 1)". */
  readonly orders: string[] = []
  deviceId = ''
  port = 0
  bootId = randomBytes(8).toString('hex')
  routing = { config: new Uint8Array() as Uint8Array, revision: '', changeId: '' }
  readonly #options: FakeDeviceOptions
  readonly #changes = new Map<string, Change>()
  readonly #firstCallMs = new Map<string, number>()
  #server: RpcServer | null = null
  #agentStarts = 1
  #changeNumber = 0
  #serial = ''

  constructor(options: FakeDeviceOptions) {
    this.#options = options
  }

  /** Serves and enrols. @throws RpcError the controller refuses it */
  async powerOn(): Promise<void> {
    const { anchors, enrolPort, serial, mac } = this.#options
    const { keyPem, csrPem } = await makeCsr('whatever it says')
    // The port is needed for the request and the certificate for the port: bind the old one again, or any at first.
    const placeholder = this.port || (await freePort())
    const client = new RpcClient(
      { target: `127.0.0.1:${enrolPort}`, serverName: `controller.${anchors.fleet}.offbox`, caPem: anchors.caPem },
      'CONTROLLER_UNREACHABLE',
    )
    try {
      const bootId = this.bootId
      const request = { csrPem, serial, mac, address: '127.0.0.1', port: placeholder, bootId, boot: 'local', agentVersion: '0.1.0', uptimeMs: 1234 }
      const answer = await client.unary(EnrolMethods.Enrol, request)
      this.deviceId = answer.deviceId
      this.#serial = readLeaf(answer.certificateChainPem).serial
      const { caPem: clientCaPem } = anchors
      const quiet = { finished: () => {}, internal: (error: unknown) => console.error(error), refused: () => {} }
      this.#server = new RpcServer({
        keyPem,
        certificatePem: answer.certificateChainPem,
        clientCaPem,
        routes: this.#routes(),
        admit: (caller) => this.#admit(caller),
        ...quiet,
      })
      this.port = await this.#server.listen('127.0.0.1', placeholder)
    } finally {
      client.close()
    }
  }

  /** Loses everything, as a diskless device does. */
  async powerOff(): Promise<void> {
    for (const change of this.#changes.values()) clearTimeout(change.timer ?? undefined)
    this.#changes.clear()
    this.services.clear()
    this.routing = { config: new Uint8Array(), revision: '', changeId: '' }
    this.bootId = randomBytes(8).toString('hex')
    await this.#server?.close()
    this.#server = null
  }

  /** Cuts it off the network; what it does by itself goes on. */
  async unplug(): Promise<void> {
    await this.#server?.close()
    this.#server = null
  }

  #admit({ peer, principal }: Caller): void {
    if (!this.#firstCallMs.has(peer)) this.#firstCallMs.set(peer, performance.now())
    if (!/^spiffe:\/\/[^/]+\/(controller|operator)\//.test(principal)) throw new OffboxError('ROLE_DENIED', principal)
  }

  #routes(): Route[] {
    const status = (name: string) => this.#status(name)
    return [
      unary(DeviceMethods.Info, async () => ({
        deviceId: this.deviceId,
        bootId: this.bootId,
        agentStarts: this.#agentStarts,
        certificateSerial: this.#serial,
      })),
      unary(DeviceMethods.Metrics, async () => ({ text: '# TYPE offbox_fake gauge\noffbox_fake 1\n# EOF\n', contentType: 'application/openmetrics-text' })),
      serverStream(DeviceMethods.Logs, async function* () {
        yield { sequence: 1, level: 'info', service: 'agent', message: 'serving' }
      }),
      unary(LifecycleMethods.List, async () => ({ services: [...this.services.keys()].sort().map(status) })),
      unary(LifecycleMethods.Get, async ({ service }) => this.#status(service)),
      clientStream(LifecycleMethods.Install, async (parts) => await this.#supply('Install', parts)),
      clientStream(LifecycleMethods.Upgrade, async (parts) => await this.#supply('Upgrade', parts)),
      unary(LifecycleMethods.Confirm, async ({ changeId }, { peer }) => this.#confirm(changeId, peer)),
      unary(LifecycleMethods.Revert, async ({ changeId, reason }) => {
        const change = this.#change(changeId)
        if (change.state === ChangeState.CONFIRMED) throw new OffboxError('STATE_REFUSED', 'already confirmed')
        this.#revert(change, reason, '')
        return message(change)
      }),
      unary(LifecycleMethods.Remove, async ({ service }) => {
        this.orders.push(`Remove ${service}`)
        this.services.delete(service)
        return { kind: 'remove', service, state: ChangeState.CONFIRMED }
      }),
      unary(RoutingMethods.GetConfig, async () => ({
        revision: this.routing.revision,
        provisional: this.routing.changeId !== '',
        changeId: this.routing.changeId,
      })),
      unary(RoutingMethods.SetConfig, async ({ config, confirmTimeoutMs }) => {
        const bytes = RoutingConfig.encode(config ?? {})
        if (Buffer.compare(bytes, this.routing.config) === 0) return { changeId: '', revision: this.routing.revision }
        const before = this.routing
        const change = this.#begin('config', 'routing', before.revision, randomBytes(4).toString('hex'), { bakeMs: 0, confirmTimeoutMs, reason: '' })
        change.undo = () => {
          this.routing = before
        }
        this.routing = { config: bytes, revision: change.to, changeId: change.id }
        this.orders.push('SetConfig')
        return { changeId: change.id, revision: change.to }
      }),
    ]
  }

  async #supply(how: 'Install' | 'Upgrade', parts: AsyncIterable<BundleUpload>): Promise<ChangeInit> {
    const { order, file } = await receive(parts)
    const { service, version } = order
    const manifest = JSON.parse(Buffer.from(splitBundle(file).manifest).toString()) as { name: string; version: string }
    if (manifest.name !== service || manifest.version !== version) throw new OffboxError('ARGUMENT_INVALID', 'the bundle is another one')
    this.orders.push(`${how} ${service} ${version} (${order.reason})`)
    const running = this.services.get(service)
    if (how === 'Install' && running) throw new OffboxError('SERVICE_EXISTS', service)
    if (how === 'Upgrade' && !running) throw new OffboxError('SERVICE_NOT_FOUND', service)
    if (running?.change) throw new OffboxError('SWAP_IN_PROGRESS', running.change.id)
    const behaviour = this.behaviours.get(`${service}@${version}`)
    if (behaviour?.kind === 'throwsAtStart') throw new OffboxError('SWAP_ROLLED_BACK', `${service} ${version} did not start: Error: no`)
    if (behaviour?.kind === 'requires' && !this.services.has(behaviour.service)) {
      throw new OffboxError('DEPENDENCY_UNSATISFIED', `${service} ${version} requires test.${behaviour.service} ^1.0.0; nothing here provides it`)
    }
    if (behaviour?.kind === 'slow') await new Promise((resolve) => setTimeout(resolve, behaviour.ms))
    const { bakeMs = 10_000, confirmTimeoutMs = 60_000 } = order as Partial<InstallOrder>
    const change = this.#begin(running ? 'upgrade' : 'install', service, running?.version ?? '', version, { bakeMs, confirmTimeoutMs, reason: order.reason })
    change.undo = () => {
      if (running) this.services.set(service, { ...running, change: null })
      else this.services.delete(service)
    }
    const health = behaviour?.kind === 'degraded' ? 2 : 1
    this.services.set(service, { version, previous: running?.version ?? '', health, reason: health === 1 ? '' : 'less than it should', change })
    if (behaviour?.kind === 'unhealthyAfter') setTimeout(() => this.#revert(change, `${version} turned unhealthy`, 'SWAP_ROLLED_BACK'), behaviour.ms).unref()
    if (behaviour?.kind === 'cutsConnection') {
      this.behaviours.delete(`${service}@${version}`)
      await this.#server?.close()
      await this.powerOn()
    }
    return message(change)
  }

  #begin(kind: string, service: string, from: string, to: string, input: { bakeMs: number; confirmTimeoutMs: number; reason: string }): Change {
    const id = `c-${String(++this.#changeNumber).padStart(10, '0')}`
    const change: Change = {
      id,
      kind,
      service,
      from,
      to,
      state: ChangeState.PROVISIONAL,
      error: '',
      liveAtMs: performance.now(),
      timer: null,
      undo: () => {},
      ...input,
    }
    change.timer = setTimeout(() => this.#revert(change, 'not confirmed in time', 'DEADLINE_PASSED'), input.confirmTimeoutMs ?? 60_000).unref()
    this.#changes.set(id, change)
    return change
  }

  #confirm(changeId: string, peer: string): ChangeInit {
    const change = this.#change(changeId)
    if (change.state === ChangeState.REVERTED) throw new OffboxError('STATE_REFUSED', 'reverted')
    if ((this.#firstCallMs.get(peer) ?? 0) < change.liveAtMs) throw new OffboxError('CONFIRM_NOT_FRESH', 'the connection is older than the change')
    if (performance.now() < change.liveAtMs + change.bakeMs) throw new OffboxError('STATE_REFUSED', 'still baking')
    clearTimeout(change.timer ?? undefined)
    change.state = ChangeState.CONFIRMED
    const running = this.services.get(change.service)
    if (running?.change === change) running.change = null
    if (this.routing.changeId === changeId) this.routing = { ...this.routing, changeId: '' }
    this.orders.push(`Confirm ${change.service} ${change.kind === 'config' ? 'config' : change.to}`)
    return message(change)
  }

  #revert(change: Change, reason: string, error: string): void {
    if (change.state !== ChangeState.PROVISIONAL) return
    clearTimeout(change.timer ?? undefined)
    Object.assign(change, { state: ChangeState.REVERTED, reason, error })
    change.undo()
  }

  #change(id: string): Change {
    const change = this.#changes.get(id)
    if (!change) throw new OffboxError('CHANGE_NOT_FOUND', id)
    return change
  }

  #status(service: string): ServiceStatusInit {
    const running = this.services.get(service)
    if (!running) throw new OffboxError('SERVICE_NOT_FOUND', service)
    const { version, previous: previousVersion, health: status, reason, change } = running
    const history = (running.failed ?? []).map((one) => ({ ...one, from: ServiceState.READY, to: ServiceState.FAILED, event: 'exitFinal', reason: 'crashed' }))
    return { service, version, previousVersion, state: ServiceState.READY, health: { status, reason }, change: change && message(change), history }
  }
}

function message({ timer: _, undo: __, liveAtMs: ___, bakeMs: ____, ...change }: Change): ChangeInit {
  return { ...change, heldMs: 3.5 }
}

async function receive(parts: AsyncIterable<BundleUpload>): Promise<{ order: InstallOrder; file: Uint8Array }> {
  let order: InstallOrder | null = null
  const chunks: Uint8Array[] = []
  for await (const part of parts) {
    if (part.order) order = part.order
    else chunks.push(part.chunk ?? new Uint8Array())
  }
  if (!order) throw new OffboxError('ARGUMENT_INVALID', 'no order')
  return { order, file: new Uint8Array(Buffer.concat(chunks)) }
}

async function freePort(): Promise<number> {
  const { createServer } = await import('node:net')
  return await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}
