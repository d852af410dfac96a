/** HTTP/1.1 with keep-alive, as a careful client does it. */
import { Agent, get } from 'node:http'

const TIMEOUT_MS = 10_000

/** How often one call may find its connection closed. */
const ATTEMPTS_MAX = 3

/**
 * Connections are kept and not used after their server said that it closes them. One that is closed in the very moment in which a request
 * goes out on it, before any of the answer, has not failed that request: a GET is sent again (RFC 9110, section 9.2.2), on a connection of
 * its own, since the other kept ones may be closing as well.
 */
export class HttpCaller {
  readonly #agent: Agent
  readonly #url: string

  constructor(port: number, connections: number) {
    this.#agent = new Agent({ keepAlive: true, maxSockets: connections })
    this.#url = `http://127.0.0.1:${port}/`
  }

  async call(): Promise<'answered' | 'again'> {
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt++) {
      if ((await this.#once(attempt === 1 ? this.#agent : false)) === 'answered') return attempt > 1 ? 'again' : 'answered'
    }
    throw new Error(`its connection was closed ${ATTEMPTS_MAX} times`)
  }

  close(): void {
    this.#agent.destroy()
  }

  /** `closed`: the connection went away before any of the answer. @throws whatever else went wrong */
  async #once(agent: Agent | false): Promise<'answered' | 'closed'> {
    return await new Promise((resolve, reject) => {
      const request = get(this.#url, { agent, timeout: TIMEOUT_MS }, (response) => {
        response.on('error', reject)
        response.on('end', () => (response.statusCode === 200 ? resolve('answered') : reject(new Error(`status ${response.statusCode}`))))
        response.resume()
      })
      request.on('timeout', () => request.destroy(new Error(`no answer in ${TIMEOUT_MS} ms`)))
      request.on('error', (error: NodeJS.ErrnoException) => {
        if (error.code === 'ECONNRESET' || error.code === 'EPIPE') resolve('closed')
        else reject(error)
      })
    })
  }
}
