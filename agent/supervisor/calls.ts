/** One client call on its way: held, or open in a worker, at times moved from one version to the next. */
import type { Clock } from '../../core/clock.ts'
import type { ErrorCode } from '../../core/errors.ts'
import type { ManifestMethod } from '../../core/manifest.ts'
import { exactCopy, WIRE_LIMITS, type Fields, type ToWorker, type WireError } from '../../services/sdk/wire.ts'
import type { Account } from './account.ts'
import type { CallHandle, ClientCall } from './types.ts'

/** An instance as a call sees it. */
export interface Carrier {
  /** The number that `call` has in the worker from now on; it is opened there by a message with it. @throws LIMIT_REACHED */
  enter(call: Call): number
  send(message: ToWorker): void
  /** The call no longer waits for anything from the worker. */
  forget(id: number): void
}

export interface CallOwner {
  /** The call is complete enough to be opened or held. */
  deliver(call: Call): void
  /** The version that serves. */
  readonly current: { readonly account: Pick<Account, 'takesMessage'> }
  /** The call has ended while nobody carried it. */
  dropped(call: Call): void
}

const { streamWindowMessages } = WIRE_LIMITS
/** Messages taken from a client while its stream is held. */
const HELD_MESSAGES_MAX = 8

export class Call implements CallHandle {
  readonly method: ManifestMethod
  onCredit: () => void = () => {}
  /** Monotonic time since which it is held, for its owner. */
  cancelExpiry: (() => void) | undefined
  readonly #client: ClientCall
  readonly #owner: CallOwner
  readonly #clock: Clock
  #carrier: Carrier | undefined
  #id = 0
  #ended = false
  #request: Uint8Array | undefined
  #waiting: Uint8Array[] = []
  #halfClosed = false
  /** Messages that the service takes before it grants more. */
  #toServiceLeft: number = streamWindowMessages
  /** Messages that the worker may send; and those the client took since the last grant. */
  #fromServiceLeft: number = streamWindowMessages
  #taken = 0
  #clientFull = false
  #cursor: string | undefined

  constructor(client: ClientCall, method: ManifestMethod, owner: CallOwner, clock: Clock) {
    this.#clock = clock
    this.#client = client
    this.method = method
    this.#owner = owner
  }

  get ended(): boolean {
    return this.#ended
  }

  /** Made by another service for a call that `service` is finishing: held, it would keep a swap waiting for itself. */
  comesBackTo(service: string): boolean {
    return this.#client.chain?.includes(service) === true
  }

  get client(): ClientCall {
    return this.#client
  }

  /** Whether a worker has it. */
  get carried(): boolean {
    return this.#carrier !== undefined
  }

  get heldBytes(): number {
    return this.#waiting.reduce((sum, bytes) => sum + bytes.byteLength, this.#request?.byteLength ?? 0)
  }

  /** Takes exactly one request, which is known before it is opened. */
  get takesOne(): boolean {
    return this.method.kind === 'unary' || this.method.kind === 'serverStream'
  }

  // From the client.

