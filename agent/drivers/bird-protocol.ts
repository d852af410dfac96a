/**
 * What BIRD 2 says on its control socket, as data. Pure. A reply is lines of `dddd-text` (more follows) or `dddd text` (the last);
 * a line that begins with a space continues the one before under the same code. Codes: 0xxx success, 1xxx and 2xxx tables,
 * 8xxx the command failed, 9xxx it could not be parsed (BIRD source, doc/reply_codes).
 */
import type { BirdProtocol, BirdRoute } from '../../core/capabilities.ts'

export interface ReplyLine {
  readonly code: number
  /** Without code, separator and line feed; tabs and inner spaces kept. */
  readonly text: string
  readonly last: boolean
}

export interface Reply {
  /** Code of the last line. */
  readonly code: number
  readonly lines: readonly ReplyLine[]
}

/** Codes that the driver decides by. */
export const BIRD_CODE = {
  ready: 1,
  reconfigured: 3,
  reconfigurationInProgress: 4,
  reconfigurationQueued: 5,
  confirmed: 18,
  nothingToDo: 19,
  configurationOk: 20,
  version: 1000,
  protocol: 1002,
  protocolDetail: 1006,
  route: 1007,
  status: 1011,
  configurationError: 8002,
  noProtocolsMatch: 8003,
} as const

/** The longest line taken; BIRD's own are under 4 kB. */
export const replyLineCharsMax = 64 * 1024

/** Cuts a byte stream into reply lines. One reader a connection. */
export class ReplyReader {
  readonly #decoder = new TextDecoder()
  #rest = ''
  #code = 0

  /** @throws Error when the stream is not a BIRD reply, or a line is longer than replyLineCharsMax */
  push(bytes: Uint8Array): ReplyLine[] {
    const parts = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split('\n')
    this.#rest = parts.pop() ?? ''
    if (this.#rest.length > replyLineCharsMax) throw new Error(`a reply line has more than ${replyLineCharsMax} characters`)
    const lines: ReplyLine[] = []
    for (const part of parts) {
      // "+" marks echoed log messages, which nobody asked for here.
      if (part.startsWith('+')) continue
      const match = /^(\d{4})([ -])(.*)$/.exec(part)
      if (match) {
        this.#code = Number(match[1])
        lines.push({ code: this.#code, text: match[3] ?? '', last: match[2] === ' ' })
      } else if (part.startsWith(' ')) {
        lines.push({ code: this.#code, text: part.slice(1), last: false })
      } else {
        throw new Error(`not a BIRD reply: ${part.slice(0, 80)}`)
      }
    }
    return lines
  }
}

export function failed(reply: Reply): boolean {
  return reply.code >= 8000
}

/** The words of a failed reply, e.g. `/run/x.conf:12:67 syntax error, unexpected CF_SYM_UNDEFINED`. */
export function failureText(reply: Reply): string {
  const words = reply.lines.filter((line) => line.code >= 8000).map((line) => line.text.trim())
  return words.join(' ') || `code ${reply.code}`
}

/** `show status`. Empty strings where BIRD says nothing. */
export function parseStatus(reply: Reply): { version: string; routerId: string } {
  const version = reply.lines.find((line) => line.code === BIRD_CODE.version)?.text ?? ''
  const routerId = reply.lines.find((line) => line.text.includes('Router ID is'))?.text ?? ''
  return { version: version.replace(/^BIRD\s+/, '').trim(), routerId: /Router ID is (\S+)/.exec(routerId)?.[1] ?? '' }
}

/** `show protocols all`, in BIRD's order. Route counts are summed over the channels of a protocol. */
export function parseProtocols(reply: Reply): BirdProtocol[] {
  const protocols: BirdProtocol[] = []
  for (const line of reply.lines) {
    const open = protocols.at(-1)
    if (line.code === BIRD_CODE.protocol) {
      // Name, type, table, state, since, info; the info may hold spaces or be empty.
      const [name = '', type = '', , state = '', since = '', ...info] = line.text.trim().split(/\s+/)
      protocols.push({ name, type, state, since, info: info.join(' '), neighborAddress: '', neighborAs: 0, routesImported: 0, routesExported: 0 })
    } else if (line.code === BIRD_CODE.protocolDetail && open) {
      readDetail(open, line.text)
    }
  }
  return protocols
}

function readDetail(protocol: BirdProtocol, text: string): void {
  const match = /^\s*([A-Za-z ]+):\s+(.*)$/.exec(text)
  if (!match) return
  const [, key = '', value = ''] = match
  if (key === 'BGP state') protocol.info = value.trim()
  else if (key === 'Neighbor address') protocol.neighborAddress = value.trim().split('%')[0] ?? ''
  else if (key === 'Neighbor AS') protocol.neighborAs = Number(value)
  else if (key === 'Routes') {
    protocol.routesImported += Number(/(\d+) imported/.exec(value)?.[1] ?? 0)
    protocol.routesExported += Number(/(\d+) exported/.exec(value)?.[1] ?? 0)
  }
}

/** Reads the lines of `show route` one by one, so that a large table need not be held. */
export class RouteReader {
  readonly routes: BirdRoute[] = []
  #prefix = ''

  line({ code, text }: ReplyLine): void {
    if (code !== BIRD_CODE.route) return
    const match = /^(\S+)?\s+(?:unicast|blackhole|unreachable|prohibited)\s+\[(\S+)[^\]]*\]\s*(\*)?/.exec(text)
    if (match) {
      // Further routes to the same prefix leave the first column blank.
      this.#prefix = match[1] ?? this.#prefix
      this.routes.push({ prefix: this.#prefix, via: '', protocol: match[2] ?? '', best: match[3] === '*' })
      return
    }
    const via = /^\s*via (\S+)/.exec(text)?.[1]
    const open = this.routes.at(-1)
    if (via !== undefined && open?.via === '') open.via = via
  }
}
