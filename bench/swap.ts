/**
 * Hot swaps of a stateful service while a client keeps eight calls in flight: how long calls were held (from holding the first to
 * releasing the last), and whether any failed or any number was given out twice. Every swap is confirmed before the next.
 */
import { messageOf } from '../core/errors.ts'
import { agentUnderLoad, next } from './agent-under-load.ts'
import { median, quantile, report } from './report.ts'

const SWAPS = 40
const IN_FLIGHT = 8

const agent = await agentUnderLoad()
try {
  await agent.bring('Install', '1.0.0')
  const client = await agent.connect()
  const seen = new Set<number>()
  const result = { calls: 0, failed: 0, duplicated: 0 }
  let calling = true
  const callers = Array.from({ length: IN_FLIGHT }, async () => {
    while (calling) {
      try {
        const count = await next(client)
        if (seen.has(count)) result.duplicated++
        seen.add(count)
        result.calls++
      } catch (error) {
        result.failed++
        process.stderr.write(`call failed: ${messageOf(error)}\n`)
      }
    }
  })
  const heldMs: number[] = []
  const heldCalls: number[] = []
  for (let swap = 0; swap < SWAPS; swap++) {
    const change = await agent.bring('Upgrade', swap % 2 === 0 ? '1.1.0' : '1.0.0')
    heldMs.push(change.heldMs)
    heldCalls.push(change.heldCalls)
  }
  calling = false
  await Promise.all(callers)
  client.close()
  const rows = { 'calls held': { samples: heldMs, unit: 'ms' }, 'number of calls held': { samples: heldCalls, unit: 'calls' } }
  report('swap', rows, { swaps: SWAPS, ...result, lost: Math.max(...seen) - result.calls, heldMs: median(heldMs), heldP99Ms: quantile(heldMs, 0.99) })
} finally {
  await agent.close()
}
process.exit(0)
