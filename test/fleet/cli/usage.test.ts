import t from 'tap'
import { usageRow, usageWords } from '../../../fleet/cli/usage.ts'
import { ServiceStatus } from '../../../proto/gen/lifecycle.ts'

const MIB = 2 ** 20
const limits = { memoryBytesMax: 128 * MIB, cpuPercentMax: 50, streamsMax: 256, messagesPerSecondMax: 50_000, logLinesPerSecondMax: 50 }
const status = (usage: object | null) =>
  ServiceStatus.decode(ServiceStatus.encode({ service: 'one', version: '1.0.0', usage: usage && { ...limits, ...usage } }))

t.test('a row shows use beside bound', async (t) => {
  const row = usageRow(status({ memoryBytes: 32 * MIB, cpuPercent: 12.4, streamsOpen: 3, messages: 70, exceeded: { LOGS_EXCEEDED: 9, MEMORY_EXCEEDED: 1 } }))
  t.same(row, ['one', '1.0.0', '32 of 128 MiB', '12 of 50 %', '3 of 256', '70', 'LOGS_EXCEEDED 9 times, MEMORY_EXCEEDED once'])
  t.same(usageRow(status(null)).slice(2), ['-', '-', '-', '-', '-'])
})

t.test('there is something to say only when a bound was met or is near', async (t) => {
  t.same(usageWords(status(null)), [])
  t.same(usageWords(status({ memoryBytes: 50 * MIB })), [])
  t.match(usageWords(status({ memoryBytes: 120 * MIB, exceeded: { CPU_EXCEEDED: 2 } })), [/CPU_EXCEEDED 2 times/, /120 of 128 MiB/])
})
