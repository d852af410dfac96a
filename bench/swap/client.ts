/**
 * The client of the swap bench, a process of its own: calls at a fixed rate whatever the answers do (open loop; latency counts from the
 * time at which a call was meant to be sent), and open streams. Its orders come on stdin; on "stop" it prints what it saw, as JSON.
 */
import { once } from 'node:events'
import { type ClientHttp2Session, connect } from 'node:http2'
import { createInterface } from 'node:readline'
import { frame } from '../load.ts'

const KEYS = 16
const TICK_MS = 1
/** For answers that are still to come when the load ends. */
const LAST_ANSWER_MS = 30_000

interface Options {
  readonly port: number
  readonly serverName: string
  readonly caPem: string
  readonly keyPem: string
  readonly certificatePem: string
  readonly ratePerSecond: number
  readonly streams: number
}

/** What came of one run; times are Unix milliseconds with fractions, so that two processes of one machine can compare them. */
export interface ClientResult {
  readonly sent: number
  readonly answered: number
  readonly failed: number
  readonly failures: readonly string[]
  readonly duplicated: number
  readonly reordered: number
  /** Calls that the service counted and nobody got an answer to. */
  readonly lostNumbers: number
  /** Updates that a stream missed, all streams together. */
  readonly lostUpdates: number
  readonly updates: number
  /** When each answered call was meant to be sent. */
  readonly atMs: readonly number[]
  readonly latencyMs: readonly number[]
  /** When each answer came: the longest silence is what a client notices of a flip. */
  readonly doneMs: readonly number[]
}

const failures: string[] = []
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const options = JSON.parse((await lines.next()).value as string) as Options

async function open(): Promise<ClientHttp2Session> {
  const { port, caPem, keyPem, certificatePem, serverName } = options
  const tls = { ca: caPem, key: keyPem, cert: certificatePem, servername: serverName }
  // Calls wait here when the machine is too slow for the rate; over the usual 10 MB this side would reset its own streams.
  const session = connect(`https://127.0.0.1:${port}`, { ...tls, maxSessionMemory: 1_000 })
  await once(session, 'connect')
  session.on('error', (error) => failures.push(`a connection failed: ${error.message}`))
  session.on('close', () => failures.push('a connection was closed'))
  session.setLocalWindowSize(16 * 1024 * 1024)
  return session
}

function request(session: ClientHttp2Session, path: string, bytes: Uint8Array) {
  const headers = { ':method': 'POST', ':path': path, ':authority': options.serverName, 'content-type': 'application/grpc', te: 'trailers' }
  const stream = session.request(headers)
  let status = 'none'
  let message = ''
  const take = (found: Record<string, unknown>) => {
    status = String(found['grpc-status'] ?? status)
    message = String(found['grpc-message'] ?? message)
  }
  stream.on('response', take)
  stream.on('trailers', take)
  stream.end(frame(bytes))
  return { stream, ended: () => (status === '0' ? '' : `${status} ${decodeURIComponent(message)}`) }
}

const now = () => performance.timeOrigin + performance.now()
const text = new TextEncoder()
const atMs: number[] = []
const latencyMs: number[] = []
const doneMs: number[] = []
const numbers = new Set<number>()
/** Of each key, the counts in the order in which their calls were sent. */
const counts = Array.from({ length: KEYS }, (): number[] => [])
let [sent, duplicated, lostUpdates, updates, reordered, underWay] = [0, 0, 0, 0, 0, 0]

function call(session: ClientHttp2Session, dueMs: number): void {
  const key = sent % KEYS
  const place = (counts[key] ?? []).push(0) - 1
  sent++
  underWay++
  const { stream, ended } = request(session, '/bench.Ledger/Add', text.encode(`key ${key}`))
  let answer = ''
  stream.on('data', (chunk: Buffer) => {
    answer += chunk.toString('latin1')
  })
  stream.on('error', () => {})
  stream.on('close', () => {
    underWay--
    const wrong = ended()
    const [number = 0, count = 0] = answer.slice(5).split(' ').map(Number)
    if (wrong || !number) {
      failures.push(wrong || 'no answer')
      return
    }
    const at = now()
    atMs.push(dueMs)
    latencyMs.push(at - dueMs)
    doneMs.push(at)
    if (numbers.has(number)) duplicated++
    numbers.add(number)
    if (counts[key]) counts[key][place] = count
  })
}

interface Followed {
  /** The newest update that came; 0: none yet. */
  newest(): number
  end(): void
}

/** Opens a stream of updates. */
function follow(session: ClientHttp2Session): Followed {
  const { stream, ended } = request(session, '/bench.Ledger/Updates', new Uint8Array())
  let last = 0
  let rest: Buffer = Buffer.alloc(0)
  let closing = false
  stream.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32BE(1)) {
      const end = 5 + rest.readUInt32BE(1)
      const update = Number(rest.subarray(5, end).toString('latin1'))
      rest = rest.subarray(end)
      updates++
      if (last !== 0 && update > last + 1) {
        lostUpdates += update - last - 1
        if (lostUpdates < 50) process.stderr.write(`a stream went from update ${last} to ${update}\n`)
      }
      if (last !== 0 && update <= last) duplicated++
      last = Math.max(last, update)
    }
  })
  stream.on('error', () => {})
  stream.on('close', () => {
    if (!closing) failures.push(`a stream ended: ${ended()}`)
  })
  return {
    newest: () => last,
    end: () => {
      closing = true
      stream.close()
    },
  }
}

/** Until it holds, but no longer than calls are waited for. */
async function waitFor(holds: () => boolean): Promise<void> {
  for (const deadlineMs = now() + LAST_ANSWER_MS; !holds() && now() < deadlineMs; ) await new Promise((resolve) => setTimeout(resolve, 10))
}

const sessions = await Promise.all([open(), open()])
const [unary, streaming] = sessions as [ClientHttp2Session, ClientHttp2Session]
const streams = Array.from({ length: options.streams }, () => follow(streaming))
const startMs = now()
const timer = setInterval(() => {
  const due = Math.floor(((now() - startMs) * options.ratePerSecond) / 1_000)
  while (sent < due && !unary.destroyed) call(unary, startMs + (sent * 1_000) / options.ratePerSecond)
}, TICK_MS)
process.stdout.write('running\n')
await lines.next()
clearInterval(timer)
await waitFor(() => underWay === 0)
if (underWay > 0) failures.push(...Array.from({ length: underWay }, () => 'no answer at all'))
// A stream that fell silent has no gap to show for it: all must get to where the furthest is now.
const newest = Math.max(0, ...streams.map((one) => one.newest()))
await waitFor(() => streams.every((one) => one.newest() >= newest))
for (const one of streams) lostUpdates += Math.max(0, newest - one.newest())
const failed = [...failures]
for (const one of streams) one.end()
for (const ofKey of counts) {
  const answeredOf = ofKey.filter((count) => count > 0)
  for (const [at, count] of answeredOf.entries()) if (count < (answeredOf[at - 1] ?? 0)) reordered++
}
const answered = numbers.size + duplicated
const most = [...numbers].reduce((one, other) => Math.max(one, other), 0)
const result: ClientResult = {
  ...{
    sent,
    answered,
    failed: failed.length,
    failures: failed.slice(0, 10),
    duplicated,
    reordered,
    lostNumbers: most - numbers.size,
    lostUpdates,
    updates,
  },
  ...{ atMs, latencyMs, doneMs },
}
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))
