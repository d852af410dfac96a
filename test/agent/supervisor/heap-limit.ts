/** Run by limits.test.ts with the agent's own flags: fills the heap of a service and prints why it ended. */
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness } from './harness.ts'

const { supervisor } = await harness()
await supervisor.install(await counterBundle('1.0.0', { heapMbMax: 32 }), {})
const answer = await ask(supervisor, 'Do', 'eval const kept = []; for (;;) kept.push({ more: kept.length, and: [1, 2, 3] })')
process.stdout.write(`${JSON.stringify(answer)}\n`)
await supervisor.close()
process.exit(0)
