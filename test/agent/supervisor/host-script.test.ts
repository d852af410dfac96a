import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { HostScript } from '../../../agent/supervisor/host-script.ts'

/** Says what it ran with, and later what a service might say that got hold of the port. */
const TEXT = `
const { parentPort } = require('node:worker_threads')
const answer = () => 42
setImmediate(() => parentPort.postMessage(new Uint8Array([answer()])))`

/** The messages of one worker, and its end. */
async function run(script: HostScript): Promise<unknown[]> {
  const messages: unknown[] = []
  const worker = new Worker(script.boot, { eval: true, execArgv: ['--permission'], workerData: { host: script.data } })
  script.learnFrom(worker)
  worker.on('message', (message) => messages.push(message))
  await once(worker, 'exit')
  return messages
}

t.test('the first worker compiles the script, and those after it run what came of that', async (t) => {
  const script = new HostScript(TEXT)
  const [compiled, later] = await run(script)
  t.type(compiled, Uint8Array)
  t.same(later, new Uint8Array([42]))
  t.equal(script.data.compiled?.byteLength, (compiled as Uint8Array).byteLength)
  const again = await run(script)
  t.equal(again[0], null, 'nothing was compiled')
  t.same(again[1], new Uint8Array([42]))
})

t.test('what a worker says later is never taken for compiled code', async (t) => {
  const script = new HostScript(TEXT)
  await run(script)
  const before = script.data.compiled
  await run(script)
  t.equal(script.data.compiled, before)
})

t.test('compiled code that V8 refuses is made anew, and the script runs all the same', async (t) => {
  const script = new HostScript(TEXT)
  await run(script)
  script.data.compiled?.fill(0)
  const [compiled, later] = await run(script)
  t.type(compiled, Uint8Array)
  t.same(later, new Uint8Array([42]))
  t.equal((await run(script))[0], null)
})
