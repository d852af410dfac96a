/**
 * Kills a real agent (SIGKILL) before and after every durable operation of install, upgrade, confirm, revert and remove (every step that
 * is journalled, and every receipt, is one), and lets each of those operations fail with ENOSPC and with EIO; starts the agent again, and
 * looks: exactly the version that must be there runs and answers, nothing on the disk is damaged or left over, and every change that
 * ended has exactly one receipt.
 *
 *   npm run drill -- kill-matrix [--json] [--kills N] [--only STEP] [--faults kill,ENOSPC,EIO] [--lanes 3] [--sabotage NAME]
 *
 * `--kills N`: about N points, spread evenly, instead of all. `--only`: steps whose names contain the word. `--faults`: which; with an
 * errno, single operations fail as on a bad disk; the agent then has to go on, and at every fourth it is killed as well. `--lanes`: devices at once. `--sabotage`: the agent does
 * not write down that a change is confirmed (skip-confirmed), or keeps no receipts (skip-receipt); the drill must then fail.
 */
import { parseArgs } from 'node:util'
import { messageOf } from '../../core/errors.ts'
import type { Fault } from './kill-matrix/crash-point.ts'
import { Device, type DrillLab, makeDrillLab, type Sabotage, SABOTAGES } from './kill-matrix/device.ts'
import { judge } from './kill-matrix/judge.ts'
import { type Step, STEPS } from './kill-matrix/story.ts'

const KILLS_MIN = 200
/** Of a part of the matrix: a directory that is there already makes one operation less of a step. */
const REACHED_MIN = 0.9
/** After a failed operation the agent is killed only at every so many of them. */
const RESTART_EVERY = 4
const LOOKS_MAX = 20
const LOOK_PAUSE_MS = 500
const USAGE = `npm run drill -- kill-matrix [--json] [--kills N] [--only STEP] [--faults kill,ENOSPC,EIO] [--lanes N] [--sabotage ${SABOTAGES.join('|')}]`

export interface Matrix {
  /** Agents that died by a SIGKILL at the operation asked for. */
  kills: number
  /** Operations that failed, by errno. */
  ENOSPC: number
  EIO: number
  /** Operations that need no space, met by a disk without any. */
  spared: number
  /** Points that their step did not come to. */
  notReached: number
  lost: number
  twoActive: number
  corrupt: number
  /** From the start of a process to a right answer of what must run, milliseconds. */
  maxRecoveryMs: number
}

export interface Point {
  readonly step: Step
  readonly at: number
  readonly fault: Fault
}

const say = (text: string) => void process.stderr.write(`${text}\n`)

/** How many durable operations each step has, on a device where nothing fails. */
async function count(drill: DrillLab): Promise<Map<Step, number>> {
  const device = new Device(drill, 'count')
  const found = new Map<Step, number>()
  try {
    await device.start()
    let active: string | undefined
    for (const step of STEPS) {
      const begun = await step.prepare(device, active)
      const { told, trace } = await device.under(0, 'none', begun.act)
      if (!told) throw new Error(`${step.name} fails without a fault`)
      found.set(step, trace.operations)
      await device.kill()
      await device.start()
      active = begun.after
    }
  } finally {
    await device.kill()
  }
  return found
}

export function pointsOf(operations: Map<Step, number>, faults: readonly Fault[], most: number): Point[] {
  // By faults first, so that a few points are of all of them.
  const all = faults.flatMap((fault) =>
    [...operations].flatMap(([step, steps]) => Array.from({ length: steps }, (_, index): Point => ({ step, at: index + 1, fault }))),
  )
  const stride = Math.max(1, all.length / most)
  return all.filter((_, index) => Math.floor(index / stride) !== Math.floor((index - 1) / stride))
}

/** @param asked points of each fault that was asked for. @param whole all the points that there are */
export function hasPassed(matrix: Matrix, asked: Readonly<Partial<Record<Fault, number>>>, whole: boolean): boolean {
  const kills = (asked.before ?? 0) + (asked.after ?? 0)
  const killed = matrix.kills >= (whole && kills > 0 ? KILLS_MIN : kills * REACHED_MIN)
  const failed = (['ENOSPC', 'EIO'] as const).every((errno) => {
    const points = asked[errno]
    if (points === undefined) return true
    const least = (points - (errno === 'ENOSPC' ? matrix.spared : 0)) * REACHED_MIN
    // Of a handful, one that is not reached is more than a tenth.
    return matrix[errno] > 0 && matrix[errno] >= (whole ? least : Math.floor(least))
  })
  return killed && failed && matrix.kills + matrix.ENOSPC + matrix.EIO > 0 && matrix.lost + matrix.twoActive + matrix.corrupt === 0
}

