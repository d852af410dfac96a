/** `npm start`, under Node 26: builds, boots, enrols, routes and upgrades a lab of real devices, and says what it saw. */
import { parseLabOptions, type LabOptions } from './options.ts'
import { codeOf, ERRORS, messageOf } from '../../core/errors.ts'
import { needsUserNamespace, prepareUnshared, runUnshared } from './rootless.ts'
import { runLab } from './run.ts'
import { Undo } from './undo.ts'

const startedAtMs = Number(process.env['OFFBOX_STARTED_AT_MS']) || Date.now()
const elapsedSeconds = () => (Date.now() - startedAtMs) / 1000
const say = (text: string) => process.stdout.write(`[${elapsedSeconds().toFixed(1).padStart(6)} s] ${text}\n`)

const stop = new AbortController()
// Whoever read our output may be gone (`| head`); what was made is taken down all the same.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => stop.abort(new Error('nobody reads the output any more')))

const undo = new Undo()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (stop.signal.aborted) return say('cleaning up; one moment')
    say(`${signal}: stopping`)
    stop.abort(new Error(`stopped by ${signal}`))
  })
}

/** 0: all went well; 1: it did not; 130: stopped by the user before the verdict. */
async function main(): Promise<number> {
  let options: LabOptions
  try {
    options = parseLabOptions(process.argv.slice(2), { OFFBOX_HOME: process.env['OFFBOX_HOME'] })
  } catch (error) {
    explain(error)
    return 2
  }
  let code = 1
  let lastLine = ''
  try {
    if (needsUserNamespace()) return await runUnshared(import.meta.filename, process.argv.slice(2))
    await prepareUnshared()
    const { figures, complaints } = await runLab({ options, say, undo, signal: stop.signal, elapsedSeconds })
    for (const complaint of complaints) say(`NOT AS IT SHOULD BE: ${complaint}`)
    code = complaints.length === 0 ? 0 : 1
    lastLine = JSON.stringify(figures)
  } catch (error) {
    code = stop.signal.aborted ? 130 : 1
    if (!stop.signal.aborted) explain(error)
  }
  const failed = await undo.run()
  for (const what of failed) say(`could not clean up: ${what}`)
  if (options.json && lastLine) process.stdout.write(`${lastLine}\n`)
  return failed.length > 0 && code === 0 ? 1 : code
}

function explain(error: unknown): void {
  const code = codeOf(error)
  const hint = code === 'INTERNAL' ? ((error as Error)?.stack ?? '') : `→ ${ERRORS[code].caller}`
  process.stderr.write(`${code}: ${messageOf(error)}\n${hint}\n`)
}

process.exitCode = await main()
// A gRPC channel lingers for seconds after it was closed; everything that matters has been undone above.
process.exit()
