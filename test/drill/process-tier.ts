/**
 * A service takes more memory, and then more threads, than it may, on a device that booted from the image: the kernel has to stop it, the
 * agent has to name the reason and start it again, and nobody else may notice. Runs in a virtual machine, since the bounds are those of
 * control groups, which this machine may not have.
 *
 *   npm run drill -- process-tier [--json] [--sabotage no-bounds] [--keep]
 *
 * `--sabotage no-bounds` leaves the control groups without bounds: the drill must then fail. `--keep` leaves the lab's home with the console of the device.
 */
import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf } from '../../core/errors.ts'
import { bringUp, type Lab } from '../../fleet/lab/bring-up.ts'
import { Undo } from '../../fleet/lab/undo.ts'
import { insideLab, signedBundle } from '../integration/lab-under-test.ts'
import { buildAgent } from './process-tier/builds.ts'

const DEVICE = 'sw1'
const WAIT_MS = 120_000
/** The controller looks every 15 s, and tries again when an order fails. */
const INSTALL_MS = 240_000
const LOOKS_MAX = 5

interface Status {
  readonly service: string
  readonly tier: string
  readonly confinement: readonly string[]
  readonly starts: number
  readonly state: number
  readonly history: readonly { readonly to: number; readonly reason: string }[]
}

interface Seen {
  readonly agentStarts: number
  readonly bootId: string
  readonly services: readonly Status[]
}

export interface Verdict {
  /** Of the service that the drill overloads. */
  readonly confinement: readonly string[]
  /** Why it ended when it took too much memory, and too many threads. */
  readonly memory: string
  readonly threads: string
  /** Starts of the agent, and of services that did nothing, between the beginning and the end. */
  readonly agentRestarts: number
  readonly othersRestarted: number
  readonly passed: boolean
}

/** Two machines' worth of work on the cores of one: an answer may come late. */
const look = async (lab: Lab): Promise<Seen> => {
  for (let tries = 1; ; tries++) {
    try {
      return await lookOnce(lab)
    } catch (error) {
      if (tries === LOOKS_MAX) throw error
    }
  }
}

const lookOnce = async (lab: Lab) =>
  await insideLab<Seen>(
    lab,
    DEVICE,
    `const { agentStarts, bootId } = await rpc.unary(device.DeviceMethods.Info, {})
     const { services } = await rpc.unary(lifecycle.LifecycleMethods.List, {})
     return { agentStarts, bootId, services }`,
  )

const hogOf = (seen: Seen) => seen.services.find(({ service }) => service === 'hog')

/** Published and let run like any service; the controller brings it to the device, which takes nothing else. */
async function install(lab: Lab): Promise<void> {
  await lab.client.putBundle(await signedBundle(lab, join(import.meta.dirname, '../fixtures/services/hog'), '1.0.0'))
  await lab.client.run(DEVICE, { service: 'hog', version: '1.0.0' })
  const deadlineMs = performance.now() + INSTALL_MS
  for (;;) {
    const hog = hogOf(await look(lab))
    const device = (await lab.client.devices()).find(({ deviceId }) => deviceId === DEVICE)
    if (hog?.state === READY && device?.phase === 'in-sync') return
    if (performance.now() > deadlineMs) throw new Error(`hog does not run: ${device?.phase}, ${device?.reason}`)
    await new Promise((resolve) => setTimeout(resolve, 1_000))
  }
}

/** Has the hog take too much, and waits until it was ended for it and serves again. @returns why it ended; empty: it did not */
async function overload(lab: Lab, method: 'Grow' | 'Grab'): Promise<string> {
  const ends = (seen: Seen) => hogOf(seen)?.history.filter(({ to }) => to === BACKOFF) ?? []
  const before = ends(await look(lab)).length
  await insideLab(
    lab,
    DEVICE,
    `const raw = { encode: (bytes) => bytes, decode: (bytes) => bytes }
     const method = { path: '/test.Hog/${method}', kind: 'unary', request: raw, response: raw }
     return await rpc.unary(method, new Uint8Array(0), { deadlineMs: 15000 }).then(() => 'answered', (error) => error.code)`,
  )
  const deadlineMs = performance.now() + WAIT_MS
  for (;;) {
    const seen = await look(lab)
    const all = ends(seen)
    if (all.length > before && hogOf(seen)?.state === READY) return all.at(-1)?.reason ?? ''
    if (performance.now() > deadlineMs) return ''
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
}

/** ServiceState of lifecycle.proto. */
const READY = 3
const BACKOFF = 5

async function rehearse(lab: Lab, say: (text: string) => void): Promise<Verdict> {
  if (lab.boot !== 'pxe') throw new Error('this drill needs a virtual machine')
  await install(lab)
  const before = await look(lab)
  const confinement = hogOf(before)?.confinement ?? []
  say(`hog is confined by ${confinement.join(', ')}`)
  const memory = await overload(lab, 'Grow')
  say(`too much memory: ${memory || 'nothing happened'}`)
  const threads = await overload(lab, 'Grab')
  say(`too many threads: ${threads || 'nothing happened'}`)
  const after = await look(lab)
  const startsOf = (seen: Seen, name: string) => seen.services.find(({ service }) => service === name)?.starts
  const others = before.services.filter(({ service }) => service !== 'hog')
  const othersRestarted = others.filter(({ service, starts }) => startsOf(after, service) !== starts).length
  const agentRestarts = after.agentStarts - before.agentStarts
  const confined =
    ['uid ', 'privileges dropped', 'network namespace', 'pid namespace', 'cgroup memory.max', 'cgroup pids.max', 'cgroup cpu.max'].every((layer) =>
      confinement.some((word) => word.startsWith(layer)),
    ) && !confinement.some((word) => word.startsWith('no '))
  const named = /^MEMORY_EXCEEDED: .* the kernel ended it/.test(memory) && /pids\.max/.test(threads)
  const passed = confined && named && agentRestarts === 0 && othersRestarted === 0 && after.bootId === before.bootId && others.length === lab.expected.services
  return { confinement, memory, threads, agentRestarts, othersRestarted, passed }
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { json: { type: 'boolean' }, sabotage: { type: 'string' }, keep: { type: 'boolean' } } })
  if (values.sabotage !== undefined && values.sabotage !== 'no-bounds') throw new Error('--sabotage must be no-bounds')
  const home = mkdtempSync(join(tmpdir(), 'offbox-drill-'))
  const undo = new Undo()
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop.abort(new Error(`stopped by ${signal}`)))
  const say = (text: string) => void process.stderr.write(`${text}\n`)
  try {
    const agentDir = join(home, 'agent')
    await buildAgent(agentDir, values.sabotage !== undefined)
    const lab = await bringUp({ home, devices: 1, local: false, agentDir }, { say, signal: stop.signal, undo })
    const verdict = await rehearse(lab, say)
    process.stdout.write(`${verdict.passed ? 'passed' : 'FAILED'}: ${JSON.stringify(verdict)}\n`)
    if (values.json) process.stdout.write(`${JSON.stringify({ boot: lab.boot, ...verdict })}\n`)
    return verdict.passed ? 0 : 1
  } catch (error) {
    process.stdout.write(`FAILED: ${messageOf(error)}\n`)
    if (values.json) process.stdout.write(`${JSON.stringify({ passed: false })}\n`)
    return 1
  } finally {
    if (values.keep) say(`kept: ${home}`)
    for (const what of await undo.run()) say(`could not clean up: ${what}`)
    if (!values.keep) await rm(home, { recursive: true, force: true })
  }
}

if (process.argv[1] === import.meta.filename) process.exit(await main())
