/** What the driver asks of a running BIRD, in BIRD's words. Stateless; each function is one or two commands. */
import type { BirdProtocol, BirdRoute } from '../../core/capabilities.ts'
import { OffboxError } from '../../core/errors.ts'
import { birdCommand } from './bird-client.ts'
import { BIRD_CODE, failed, failureText, parseProtocols, parseStatus, type Reply, RouteReader } from './bird-protocol.ts'
import { explain } from './bird-text.ts'

export interface BirdSight {
  readonly version: string
  readonly routerId: string
  readonly protocols: BirdProtocol[]
}

export class BirdControl {
  readonly #socketPath: string

  constructor(socketPath: string) {
    this.#socketPath = socketPath
  }

  /** Has BIRD parse a file; nothing is applied. @throws CONFIG_INVALID, DRIVER_FAILED */
  async check(path: string): Promise<void> {
    expectSuccess(await this.#ask(`configure check "${path}"`))
  }

  /**
   * Applies a file. With `timerS`, BIRD goes back by itself after that many seconds; without, an armed timer is disarmed.
   * @throws CONFIG_INVALID, DRIVER_FAILED
   */
  async configure(path: string, timerS?: number): Promise<void> {
    const reply = await this.#ask(`configure "${path}"${timerS === undefined ? '' : ` timeout ${timerS}`}`)
    expectSuccess(reply)
    const { reconfigured, reconfigurationInProgress, reconfigurationQueued } = BIRD_CODE
    if (reply.code === reconfigured || reply.code === reconfigurationInProgress || reply.code === reconfigurationQueued) return
    throw new OffboxError('DRIVER_FAILED', `BIRD did not reconfigure: ${reply.lines.at(-1)?.text.trim() ?? ''} (code ${reply.code})`)
  }

  async protocols(): Promise<BirdSight> {
    const status = parseStatus(expectSuccess(await this.#ask('show status')))
    return { ...status, protocols: parseProtocols(expectSuccess(await this.#ask('show protocols all'))) }
  }

  /** At most `max` routes of master4; the rest of the table is not read. */
  async routes(max: number): Promise<BirdRoute[]> {
    if (max === 0) return []
    const reader = new RouteReader()
    // One more is begun before it stops, so that the next hop of the last one has been read.
    const onLine = (line: Reply['lines'][number]) => {
      reader.line(line)
      return reader.routes.length <= max
    }
    expectSuccess(await birdCommand(this.#socketPath, 'show route table master4', { onLine }))
    return reader.routes.slice(0, max)
  }

  /** Announces everything again on every session that is up. */
  async announceAgain(): Promise<void> {
    for (const { name, type, info } of (await this.protocols()).protocols) {
      // Names are BIRD's own answer, and its symbols: a quote or a line feed cannot be in them.
      if (type === 'BGP' && info === 'Established') expectSuccess(await this.#ask(`reload out ${name}`))
    }
  }

  async #ask(command: string): Promise<Reply> {
    return await birdCommand(this.#socketPath, command)
  }
}

function expectSuccess(reply: Reply): Reply {
  if (reply.code === BIRD_CODE.configurationError) throw new OffboxError('CONFIG_INVALID', `BIRD refuses the configuration: ${explain(failureText(reply))}`)
  if (failed(reply)) throw new OffboxError('DRIVER_FAILED', `BIRD refused: ${failureText(reply)}`)
  return reply
}
