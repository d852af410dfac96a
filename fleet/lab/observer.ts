/**
 * The lab's client, a process of its own inside the lab's network: it keeps calling the stateful method of telemetry on every
 * device, one call after the other, and looks at services and routes; once a second it prints what it saw as one JSON line.
 * SIGTERM: the calls in flight are finished, a last line with "final": true is printed, and it exits.
 *
 *   node fleet/lab/observer.ts --home DIR --pause MS sw1=10.77.0.11:9339 …
 */
import { join } from 'node:path'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { parseAnchors } from '../../core/anchors.ts'
import { messageOf } from '../../core/errors.ts'
import { deviceDnsName } from '../../core/x509.ts'
import { LifecycleMethods, ServiceState } from '../../proto/gen/lifecycle.ts'
import { RoutingMethods } from '../../proto/gen/routing.ts'
import { TelemetryMethods } from '../../proto/gen/telemetry.ts'
import { RpcClient, type RpcTarget } from '../rpc/client.ts'
import { newTally, recordAnswer, recordFailure, type Tally } from './tally.ts'

/** What one look at a device's services and routes saw; null values were not observed. */
export interface Look {
  /** READY services: name to version. */
  readonly services: Record<string, string>
  /** Established BGP sessions by name, with the routes imported over each. */
  readonly sessions: Record<string, number>
  readonly routesLearned: number
  /** Why a look failed; empty when it did not. */
  readonly error: string
}

export interface Observation {
  readonly final: boolean
  readonly devices: Record<string, Tally & { look: Look | null }>
}

const LOOK_EVERY_MS = 1_000
/** Far longer than any hold: three emulated machines on two busy cores may stand still for many seconds. */
const CALL_DEADLINE_MS = 60_000

class Watched {
  readonly tally = newTally()
  look: Look | null = null
  readonly #client: RpcClient
  readonly #pauseMs: number

  constructor(target: RpcTarget, pauseMs: number) {
    this.#client = new RpcClient(target)
    this.#pauseMs = pauseMs
  }

  /** Calls until `stop`; begins to count once telemetry has answered for the first time. */
  async callOn(stop: AbortSignal): Promise<void> {
    for (let callSequence = 1; !stop.aborted; callSequence++) {
      try {
        const answer = await this.#client.unary(TelemetryMethods.Get, { callSequence }, { deadlineMs: CALL_DEADLINE_MS })
        if (answer.callSequence !== callSequence) recordFailure(this.tally, `call ${callSequence} was answered as ${answer.callSequence}`)
        else recordAnswer(this.tally, answer)
      } catch (error) {
        if (this.tally.calls > 0) recordFailure(this.tally, messageOf(error))
        else await pause(500)
      }
      await pause(this.#pauseMs)
    }
  }

  async lookOn(stop: AbortSignal): Promise<void> {
    while (!stop.aborted) {
      this.look = await this.#lookOnce()
      await pause(LOOK_EVERY_MS)
    }
  }

  async #lookOnce(): Promise<Look> {
    const look: { -readonly [K in keyof Look]: Look[K] } = { services: {}, sessions: {}, routesLearned: 0, error: '' }
    try {
      const { services } = await this.#client.unary(LifecycleMethods.List, {}, { deadlineMs: CALL_DEADLINE_MS })
      for (const one of services) if (one.state === ServiceState.READY) look.services[one.service] = one.version
      if (!look.services['routing']) return look
      const state = await this.#client.unary(RoutingMethods.State, {}, { deadlineMs: CALL_DEADLINE_MS })
      look.routesLearned = state.routesLearned
      for (const one of state.protocols) if (one.type === 'BGP' && one.info === 'Established') look.sessions[one.name] = one.routesImported
    } catch (error) {
      look.error = messageOf(error)
    }
    return look
  }

  close(): void {
    this.#client.close()
  }
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { home: { type: 'string' }, pause: { type: 'string', default: '20' } } })
  const home = values.home ?? '.offbox'
  const anchors = parseAnchors(readFileSync(join(home, 'anchors.json'), 'utf8'))
  const identity = {
    keyPem: readFileSync(join(home, 'certs/operator.key'), 'utf8'),
    certificatePem: readFileSync(join(home, 'certs/operator.pem'), 'utf8'),
  }
  const watched = new Map(
    positionals.map((word) => {
      const [id = '', target = ''] = word.split('=')
      const to = { target, serverName: deviceDnsName(anchors.fleet, id), caPem: anchors.caPem, identity }
      return [id, new Watched(to, Number(values.pause))] as const
    }),
  )
  const stop = new AbortController()
  for (const event of ['SIGTERM', 'SIGINT'] as const) process.on(event, () => stop.abort())
  const print = (final: boolean) => {
    const devices = Object.fromEntries([...watched].map(([id, one]) => [id, { ...one.tally, look: one.look }]))
    process.stdout.write(`${JSON.stringify({ final, devices } satisfies Observation)}\n`)
  }
  const printing = setInterval(() => print(false), 1_000)
  await Promise.all([...watched.values()].flatMap((one) => [one.callOn(stop.signal), one.lookOn(stop.signal)]))
  clearInterval(printing)
  print(true)
  for (const one of watched.values()) one.close()
}

if (process.argv[1] === import.meta.filename) await main()