/** Interrupts one step, brings the device back and judges it. What runs then is returned. */
async function interrupt(drill: DrillLab, device: Device, active: string | undefined, { step, at, fault }: Point, matrix: Matrix): Promise<string | undefined> {
  const begun = await step.prepare(device, active)
  const { told, trace } = await device.under(at, fault, begun.act)
  const what = `${step.name}, ${fault} ${at} (${trace.hit ?? 'no such operation'})`
  const kills = fault === 'before' || fault === 'after'
  if (trace.spared) matrix.spared += 1
  else if (!trace.hit) {
    matrix.notReached += 1
    say(`not reached: ${what}`)
  } else if (kills && device.ended !== 'SIGKILL') throw new Error(`${what}: the agent ended with ${device.ended}`)
  else if (kills) matrix.kills += 1
  else matrix[fault as 'ENOSPC' | 'EIO'] += 1
  const startedMs = Date.now()
  // An agent whose disk failed once lives on with what it knows; now and then it has to find its way from the disk as well.
  const stays = !kills && at % RESTART_EVERY !== 0 && (await device.undoOpen())
  if (!stays) {
    await device.kill()
    await device.start()
  }
  const look = async () => await judge(drill, device, told ? [begun.after] : [begun.before, begun.after], kills)
  let verdict = await look()
  // What it could not do at once, it tries again; a verdict on the living is final when it stays the same.
  for (let again = 0; stays && again < LOOKS_MAX && verdict.lost.length + verdict.twoActive.length + verdict.corrupt.length > 0; again++) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_PAUSE_MS))
    verdict = await look()
  }
  if (!stays) matrix.maxRecoveryMs = Math.max(matrix.maxRecoveryMs, Date.now() - startedMs)
  for (const kind of ['lost', 'twoActive', 'corrupt'] as const) {
    if (verdict[kind].length > 0) matrix[kind] += 1
    for (const why of verdict[kind]) say(`${kind}: ${what}: ${why}`)
  }
  return verdict.active
}

/** Takes points until there are none, on a device of its own; a device that does not come back is lost, and another takes its place. */
async function lane(drill: DrillLab, name: string, points: Point[], matrix: Matrix, done: () => void): Promise<void> {
  for (let turn = 0; points.length > 0; turn++) {
    const device = new Device(drill, `${name}-${turn}`)
    try {
      await device.start()
      let active: string | undefined
      for (let point = points.shift(); point; point = points.shift()) {
        active = await interrupt(drill, device, active, point, matrix)
        done()
      }
    } catch (error) {
      matrix.lost += 1
      say(`lost: ${name}: ${messageOf(error)}`)
    } finally {
      await device.kill()
    }
  }
}

/** Spreads the points over several devices at once. */
async function killMatrix(drill: DrillLab, points: Point[], lanes: number): Promise<Matrix> {
  const all = points.length
  const matrix: Matrix = { kills: 0, ENOSPC: 0, EIO: 0, spared: 0, notReached: 0, lost: 0, twoActive: 0, corrupt: 0, maxRecoveryMs: 0 }
  let ended = 0
  const done = () => {
    ended += 1
    if (ended % 20 === 0) say(`${ended} of ${all}`)
  }
  await Promise.all(Array.from({ length: lanes }, async (_, at) => await lane(drill, `lane-${at}`, points, matrix, done)))
  return matrix
}

async function main(): Promise<number> {
  const options = {
    json: { type: 'boolean' },
    kills: { type: 'string' },
    only: { type: 'string', default: '' },
    faults: { type: 'string', default: 'kill,ENOSPC,EIO' },
    lanes: { type: 'string', default: '3' },
    sabotage: { type: 'string' },
  } as const
  const { values } = parseArgs({ options })
  const faults = values.faults.split(',').flatMap((name): Fault[] => (name === 'kill' ? ['before', 'after'] : [name as Fault]))
  const most = values.kills === undefined ? Number.POSITIVE_INFINITY : Number(values.kills)
  const known: readonly Fault[] = ['before', 'after', 'ENOSPC', 'EIO']
  const sabotage = (values.sabotage as Sabotage | undefined) ?? null
  const lanes = Number(values.lanes)
  if (!(most > 0) || !(lanes > 0) || !faults.every((fault) => known.includes(fault)) || (sabotage && !SABOTAGES.includes(sabotage))) {
    say(USAGE)
    return 2
  }
  const drill = await makeDrillLab(sabotage)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
  process.once('exit', () => drill.abandon())
  try {
    const operations = await count(drill)
    for (const [step, steps] of operations) say(`${step.name}: ${steps} durable operations`)
    for (const step of operations.keys()) if (!step.name.includes(values.only)) operations.delete(step)
    const points = pointsOf(operations, faults, most)
    const asked = Object.fromEntries(faults.map((fault) => [fault, points.filter((point) => point.fault === fault).length]))
    const matrix = await killMatrix(drill, points, lanes)
    const ok = hasPassed(matrix, asked, values.kills === undefined && values.only === '')
    process.stdout.write(`${ok ? 'passed' : 'FAILED'}: ${JSON.stringify(matrix)}\n`)
    if (values.json) process.stdout.write(`${JSON.stringify(matrix)}\n`)
    return ok ? 0 : 1
  } finally {
    await drill.lab.close()
  }
}

if (process.argv[1] === import.meta.filename) process.exit(await main())
