/** An agent of its own process for control.test.ts, with one service that faults in native code: argument "worker" or "process". */
import { runAttempts } from './run-attempts.ts'

const tier = process.argv[2] === 'process' ? 'process' : 'worker'
// A process that is the first of its PID namespace ignores signals of its own making, but no trap of the processor.
const code = `const found = await reach()
found.kill(found.pid, 'SIGSEGV')
await new Promise((resolve) => setTimeout(resolve, 200))
found.getBuiltinModule('node:v8').setFlagsFromString('--allow-natives-syntax')
Function('%AbortJS("a fault")')()`
const [outcome] = await runAttempts([{ name: 'a fault in native code', code }], { tier, unconfined: true })
process.stdout.write(/SERVICE_CRASHED/.test(outcome?.said ?? '') ? 'the agent lives\n' : `the service lives: ${outcome?.said}\n`)
process.exit(0)
