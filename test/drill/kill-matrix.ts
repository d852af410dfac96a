/**
 * Kills a real agent (SIGKILL) before and after every durable operation of install, upgrade, confirm, revert and remove, starts it
 * again, and looks: exactly the version that must be there runs and answers, and nothing on the disk is damaged or left over.
 *
 *   npm run drill -- kill-matrix [--json] [--kills N] [--only STEP] [--faults kill,ENOSPC,EIO] [--sabotage skip-confirmed]
 *
 * `--kills N`: about N of them, spread evenly, instead of all. `--only`: steps whose names contain the word. `--faults`: which; with an
 * errno, single operations fail as on a bad disk and the agent is killed afterwards. `--sabotage skip-confirmed`: the agent does not
 * write down that a change is confirmed; the drill must then fail.
 */
import { parseArgs } from 'node:util'
import { messageOf } from '../../core/errors.ts'
import type { Fault } from './kill-matrix/crash-point.ts'
import { Device, type DrillLab, makeDrillLab } from './kill-matrix/device.ts'
import { judge } from './kill-matrix/judge.ts'
import { type Step, STEPS } from './kill-matrix/story.ts'

const KILLS_MIN = 200
/** Of a part of the matrix: a directory that is there already makes one operation less of a step. */
const REACHED_MIN = 0.9
const USAGE = 'npm run drill -- kill-matrix [--json] [--kills N] [--only STEP] [--faults kill,ENOSPC,EIO] [--sabotage skip-confirmed]'
/** Devices at once. */
const LANES = 3

interface Matrix {
  /** Agents that died by a SIGKILL at the operation asked for. */
  kills: number
  /** Operations that failed with an errno. */
  failed: number
  lost: number
  twoActive: number
  corrupt: number
  /** From the start of a process to a right answer of what must run, milliseconds. */
  maxRecoveryMs: number
}

interface Point {
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

function pointsOf(operations: Map<Step, number>, faults: readonly Fault[], most: number): Point[] {
  const all = [...operations].flatMap(([step, steps]) =>
    Array.from({ length: steps }, (_, index) => faults.map((fault): Point => ({ step, at: index + 1, fault }))).flat(),
  )
  const stride = Math.max(1, all.length / most)
  return all.filter((_, index) => Math.floor(index / stride) !== Math.floor((index - 1) / stride))
}

/** Interrupts one step, brings the device back and judges it. What runs then is returned. */
async function interrupt(drill: DrillLab, device: Device, active: string | undefined, { step, at, fault }: Point, matrix: Matrix): Promise<string | undefined> {
  const begun = await step.prepare(device, active)
  const { told, trace } = await device.under(at, fault, begun.act)
  const what = `${step.name}, ${fault} ${at} (${trace.hit ?? 'no such operation'})`
  const kills = fault === 'before' || fault === 'after'
  if (!trace.hit && kills) say(`not reached: ${what}`)
  else if (kills && device.ended !== 'SIGKILL') throw new Error(`${what}: the agent ended with ${device.ended}`)
  else if (kills) matrix.kills += 1
  else if (trace.hit) matrix.failed += 1
  await device.kill()
  const startedMs = Date.now()
  await device.start()
  const verdict = await judge(drill, device, told ? [begun.after] : [begun.before, begun.after], kills)
  matrix.maxRecoveryMs = Math.max(matrix.maxRecoveryMs, Date.now() - startedMs)
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
async function killMatrix(drill: DrillLab, points: Point[]): Promise<Matrix> {
  const all = points.length
  const matrix: Matrix = { kills: 0, failed: 0, lost: 0, twoActive: 0, corrupt: 0, maxRecoveryMs: 0 }
  let ended = 0
  const done = () => {
    ended += 1
    if (ended % 20 === 0) say(`${ended} of ${all}`)
  }
  await Promise.all(Array.from({ length: LANES }, async (_, at) => await lane(drill, `lane-${at}`, points, matrix, done)))
  return matrix
}

async function main(): Promise<number> {
  const options = {
    json: { type: 'boolean' },
    kills: { type: 'string' },
    only: { type: 'string', default: '' },
    faults: { type: 'string', default: 'kill' },
    sabotage: { type: 'string' },
  } as const
  const { values } = parseArgs({ options })
  const faults = values.faults.split(',').flatMap((name): Fault[] => (name === 'kill' ? ['before', 'after'] : [name as Fault]))
  const most = values.kills === undefined ? Number.POSITIVE_INFINITY : Number(values.kills)
  const known: readonly Fault[] = ['before', 'after', 'ENOSPC', 'EIO']
  if (!(most > 0) || !faults.every((fault) => known.includes(fault)) || (values.sabotage ?? 'skip-confirmed') !== 'skip-confirmed') {
    say(USAGE)
    return 2
  }
  const drill = await makeDrillLab(values.sabotage ? 'skip-confirmed' : null)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
  process.once('exit', () => drill.abandon())
  try {
    const operations = await count(drill)
    for (const [step, steps] of operations) say(`${step.name}: ${steps} durable operations`)
    for (const step of operations.keys()) if (!step.name.includes(values.only)) operations.delete(step)
    const points = pointsOf(operations, faults, most)
    const kills = points.filter(({ fault }) => fault === 'before' || fault === 'after').length
    const whole = values.kills === undefined && values.only === '' && kills > 0
    const least = whole ? KILLS_MIN : kills * REACHED_MIN
    const matrix = await killMatrix(drill, points)
    const ok = matrix.kills >= least && matrix.kills + matrix.failed > 0 && matrix.lost + matrix.twoActive + matrix.corrupt === 0
    process.stdout.write(`${ok ? 'passed' : 'FAILED'}: ${JSON.stringify(matrix)}\n`)
    if (values.json) process.stdout.write(`${JSON.stringify(matrix)}\n`)
    return ok ? 0 : 1
  } finally {
    await drill.lab.close()
  }
}

if (process.argv[1] === import.meta.filename) process.exit(await main())
