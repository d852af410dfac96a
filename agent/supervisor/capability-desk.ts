/** Takes a service's capability requests to the drivers: only what the manifest names, only so many at once. */
import { codeOf, messageOf, type ErrorCode } from '../../core/errors.ts'
import type { Manifest } from '../../core/manifest.ts'
import type { FromWorker, ToWorker } from '../../services/sdk/wire.ts'
import type { SupervisorLimits } from './limits.ts'
import type { SupervisorHost } from './types.ts'

type Request = Extract<FromWorker, { type: 'capability' }>

export class CapabilityDesk {
  readonly #manifest: Manifest
  readonly #host: SupervisorHost
  readonly #limits: SupervisorLimits
  readonly #send: (message: ToWorker) => void
  #underWay = 0
  /** Answers to a worker that is gone must not reach its successor. */
  #epoch = 0

  constructor(manifest: Manifest, host: SupervisorHost, limits: SupervisorLimits, send: (message: ToWorker) => void) {
    this.#manifest = manifest
    this.#host = host
    this.#limits = limits
    this.#send = send
  }

  /** `suspended`: a version that does not serve must not act on the machine. */
  receive(request: Request, suspended: boolean): void {
    const refusal = this.#refusal(request, suspended)
    if (refusal) {
      this.#send({ type: 'capabilityResult', id: request.id, error: refusal })
      return
    }
    const epoch = this.#epoch
    this.#underWay++
    this.#carryOut(request).then((answer) => {
      if (epoch !== this.#epoch) return
      this.#underWay--
      this.#send(answer)
    })
  }

  close(): void {
    this.#epoch++
    this.#underWay = 0
  }

  #refusal({ capability, operation }: Request, suspended: boolean): { code: ErrorCode; message: string } | undefined {
    if (!(this.#manifest.capabilities as readonly string[]).includes(capability)) {
      return { code: 'CAPABILITY_DENIED', message: `the manifest does not name ${capability}` }
    }
    if (suspended) return { code: 'STATE_REFUSED', message: `${capability}.${operation}: this version does not serve` }
    if (this.#underWay < this.#limits.capabilitiesMax) return undefined
    return { code: 'LIMIT_REACHED', message: `${this.#underWay} capability operations are under way` }
  }

  async #carryOut({ id, capability, operation, input }: Request): Promise<ToWorker> {
    const { name } = this.#manifest
    try {
      const value = await this.#host.capability(name, capability, operation, input)
      // What cannot be cloned would fail the whole batch.
      return { type: 'capabilityResult', id, value: structuredClone(value) }
    } catch (error) {
      const code = codeOf(error)
      if (code === 'INTERNAL') this.#host.log(name, 'error', 'a capability failed', { capability, operation, error: messageOf(error) })
      return { type: 'capabilityResult', id, error: { code, message: messageOf(error).slice(0, 2_000) } }
    }
  }
}
