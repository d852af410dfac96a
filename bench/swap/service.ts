/**
 * The service that the swap bench replaces: it counts calls by key, numbers every call that it accepts, and publishes an update twenty
 * times a second to every open stream. Its state: the counts, the number, and the newest update.
 */
import type { Call, Health, Served, Service, ServiceContext, Snapshot } from '../../services/sdk/service.ts'

const UPDATE_MS = 50
const text = new TextEncoder()
const decoder = new TextDecoder()

interface State {
  calls: number
  update: number
  counts: Record<string, number>
}

class Ledger implements Service {
  #state: State = { calls: 0, update: 0, counts: {} }
  #timer: ReturnType<typeof setInterval> | undefined
  readonly #waiting = new Set<() => void>()

  readonly methods: readonly Served[] = [
    { path: '/bench.Ledger/Add', kind: 'unary', handle: async (request) => this.#add(decoder.decode(request)) },
    { path: '/bench.Ledger/Updates', kind: 'serverStream', handle: (_, call) => this.#updates(call) },
  ]

  check(raw: unknown): unknown {
    return raw
  }

  async start(_: unknown, context: ServiceContext, inherited?: Snapshot): Promise<void> {
    if (inherited) this.#state = JSON.parse(decoder.decode(inherited.bytes))
    this.#timer = setInterval(() => this.#publish(), UPDATE_MS)
    context.signal.addEventListener('abort', () => clearInterval(this.#timer), { once: true })
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
  }

  async quiesce(): Promise<void> {
    clearInterval(this.#timer)
  }

  snapshot(schema: number): Snapshot {
    return { schema, bytes: text.encode(JSON.stringify(this.#state)) }
  }

  health(): Health {
    return { status: 'healthy', evidence: { calls: this.#state.calls } }
  }

  /** Answers "NUMBER COUNT": of all calls, and of the key's. */
  #add(key: string): Uint8Array {
    const count = (this.#state.counts[key] ?? 0) + 1
    this.#state.counts[key] = count
    return text.encode(`${++this.#state.calls} ${count}`)
  }

  #publish(): void {
    this.#state.update++
    for (const wake of this.#waiting) wake()
    this.#waiting.clear()
  }

  /** Every update from now on, or behind the one that the client has; each once, in order. */
  async *#updates(call: Call): AsyncGenerator<Uint8Array> {
    let sent = call.resumeAfter === undefined ? this.#state.update : Number(call.resumeAfter)
    call.begin(String(sent))
    while (!call.signal.aborted) {
      for (; sent < this.#state.update; sent++) {
        call.mark(String(sent + 1))
        yield text.encode(String(sent + 1))
      }
      await new Promise<void>((resolve) => {
        this.#waiting.add(resolve)
        call.signal.addEventListener('abort', () => resolve(), { once: true })
      })
    }
  }
}

export const create = () => new Ledger()
