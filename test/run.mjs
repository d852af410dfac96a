// `npm test`: sets everything up, then lint, types and tests; ends with a line `N passed, N failed`, with what was skipped by
// name above it. Options go to tap: `npm test -- test/core/x509.test.ts`.
import '../fleet/lab/node-version.mjs'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { environment, root, SetupError, setUp, whyNoNode26 } from '../fleet/lab/setup.mjs'

const say = (line) => process.stdout.write(`${line}\n`)
const only = process.argv.slice(2)
const tally = { passed: 0, failed: 0, skipped: [] }

try {
  const { missing } = await setUp({ debian: !process.env.OFFBOX_NO_INSTALL, say })
  for (const one of missing) say(`missing: ${one.package}: ${one.why}`)
  const why = whyNoNode26()
  if (why) throw new SetupError(`Node 26 does not start: ${why}`)
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  say(`set-up failed: ${error.message}`)
  say('0 passed, 1 failed')
  process.exit(1)
}

if (only.length === 0) {
  await step('lint', 'biome', ['check', '--error-on-warnings', '.'])
  await step('types', 'tsc', ['-p', 'tsconfig.json'])
}
// tap writes its own loader on first use; done apart, so that the first test file does not pay for it.
await quiet('tap', ['build'])
await tests(only)
for (const name of tally.skipped) say(`skipped: ${name}`)
say(`${tally.passed} passed, ${tally.failed} failed`)
process.exit(tally.failed === 0 && tally.passed > 0 ? 0 : 1)

async function step(name, command, args) {
  const { code, output } = await quiet(command, args)
  say(`${code === 0 ? 'ok' : 'FAILED'}: ${name}`)
  if (code !== 0) say(output.trim())
  if (code === 0) tally.passed++
  else tally.failed++
}

function quiet(command, args) {
  const child = spawn(join(root, 'node_modules/.bin', command), args, { cwd: root, env: environment(), stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  child.stderr.on('data', (chunk) => (output += chunk))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, output }))
  })
}

/** Runs tap and counts from its own output: assertions by test file, skips with their reasons, failures in full. */
async function tests(files) {
  const child = spawn(join(root, 'node_modules/.bin/tap'), ['run', '--reporter=tap', ...files], {
    cwd: root,
    env: environment(),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let rest = ''
  let failing = 0
  const line = (text) => {
    const depth = text.length - text.trimStart().length
    const skip = /^\s*ok \d+ - (.*?) # (?:time=\S+ )?SKIP ?(.*)$/i.exec(text)
    if (skip) {
      tally.skipped.push(`${skip[1]}: ${skip[2]}`)
      return
    }
    const result = /^\s*(not ok|ok) \d+ - (.*)$/.exec(text)
    if (depth === 0 && result) {
      say(text)
      failing = 0
    }
    if (result && depth === 4) {
      if (result[1] === 'ok') tally.passed++
      else tally.failed++
    }
    if (result && result[1] === 'not ok') failing = 40
    if (failing-- > 0 && depth > 0) say(text)
  }
  child.stdout.on('data', (chunk) => {
    rest += chunk
    const lines = rest.split('\n')
    rest = lines.pop() ?? ''
    for (const text of lines) line(text)
  })
  const code = await new Promise((resolve) => child.on('close', resolve))
  if (rest) line(rest)
  // A file that died before it could report is a failure that no line above counted.
  if (code !== 0 && tally.failed === 0) tally.failed++
}
