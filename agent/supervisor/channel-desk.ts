/** Takes the calls that one version of a service makes to the channels, and ends those whose reason has ended. */
import type { Manifest } from '../../core/manifest.ts'
import type { FromWorker, ToWorker } from '../../services/sdk/wire.ts'
import type { Channel } from './channel.ts'
import { CHANNEL_LIMITS, type ChannelOpen, type Channels } from './channels.ts'
import type { ClientCall } from './types.ts'

export type ForChannel = Extract<FromWorker, { channel: number }>

export class ChannelDesk {
  readonly #manifest: Manifest
  readonly #channels: Channels
  readonly #send: (message: ToWorker) => void
  /** The client's call with this number, while it is served here. */
  readonly #served: (call: number) => ClientCall | undefined
  readonly #open = new Map<number, { readonly channel: Channel; readonly under: number | undefined }>()
  /** Channels by the call they are made for. */
  readonly #under = new Map<number, Set<number>>()

  constructor(manifest: Manifest, channels: Channels, send: (message: ToWorker) => void, served: (call: number) => ClientCall | undefined) {
    this.#manifest = manifest
    this.#channels = channels
    this.#send = send
    this.#served = served
  }

  /** False: the worker broke the protocol. `suspended`: a version that does not serve must not have others act for it. */
  receive(message: ForChannel, suspended: boolean): boolean {
    if (message.type === 'channelOpen') return this.#begin(message, suspended)
    const { channel, under } = this.#open.get(message.channel) ?? {}
    // What has ended may still have something under way.
    if (!channel) return true
    if (message.type === 'channelData') return channel.data(message.bytes)
    if (message.type === 'channelHalfClose') channel.halfClose()
    else if (message.type === 'channelCredit') channel.credit(message.count)
    else {
      this.#forget(message.channel, under)
      channel.cancel()
    }
    return true
  }

  /** The call with this number is no longer served: nobody waits for what was asked for it. */
  ended(call: number): void {
    const made = this.#under.get(call)
    if (!made) return
    this.#under.delete(call)
    for (const id of made) this.#open.get(id)?.channel.fail('DEADLINE_PASSED', 'the call that this one was made for has ended')
  }

  /** The worker is gone. */
  close(): void {
    const open = [...this.#open.values()]
    this.#open.clear()
    this.#under.clear()
    for (const { channel } of open) channel.cancel()
  }

  #begin(request: ChannelOpen, suspended: boolean): boolean {
    const { channel: id, under } = request
    if (this.#open.has(id)) return false
    const refuse = (code: 'STATE_REFUSED' | 'LIMIT_REACHED' | 'DEADLINE_PASSED', message: string) => {
      this.#send({ type: 'channelEnd', channel: id, error: { code, message } })
      return true
    }
    if (suspended) return refuse('STATE_REFUSED', 'this version does not serve')
    if (this.#open.size >= CHANNEL_LIMITS.openMax) return refuse('LIMIT_REACHED', `${this.#open.size} calls to other services are under way`)
    const origin = under === undefined ? undefined : this.#served(under)
    if (under !== undefined && !origin) return refuse('DEADLINE_PASSED', 'the call that this one is made for has ended')
    let over = false
    const channel = this.#channels.open(this.#manifest, request, origin, {
      data: (bytes) => this.#send({ type: 'channelData', channel: id, bytes }),
      credit: (count) => this.#send({ type: 'channelCredit', channel: id, count }),
      end: (bytes, error) => {
        over = true
        this.#forget(id, under)
        if (bytes && !error) this.#send({ type: 'channelEnd', channel: id, bytes })
        else this.#send({ type: 'channelEnd', channel: id, ...(error ? { error } : {}) })
      },
    })
    if (over) return true
    this.#open.set(id, { channel, under })
    if (under === undefined) return true
    const made = this.#under.get(under) ?? new Set()
    this.#under.set(under, made.add(id))
    return true
  }

  #forget(id: number, under: number | undefined): void {
    this.#open.delete(id)
    const made = under === undefined ? undefined : this.#under.get(under)
    if (made?.delete(id) && made.size === 0) this.#under.delete(under as number)
  }
}
