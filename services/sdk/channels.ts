/**
 * The worker's side of calls that the service itself makes: each is a channel to the agent, which finds the callee, and holds, ends and
 * counts the call. A call made within a handler is known to be for the call that is being served, whatever the handler awaits.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { OffboxError, type ErrorCode } from '../../core/errors.ts'
import type { Method, MethodKind } from '../../proto/codec.ts'
import { Incoming, Outgoing, type Send, type Serving, type Within } from './served-calls.ts'
import type { CallOptions, ServiceClient } from './service.ts'
import { exactCopy, WIRE_LIMITS, type ToWorker } from './wire.ts'

type ForChannel = Extract<ToWorker, { channel: number }>

export class Channels {
  readonly #send: Send
  readonly #serving = new AsyncLocalStorage<Serving>()
  readonly #open = new Map<number, Channel>()
  readonly #idleWaiters = new Set<() => void>()
  #next = 1
  #refusal: (() => OffboxError) | undefined

  constructor(send: Send) {
    this.#send = send
    // The service holds these; nobody else's calls must change with what it does to them.
    for (const lent of [this.client, ...Object.values(this.client), read.prototype]) Object.freeze(lent)
  }

  /** Runs a handler: channels opened in there, at whatever depth, are made for the call that it serves. */
  readonly within: Within = (serving, run) => this.#serving.run(serving, run)

  readonly client: ServiceClient = {
    unary: async <Req, Res>(method: Method<Req, Res>, request: Req, options?: CallOptions) =>
      method.response.decode(await this.#begin(method.path, 'unary', options, method.request.encode(request)).answer),
    serverStream: <Req, Res>(method: Method<Req, Res>, request: Req, options?: CallOptions) =>
      read(method, () => this.#begin(method.path, 'serverStream', options, method.request.encode(request))),
    clientStream: async <Req, Res>(method: Method<Req, Res>, requests: AsyncIterable<Req> | Iterable<Req>, options?: CallOptions) => {
      const channel = this.#begin(method.path, 'clientStream', options)
      void channel.pump(requests, (item) => method.request.encode(item))
      return method.response.decode(await channel.answer)
    },
    bidi: <Req, Res>(method: Method<Req, Res>, requests: AsyncIterable<Req> | Iterable<Req>, options?: CallOptions) =>
      read(method, () => {
        const channel = this.#begin(method.path, 'bidi', options)
        void channel.pump(requests, (item) => method.request.encode(item))
        return channel
      }),
  }

  receive(message: ForChannel): void {
    const channel = this.#open.get(message.channel)
    if (message.type === 'channelData') channel?.replies.push(message.bytes)
    else if (message.type === 'channelCredit') channel?.requests.grant(message.count)
    else channel?.end(message.bytes, message.error && new OffboxError(message.error.code, message.error.message))
  }

  /** Lets calls that have one answer finish, for so long; then ends what is open with SWAP_IN_PROGRESS and opens nothing more. */
  async finish(timeoutMs: number): Promise<void> {
    if (this.#awaited()) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs)
        this.#idleWaiters.add(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
    this.close('SWAP_IN_PROGRESS', 'this version of the service hands over')
  }

  /** Ends what is open, and refuses more until `reopen`. */
  close(code: ErrorCode, message: string): void {
    this.#refusal = () => new OffboxError(code, message)
    for (const channel of [...this.#open.values()]) channel.cancel(this.#refusal())
  }

  reopen(): void {
    this.#refusal = undefined
  }

  #awaited(): boolean {
    for (const { kind } of this.#open.values()) if (kind === 'unary' || kind === 'clientStream') return true
    return false
  }

  #begin(method: string, kind: MethodKind, options: CallOptions = {}, request?: Uint8Array): Channel {
    if (this.#refusal) throw this.#refusal()
    const serving = this.#serving.getStore()
    if (serving?.aborted) throw new OffboxError('DEADLINE_PASSED', 'the call that this one is made for was ended')
    if (options.signal?.aborted) throw new OffboxError('DEADLINE_PASSED', 'the call was cancelled before it began')
    const { timeoutMs, metadata = {} } = options
    const bytes = request && exactCopy(request)
    if (bytes && bytes.byteLength > WIRE_LIMITS.messageBytesMax) throw tooLarge(bytes)
    const about = {
      method: String(method),
      kind,
      metadata: plainMetadata(metadata),
      ...(timeoutMs === undefined ? {} : { timeoutMs: wholeMs(timeoutMs) }),
      ...(serving && !serving.ended ? { under: serving.id } : {}),
    }
    // From here on nothing of the service's runs: a channel that is open has been sent.
    const id = this.#next++
    const channel = new Channel(id, kind, this.#send, () => this.#ended(id))
    this.#open.set(id, channel)
    if (bytes) this.#send({ type: 'channelOpen', channel: id, ...about, bytes })
    else this.#send({ type: 'channelOpen', channel: id, ...about })
    if (options.signal) channel.endWith(options.signal)
    return channel
  }

  #ended(id: number): void {
    this.#open.delete(id)
    if (this.#idleWaiters.size === 0 || this.#awaited()) return
    for (const wake of this.#idleWaiters) wake()
    this.#idleWaiters.clear()
  }
}

class Channel {
  readonly kind: MethodKind
  /** Of a method that answers once. */
  readonly answer: Promise<Uint8Array>
  readonly replies: Incoming
  readonly requests = new Outgoing()
  error: unknown
  readonly #id: number
  readonly #send: Send
  readonly #ended: () => void
  #over = false
  #resolve: (bytes: Uint8Array) => void = () => {}
  #reject: (error: unknown) => void = () => {}
  #unlisten = () => {}

  constructor(id: number, kind: MethodKind, send: Send, ended: () => void) {
    this.#id = id
    this.kind = kind
    this.#send = send
    this.#ended = ended
    this.replies = new Incoming((count) => {
      if (!this.#over) send({ type: 'channelCredit', channel: id, count })
    })
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // A stream's reader learns of its error elsewhere.
    this.answer.catch(() => {})
  }

  endWith(signal: AbortSignal): void {
    const abort = () => this.cancel(new OffboxError('DEADLINE_PASSED', 'the call was cancelled'))
    signal.addEventListener('abort', abort, { once: true })
    this.#unlisten = () => signal.removeEventListener('abort', abort)
  }

  end(bytes: Uint8Array | undefined, error?: unknown): void {
    if (this.#over) return
    this.#over = true
    this.error = error
    this.#unlisten()
    this.replies.close()
    this.requests.grant(1)
    if (error) this.#reject(error)
    else this.#resolve(bytes ?? new Uint8Array(0))
    this.#ended()
  }

  /** Nobody here waits for it any longer. */
  cancel(reason: unknown): void {
    if (this.#over) return
    this.#send({ type: 'channelCancel', channel: this.#id })
    this.end(undefined, reason)
  }

  /** Sends what the service has to say, as fast as the callee takes it. Never rejects: a failure ends the channel with it. */
  async pump<Req>(items: AsyncIterable<Req> | Iterable<Req>, encode: (item: Req) => Uint8Array): Promise<void> {
    try {
      for await (const item of items) {
        const bytes = exactCopy(encode(item))
        if (bytes.byteLength > WIRE_LIMITS.messageBytesMax) throw tooLarge(bytes)
        await this.requests.take()
        if (this.#over) return
        this.#send({ type: 'channelData', channel: this.#id, bytes })
      }
      if (!this.#over) this.#send({ type: 'channelHalfClose', channel: this.#id })
    } catch (error) {
      this.cancel(error)
    }
  }
}

async function* read<Req, Res>(method: Method<Req, Res>, open: () => Channel): AsyncGenerator<ReturnType<Method<Req, Res>['response']['decode']>> {
  const channel = open()
  try {
    for await (const bytes of channel.replies) yield method.response.decode(bytes)
    if (channel.error) throw channel.error
  } finally {
    channel.cancel(new OffboxError('DEADLINE_PASSED', 'the caller has left its loop'))
  }
}

function wholeMs(timeoutMs: number): number {
  if (!(timeoutMs >= 0)) throw new OffboxError('ARGUMENT_INVALID', 'timeoutMs must be a number of milliseconds')
  return Math.min(Math.ceil(timeoutMs), Number.MAX_SAFE_INTEGER)
}

function plainMetadata(metadata: Readonly<Record<string, string>>): Record<string, string> {
  const entries = Object.entries(metadata).map(([key, value]) => [key, String(value)] as const)
  const { metadataKeysMax, metadataCharsMax } = WIRE_LIMITS
  const bad = entries.find(([key, value]) => !/^[0-9a-z_.-]{1,64}$/.test(key) || key.startsWith('offbox-') || value.length > metadataCharsMax)
  if (bad) throw new OffboxError('ARGUMENT_INVALID', `metadata ${JSON.stringify(bad[0].slice(0, 64))} cannot be sent`)
  if (entries.length > metadataKeysMax) throw new OffboxError('LIMIT_REACHED', `more than ${metadataKeysMax} keys of metadata`)
  return Object.fromEntries(entries)
}

function tooLarge(bytes: Uint8Array): OffboxError {
  return new OffboxError('LIMIT_REACHED', `a message of ${bytes.byteLength} bytes, more than ${WIRE_LIMITS.messageBytesMax}`)
}
