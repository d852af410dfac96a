/**
 * The script of every service in a process of its own. Built into one file (build.mjs) that the agent writes to the standard input of
 * `node --permission -`, so that the process needs no file. Frames to and from the agent (core/frames.ts) go over descriptor 3: an empty
 * batch says that the script runs; the first batch received is the service itself, and comes only once the agent has made sure that
 * the process is confined.
 */
import { Socket } from 'node:net'
import { setPriority } from 'node:os'
import { encodeFrame, FrameReader, framesOf, type ProcessStart, writeAll } from '../../core/frames.ts'
import { takeCollector } from './collect.ts'
import { confine } from './compartment.ts'
import { HOST_CLASSES, ServiceHost } from './host.ts'
import { Outbox, pack, unpack, type FromWorker, type ToWorker } from './wire.ts'

/** As `nice` has it: above 0 is less than the agent's. */
const SERVICE_NICENESS = 5

const READ_BYTES = 64 * 1024

const readInto = new Uint8Array(READ_BYTES)
// Into one buffer, without a stream's bookkeeping: the reader keeps nothing of it.
const onread = { buffer: readInto, callback: (length: number) => reader.push(readInto.subarray(0, length)) >= 0 }
const pipe = new Socket({ fd: 3, readable: true, writable: true, onread })
// The agent is gone: nobody is left to serve. A process that hangs does not hear of it, and is ended by the kernel.
const { exit } = process
pipe.on('error', () => exit(0))
pipe.on('close', () => exit(0))
setPriority(0, SERVICE_NICENESS)

const decoder = new TextDecoder()
let host: ServiceHost | undefined
const reader = new FrameReader(([message]) => {
  if (host) for (const one of unpack(message, true) as ToWorker[]) host.receive(one)
  else host = makeHost(message as ProcessStart)
})
pipe.resume()
writeAll(pipe, encodeFrame([]))

function makeHost({ code, manifest, quiesceTimeoutMs }: ProcessStart): ServiceHost {
  const outbox = new Outbox<FromWorker>(write)
  const collect = takeCollector()
  const evaluate = confine({ name: manifest.name, version: manifest.version, lent: HOST_CLASSES })
  const text = decoder.decode(code)
  return new ServiceHost({ load: () => evaluate(text), manifest, quiesceTimeoutMs, collect, send: (message, owned) => outbox.send(message, owned) })
}

/** Nothing bounds what waits here but the memory of this process: an agent that reads slowly is felt by the service alone. */
function write(batch: readonly FromWorker[]): void {
  writeAll(
    pipe,
    framesOf(batch, (portion) => pack(portion, [])),
  )
}