  message(bytes: Uint8Array): boolean {
    if (this.#ended) return true
    if (!this.#owner.current.account.takesMessage(this.#clock.monotonicMs())) {
      this.fail('RATE_EXCEEDED', 'this service gets more messages a second than its manifest allows')
      return true
    }
    if (this.takesOne) {
      if (this.#request) return true
      this.#request = bytes
      this.#owner.deliver(this)
      // Held: a view would hold all of what it was received in.
      if (this.#request) this.#request = exactCopy(bytes)
      return true
    }
    if (!this.#carrier) {
      this.#waiting.push(exactCopy(bytes))
      return this.#waiting.length < HELD_MESSAGES_MAX
    }
    this.#sendData(bytes)
    return this.#toServiceLeft > 0
  }

  halfClose(): void {
    this.#halfClosed = true
    if (!this.takesOne) this.#carrier?.send({ type: 'halfClose', call: this.#id })
  }

  cancel(): void {
    if (this.#ended) return
    this.#carrier?.send({ type: 'cancel', call: this.#id })
    this.#finish()
  }

  drained(): void {
    this.#clientFull = false
    this.#grant()
  }

  // From its owner.

  /** @throws LIMIT_REACHED */
  openOn(carrier: Carrier): void {
    if (this.#ended) return
    const { method, principal, onBehalfOf, deadlineMs, metadata } = this.#client
    const cursor = this.#cursor
    const call = carrier.enter(this)
    this.#id = call
    this.#toServiceLeft = this.#fromServiceLeft = streamWindowMessages
    this.#taken = 0
    // One that may be opened again keeps its request.
    const bytes = this.#request && this.method.resumable ? exactCopy(this.#request) : this.#request
    const open = bytes
      ? ({ type: 'open', call, method, principal, deadlineMs, metadata, bytes } as const)
      : ({ type: 'open', call, method, principal, deadlineMs, metadata } as const)
    if (onBehalfOf === undefined && cursor === undefined) carrier.send(open)
    else carrier.send({ ...open, ...(onBehalfOf === undefined ? {} : { onBehalfOf }), ...(cursor === undefined ? {} : { cursor }) })
    this.#carrier = carrier
    if (!this.method.resumable) this.#request = undefined
    if (this.takesOne) return
    for (const bytes of this.#waiting.splice(0)) this.#sendData(bytes)
    if (this.#halfClosed) carrier.send({ type: 'halfClose', call: this.#id })
    else this.onCredit()
  }

  /** Takes a stream off its worker, to be opened anew. It is off (not `carried`) when the worker has answered. */
  detach(): void {
    this.#carrier?.send({ type: 'cancel', call: this.#id })
  }

  /** Ends it with an error, wherever it is. */
  fail(code: ErrorCode, message: string): void {
    if (this.#ended) return
    this.#carrier?.send({ type: 'cancel', call: this.#id })
    this.#finish({ code, message })
  }

  // From the worker.

  /** False when the worker sends more than it was granted. */
  onData(bytes: Uint8Array): boolean {
    if (this.#fromServiceLeft-- <= 0 || this.method.kind === 'unary' || this.method.kind === 'clientStream') return false
    this.#taken++
    if (!this.#client.send(bytes)) this.#clientFull = true
    this.#grant()
    return true
  }

  onMetadata(fields: Fields): void {
    this.#client.sendMetadata?.(fields)
  }

  onEnd(bytes: Uint8Array | undefined, error: WireError | undefined, trailers?: Fields): void {
    const givesOne = this.method.kind === 'unary' || this.method.kind === 'clientStream'
    if (!error && givesOne && !bytes) this.#finish({ code: 'INTERNAL', message: 'the service ended the call without an answer' }, false)
    else {
      if (!error && bytes) this.#client.send(bytes)
      this.#finish(error, false, trailers)
    }
  }

  /** @param cursor where the stream stands, in the words of its service */
  onCancelled(cursor?: string): void {
    this.#cursor = cursor ?? this.#cursor
    this.#carrier?.forget(this.#id)
    this.#carrier = undefined
  }

  onCreditFromWorker(count: number): void {
    this.#toServiceLeft += count
    if (this.#toServiceLeft > 0 && !this.#ended) this.onCredit()
  }

  /** The worker is gone. */
  onLost(reason: string): void {
    this.#finish({ code: 'SERVICE_CRASHED', message: reason })
  }

  #sendData(bytes: Uint8Array): void {
    this.#toServiceLeft--
    this.#carrier?.send({ type: 'data', call: this.#id, bytes })
  }

  #grant(): void {
    if (this.#clientFull || this.#taken < streamWindowMessages / 2 || !this.#carrier) return
    this.#carrier.send({ type: 'credit', call: this.#id, count: this.#taken })
    this.#fromServiceLeft += this.#taken
    this.#taken = 0
  }

  /** `error` undefined: OK, or nobody is there to be told. */
  #finish(error?: WireError, cancelled = error === undefined, trailers?: Fields): void {
    if (this.#ended) return
    this.#ended = true
    this.cancelExpiry?.()
    const carrier = this.#carrier
    this.#carrier = undefined
    if (carrier) carrier.forget(this.#id)
    else this.#owner.dropped(this)
    this.#request = undefined
    this.#waiting = []
    if (!cancelled) this.#client.end(error, trailers)
  }
}
