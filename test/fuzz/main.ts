/**
 * `npm run fuzz -- [TARGET …] [--seconds N] [--seed N] [--coverage guided|blind|off] [--input FILE] [--json]`: fuzzes each reader for so
 * many seconds and prints how often it ran, how its runs ended, and every crash with the input that causes it. Ends with 1 if there was one.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { runWatched } from './engine/watched.ts'
import { execute, type Target } from './target.ts'
import { TARGETS } from './targets/index.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '10' },
    seed: { type: 'string' },
    coverage: { type: 'string' },
    input: { type: 'string' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
const chosen = positionals.length === 0 ? TARGETS : TARGETS.filter(({ name }) => positionals.includes(name))
if (values.help || chosen.length < positionals.length || (values.input !== undefined && chosen.length !== 1)) {
  process.stderr.write(`npm run fuzz -- [TARGET …] [--seconds N] [--seed N] [--coverage guided|blind|off] [--input FILE] [--json]\n\n`)
  for (const { name, reads } of TARGETS) process.stderr.write(`${name.padEnd(16)} ${reads}\n`)
  process.exit(values.help ? 0 : 2)
}
const [only] = chosen
if (values.input !== undefined && only) process.exit(await repeat(only, new Uint8Array(readFileSync(values.input))))

const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 32))
process.stdout.write(`seed ${seed}, ${values.seconds} s each\n`)
const total = { targets: 0, executions: 0, crashes: 0 }
const byTarget: Record<string, object> = {}
for (const target of chosen) await fuzz(target)
process.stdout.write(`${total.targets} targets, ${total.executions} executions, ${total.crashes} crashes\n`)
if (values.json) process.stdout.write(`${JSON.stringify({ ...total, seed, byTarget })}\n`)
process.exit(total.crashes === 0 ? 0 : 1)

async function fuzz({ name, inputBytesMax, coverage: usual }: Target): Promise<void> {
  const coverage = (values.coverage ?? usual ?? 'guided') as 'guided' | 'blind' | 'off'
  const module = new URL('./targets/index.ts', import.meta.url).href
  const { executions, outcomes, corpus, blocks, crashes } = await runWatched({
    module,
    target: name,
    seed,
    coverage,
    inputBytesMax,
    forMs: Number(values.seconds) * 1_000,
  })
  const ended = Object.entries(outcomes)
    .sort(([, one], [, other]) => other - one)
    .map(([outcome, count]) => `${outcome} ${count}`)
  const reach = coverage === 'off' ? 'not measured' : `${blocks.run} of ${blocks.seen}`
  process.stdout.write(`${name.padEnd(16)} ${String(executions).padStart(8)} executions  ${crashes.length} crashes  blocks ${reach}  inputs kept ${corpus}\n`)
  process.stdout.write(`${' '.repeat(17)}${ended.join(', ')}\n`)
  for (const { text, input } of crashes) process.stdout.write(`  CRASH ${text.slice(0, 300)}\n    npm run fuzz -- ${name} --input ${kept(name, input)}\n`)
  byTarget[name] = { executions, crashes: crashes.length, outcomes, blocks: blocks.run, blocksSeen: blocks.seen }
  total.targets += 1
  total.executions += executions
  total.crashes += crashes.length
}

/** Writes an input down. @returns its path */
function kept(name: string, input: Uint8Array): string {
  const folder = join(tmpdir(), 'offbox-fuzz')
  mkdirSync(folder, { recursive: true })
  const path = join(folder, `${name}-${createHash('sha256').update(input).digest('hex').slice(0, 12)}`)
  writeFileSync(path, input)
  return path
}

/** One input again, with the whole error. */
async function repeat(target: Target, input: Uint8Array): Promise<number> {
  try {
    process.stdout.write(`${await execute(target, input)}\n`)
    return 0
  } catch (error) {
    process.stdout.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
    if (error instanceof Error && error.cause instanceof Error) process.stdout.write(`caused by ${error.cause.stack}\n`)
    return 1
  }
}
