/** The `routing` service: a typed configuration in, BIRD's configuration out, and what became of it. It keeps no state of its own. */
import {
  RoutingConfig,
  RoutingMethods,
  type GetRoutingConfigResponseInit,
  type RoutingStateInit,
  type SetRoutingConfigRequest,
  type SetRoutingConfigResponseInit,
} from '../../proto/gen/routing.ts'
import { type BirdCapability, type Call, OffboxError, type Service, type ServiceContext, unary } from '../sdk/service.ts'
import { countSessions, judge, type Sight } from './health.ts'
import { render } from './render.ts'

const watchIntervalMs = 2_000
const confirmTimeoutMinMs = 5_000
const confirmTimeoutMaxMs = 3_600_000
const confirmTimeoutDefaultMs = 60_000
const routesMax = 100_000
const commentCharsMax = 1024

export const create = (): Service<null> => new Routing()

class Routing implements Service<null> {
  readonly methods = [
    unary(RoutingMethods.SetConfig, async (request, call) => await this.#setConfig(request, call)),
    unary(RoutingMethods.GetConfig, async () => await this.#getConfig()),
    unary(RoutingMethods.State, async ({ routesMax: max }) => await this.#state(max)),
    unary(RoutingMethods.Drain, async ({ reason }, call) => await this.#setDrained(true, reason, call)),
    unary(RoutingMethods.Undrain, async (_, call) => await this.#setDrained(false, '', call)),
  ]
  #ctx: ServiceContext | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  #sight: Sight = { protocols: [], failure: 'not looked yet', failures: 1 }

  check(): null {
    return null
  }

  async start(_: null, ctx: ServiceContext): Promise<void> {
    this.#ctx = ctx
    await this.#look()
    this.#watch()
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer)
    this.#ctx = undefined
  }

  health(): ReturnType<Service['health']> {
    return judge(this.#sight)
  }

  /** This version's text is one that BIRD takes, and BIRD is there. */
  async selfTest(): Promise<void> {
    const sample = RoutingConfig.encode({
      routerId: '192.0.2.1',
      localAs: 64_496,
      neighbors: [{ name: 'sample', address: '192.0.2.2', peerAs: 64_497 }],
      staticRoutes: [{ prefix: '198.51.100.0/24', blackhole: true }],
    })
    await this.#bird().check({ text: render(RoutingConfig.decode(sample)) })
  }

  async #setConfig(request: SetRoutingConfigRequest, { principal }: Call): Promise<SetRoutingConfigResponseInit> {
    const { config, dryRun, comment } = request
    if (!config) throw new OffboxError('ARGUMENT_INVALID', 'config is missing')
    const confirmTimeoutMs = request.confirmTimeoutMs ?? confirmTimeoutDefaultMs
    if (confirmTimeoutMs < confirmTimeoutMinMs || confirmTimeoutMs > confirmTimeoutMaxMs) {
      throw new OffboxError('ARGUMENT_INVALID', `confirm_timeout_ms must be ${confirmTimeoutMinMs} to ${confirmTimeoutMaxMs}`)
    }
    if (comment.length > commentCharsMax) throw new OffboxError('ARGUMENT_INVALID', `comment must have at most ${commentCharsMax} characters`)
    const rendered = render(config)
    if (dryRun) return { changeId: '', revision: (await this.#bird().check({ text: rendered })).revision, rendered }
    const live = await this.#bird().current()
    if (live.provisional) throw new OffboxError('SWAP_IN_PROGRESS', `change ${live.changeId} is not confirmed yet`)
    if (live.text === rendered) return { changeId: '', revision: live.revision, rendered }
    const document = RoutingConfig.encode(config)
    const { changeId, revision } = await this.#bird().apply({ text: rendered, document, confirmTimeoutMs, comment, author: principal })
    this.#context().log('info', 'configuration applied, waiting for its confirm', { changeId, revision, confirmTimeoutMs })
    return { changeId, revision, rendered }
  }

  async #getConfig(): Promise<GetRoutingConfigResponseInit> {
    const { text, document, revision, provisional, changeId } = await this.#bird().current()
    return { config: revision === '' ? null : RoutingConfig.decode(document), revision, provisional, changeId, rendered: text }
  }

  async #state(max: number): Promise<RoutingStateInit> {
    if (max > routesMax) throw new OffboxError('ARGUMENT_INVALID', `routes_max must be at most ${routesMax}`)
    const bird = this.#bird()
    const [{ version, routerId, protocols }, routes, drained] = await Promise.all([bird.protocols(), max > 0 ? bird.routes({ max }) : [], bird.drained()])
    const { sessionsEstablished, routesLearned } = countSessions(protocols)
    return {
      birdVersion: version,
      routerId,
      protocols: protocols.map((one) => ({ ...one, info: one.type === 'BGP' ? one.info : '' })),
      sessionsEstablished,
      routesLearned,
      routes,
      drained,
    }
  }

  async #setDrained(drained: boolean, reason: string, { principal }: Call): Promise<{ drained: boolean }> {
    if (reason.length > commentCharsMax) throw new OffboxError('ARGUMENT_INVALID', `reason must have at most ${commentCharsMax} characters`)
    await this.#bird().setDrained({ drained })
    this.#context().log('info', drained ? 'drained' : 'undrained', { principal, reason })
    return { drained: await this.#bird().drained() }
  }

  #watch(): void {
    this.#timer = setTimeout(() => {
      void this.#look().then(() => {
        if (this.#ctx) this.#watch()
      })
    }, watchIntervalMs)
  }

  async #look(): Promise<void> {
    try {
      this.#sight = { protocols: (await this.#bird().protocols()).protocols, failure: '', failures: 0 }
    } catch (error) {
      const failure = error instanceof Error ? error.message : String(error)
      this.#sight = { ...this.#sight, failure, failures: this.#sight.failures + 1 }
    }
  }

  #context(): ServiceContext {
    if (!this.#ctx) throw new OffboxError('SERVICE_DOWN', 'routing is not started')
    return this.#ctx
  }

  #bird(): BirdCapability {
    const { bird } = this.#context().capabilities
    if (!bird) throw new OffboxError('CAPABILITY_DENIED', 'routing needs the capability bird')
    return bird
  }
}
