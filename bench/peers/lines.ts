/** One line out, one line back, over a few TCP connections that are kept; each has one call at a time. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface, type Interface } from 'node:readline'

const TIMEOUT_MS = 10_000

interface Line {
  readonly socket: Socket
  readonly lines: Interface
}

export class LineCaller {
  readonly #all: readonly Line[]
  readonly #free: Line[]
  readonly #waiting: ((line: Line) => void)[] = []

  private constructor(all: readonly Line[]) {
    this.#all = all
    this.#free = [...all]
  }

  static async open(port: number, connections: number): Promise<LineCaller> {
    const open = async (): Promise<Line> => {
      const socket = connect({ port, host: '127.0.0.1', noDelay: true })
      await once(socket, 'connect')
      // What it means for a call is told by its close.
      socket.on('error', () => {})
      return { socket, lines: createInterface({ input: socket }) }
    }
    return new LineCaller(await Promise.all(Array.from({ length: connections }, open)))
  }

  async call(): Promise<'answered'> {
    const line = this.#free.pop() ?? (await new Promise<Line>((resolve) => this.#waiting.push(resolve)))
    try {
      await new Promise<void>((resolve, reject) => {
        // A close is told once: one that has closed before says so here.
        const closed = () => reject(new Error('the connection was closed'))
        if (line.socket.destroyed) return closed()
        const late = setTimeout(() => line.socket.destroy(), TIMEOUT_MS)
        line.socket.once('close', closed)
        line.lines.once('line', () => {
          clearTimeout(late)
          line.socket.off('close', closed)
          resolve()
        })
        line.socket.write('next\n')
      })
      return 'answered'
    } finally {
      const next = this.#waiting.shift()
      if (next) next(line)
      else this.#free.push(line)
    }
  }

  close(): void {
    for (const { socket, lines } of this.#all) {
      lines.close()
      socket.destroy()
    }
  }
}
