/** One call of a service to another, between the caller's worker and the call that the supervisor carries to the callee. */
import type { Clock } from '../../core/clock.ts'
import { codeOf, type ErrorCode, messageOf } from '../../core/errors.ts'
import { exactCopy, WIRE_LIMITS, type WireError } from '../../services/sdk/wire.ts'
import type { ChannelOpen, Outcome } from './channels.ts'
import type { CallHandle, ClientCall } from './types.ts'

const { streamWindowMessages } = WIRE_LIMITS

/** The caller's worker. */
export interface ChannelEnd {
  data(bytes: Uint8Array): void
  credit(count: number): void
  /** Once, the last. */
  end(bytes: Uint8Array | undefined, error: WireError | undefined): void
}

export class Channel {
  about: Omit<ClientCall, 'send' | 'end'> | undefined
  readonly #request: ChannelOpen
  readonly #clock: Clock
  readonly #to: ChannelEnd
  #handle: CallHandle | undefined
  #finished: (outcome: Outcome, message: string) => void = () => {}
  #answered: () => void = () => {}
  #over = false
  #answer: Uint8Array | undefined
  #cancelTimer = () => {}
  /** From the caller, before the call has begun. */
  #waiting: Uint8Array[] = []
  #halfClosed = false
  /** Messages that the caller may send; and those the callee took since the last grant. */
  #fromCallerLeft: number = streamWindowMessages
  #taken = 0
  #calleeFull = false
  /** Messages that the caller takes before it grants more. */
  #toCallerLeft: number = streamWindowMessages

  constructor(request: ChannelOpen, clock: Clock, to: ChannelEnd) {
    this.#request = request
    this.#clock = clock
    this.#to = to
  }

  /** From now on `told.ended` is told how it ends, once, and `told.answered` of the first message of a stream; it ends when its time has passed. */
  admitted(
    about: Omit<ClientCall, 'send' | 'end'>,
    allowedMs: number | undefined,
    told: { answered: () => void; ended: (outcome: Outcome, message: string) => void },
  ): void {
    this.about = about
    this.#finished = told.ended
    this.#answered = told.answered
    if (allowedMs === undefined) return
    this.#cancelTimer = this.#clock.after(allowedMs, () => this.fail('DEADLINE_PASSED', `not answered within ${Math.round(allowedMs)} ms`))
  }

  /** Hands it to the callee, with what the caller has said so far. */
  connect(route: (client: ClientCall) => CallHandle): void {
    const { about } = this
    if (!about || this.#over) return
    try {
      const handle = route({ ...about, send: (bytes) => this.#send(bytes), end: (error) => this.#end(error) })
      this.#handle = handle
      // It may have ended within `route`.
      if (this.#over) return
      handle.onCredit = () => {
        this.#calleeFull = false
        this.#grant()
      }
      const takesOne = this.#request.kind === 'unary' || this.#request.kind === 'serverStream'
      if (takesOne) handle.message(this.#request.bytes ?? new Uint8Array(0))
      for (const bytes of this.#waiting.splice(0)) this.#pass(bytes)
      if (takesOne || this.#halfClosed) handle.halfClose()
    } catch (error) {
      this.fail(codeOf(error), messageOf(error))
    }
  }

  // From the caller.

  /** False when it sends more than it was granted. */
  data(bytes: Uint8Array): boolean {
    if (this.#over) return true
    if (this.#fromCallerLeft-- <= 0) return false
    if (this.#handle) this.#pass(bytes)
    else this.#waiting.push(bytes)
    return true
  }

  halfClose(): void {
    this.#halfClosed = true
    this.#handle?.halfClose()
  }

  credit(count: number): void {
    const full = this.#toCallerLeft <= 0
    this.#toCallerLeft += count
    if (full && this.#toCallerLeft > 0) this.#handle?.drained()
  }

  /** The caller wants no more of it, or is gone: it is not told. */
  cancel(): void {
    if (!this.#over) this.#finish('CANCELLED', '')
  }

  /** Ends it for both. */
  fail(code: ErrorCode, message: string): void {
    if (this.#over) return
    this.#finish(code, message)
    this.#to.end(undefined, { code, message: message.slice(0, WIRE_LIMITS.errorCharsMax) })
  }

  #pass(bytes: Uint8Array): void {
    this.#taken++
    if (this.#handle?.message(bytes) === false) this.#calleeFull = true
    this.#grant()
  }

  #grant(): void {
    if (this.#over || this.#calleeFull || this.#taken < streamWindowMessages / 2) return
    this.#to.credit(this.#taken)
    this.#fromCallerLeft += this.#taken
    this.#taken = 0
  }

  // From the callee.

  #send(bytes: Uint8Array): boolean {
    if (this.#over) return true
    // A copy of our own: what came from one worker is not passed on to another as it is.
    const own = exactCopy(bytes)
    if (this.#request.kind === 'unary' || this.#request.kind === 'clientStream') {
      this.#answer = own
      return true
    }
    this.#answered()
    this.#answered = () => {}
    this.#to.data(own)
    return --this.#toCallerLeft > 0
  }

  #end(error: WireError | undefined): void {
    if (this.#over) return
    this.#finish(error?.code ?? 'OK', error?.message ?? '')
    this.#to.end(this.#answer, error)
  }

  #finish(outcome: Outcome, message: string): void {
    this.#over = true
    this.#cancelTimer()
    this.#waiting = []
    this.#finished(outcome, message)
    // Also what ended by itself: a cancellation of what has ended does nothing.
    this.#handle?.cancel()
  }
}
