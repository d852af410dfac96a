/** The agent's process and machine as attempts find them, and how they were changed. */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { url as inspectorUrl } from 'node:inspector'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { Script } from 'node:vm'
import { BroadcastChannel } from 'node:worker_threads'
import type { Target } from './attempt.ts'

/** Given to nobody: whoever shows it has read what it should not. */
const SECRET_VARIABLE = 'OFFBOX_ESCAPE_SECRET'

export class World {
  readonly token = randomUUID()
  readonly target: Target
  readonly #server: Server
  readonly #channel = new BroadcastChannel('escape')
  #events: string[] = []
  #signal = () => this.#events.push('a signal reached the agent')
  #message = () => this.#events.push('a message reached the main thread')

  private constructor(server: Server, port: number) {
    this.#server = server
    const directory = mkdtempSync(join(tmpdir(), 'offbox-escape-'))
    this.target = { agentPid: process.pid, directory, secretFile: join(directory, 'secret'), port }
    writeFileSync(this.target.secretFile, this.token)
    process.env[SECRET_VARIABLE] = this.token
    server.on('connection', (socket) => {
      this.#events.push('a connection was made')
      socket.destroy()
    })
    process.on('SIGUSR2', this.#signal)
    process.on('workerMessage', this.#message)
    this.#channel.onmessage = () => this.#events.push('a message was broadcast')
    this.#channel.unref()
  }

  static async open(): Promise<World> {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return new World(server, (server.address() as { port: number }).port)
  }

  /** What was changed or seen since it was last asked. `told`: everything that the service said. */
  harm(told: readonly string[]): string[] {
    const harm = this.#events
    this.#events = []
    for (const file of readdirSync(this.target.directory)) {
      if (file === 'secret') continue
      harm.push(`there is a file ${file}`)
      rmSync(join(this.target.directory, file), { recursive: true })
    }
    if (readFileSync(this.target.secretFile, 'utf8') !== this.token) harm.push('the secret was overwritten')
    if (told.some((line) => line.includes(this.token))) harm.push('a secret was seen')
    if (told.some((line) => line.includes('forged'))) harm.push('a message was forged')
    if (inspectorUrl() !== undefined) harm.push('the inspector listens')
    if (nativesAllowed()) {
      harm.push("flags of the agent's V8 were changed")
      setFlagsFromString('--no-allow-natives-syntax')
    }
    if (Object.hasOwn(Object.prototype, 'polluted')) harm.push("the agent's prototypes were changed")
    return harm
  }

  close(): void {
    process.off('SIGUSR2', this.#signal)
    process.off('workerMessage', this.#message)
    delete process.env[SECRET_VARIABLE]
    this.#channel.close()
    this.#server.close()
    rmSync(this.target.directory, { recursive: true, force: true })
  }
}

/** Whether V8 compiles its internal syntax, which only a flag allows. */
function nativesAllowed(): boolean {
  try {
    new Script(`%IsSmi(1) // ${randomUUID()}`)
    return true
  } catch {
    return false
  }
}
