/** Commands over BIRD's control socket. Each has a connection of its own, so a stuck one holds up nobody else. */
import { connect } from 'node:net'
import { messageOf, OffboxError } from '../../core/errors.ts'
import { BIRD_CODE, type Reply, type ReplyLine, ReplyReader } from './bird-protocol.ts'

/** BIRD is one thread: while it digests a large configuration it answers nobody. */
export const birdCommandTimeoutMs = 10_000
/** About 512 neighbours in detail. Routes are read line by line and not counted. */
export const birdReplyBytesMax = 4 * 1024 * 1024

export interface CommandOptions {
  /** Called for each line instead of keeping it; returning false ends the command early. */
  readonly onLine?: (line: ReplyLine) => boolean
  readonly timeoutMs?: number
}

/**
 * Sends one command and collects its reply, failed or not.
 * @param socketPath absolute, at most 107 bytes (sun_path)
 * @param command one line, composed by the driver and never by a service
 * @throws DRIVER_FAILED BIRD is not there, breaks off, says too much or is silent for timeoutMs
 */
export async function birdCommand(socketPath: string, command: string, options: CommandOptions = {}): Promise<Reply> {
  const { onLine, timeoutMs = birdCommandTimeoutMs } = options
  return await new Promise<Reply>((resolve, reject) => {
    const socket = connect(socketPath)
    const reader = new ReplyReader()
    const lines: ReplyLine[] = []
    let greeted = false
    let received = 0
    const end = (act: () => void) => {
      socket.destroy()
      act()
    }
    const fail = (why: string, cause?: unknown) => end(() => reject(new OffboxError('DRIVER_FAILED', `BIRD ${why}`, { cause })))
    // Idle time, not total: a long table that keeps coming is fine.
    socket.setTimeout(timeoutMs, () => fail(`did not answer "${verb(command)}" within ${timeoutMs} ms`))
    socket.on('error', (error) => fail(`is not reachable: ${messageOf(error)}`, error))
    socket.on('close', () => fail(`closed its socket during "${verb(command)}"`))
    socket.on('data', (chunk: Uint8Array) => {
      received += onLine ? 0 : chunk.length
      if (received > birdReplyBytesMax) return fail(`answered "${verb(command)}" with more than ${birdReplyBytesMax} bytes`)
      try {
        for (const line of reader.push(chunk)) {
          if (!greeted) {
            if (line.code !== BIRD_CODE.ready) return fail(`greeted with code ${line.code}`)
            greeted = true
            socket.write(`${command}\n`)
          } else if (line.last) {
            if (!onLine || line.code >= 8000) lines.push(line)
            return end(() => resolve({ code: line.code, lines }))
          } else if (!onLine) {
            lines.push(line)
          } else if (!onLine(line)) {
            return end(() => resolve({ code: 0, lines }))
          }
        }
      } catch (error) {
        fail(`sent what is no reply: ${messageOf(error)}`, error)
      }
    })
  })
}

function verb(command: string): string {
  return command.split(' ').slice(0, 2).join(' ')
}
