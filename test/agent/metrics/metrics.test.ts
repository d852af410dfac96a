import t from 'tap'
import { agentFamilies, serviceFamilies } from '../../../agent/metrics/families.ts'
import { Metrics, type Family } from '../../../agent/metrics/open-metrics.ts'
import { Account } from '../../../agent/supervisor/account.ts'
import type { RunningService } from '../../../agent/supervisor/types.ts'

const family = (over: Partial<Family>): Family => ({ name: 'offbox_x', type: 'gauge', help: 'X.', read: () => [{ value: 1 }], ...over })

t.test('the text is OpenMetrics: type, unit and help first, counters with their suffix, an end mark', async (t) => {
  const metrics = new Metrics()
  metrics.add(
    family({ name: 'offbox_memory_bytes', unit: 'bytes', help: 'Two\nlines \\ one' }),
    family({ name: 'offbox_calls', type: 'counter', read: () => [{ labels: { who: 'a"b\\c\nd', what: 'x' }, value: 2.5 }] }),
    family({ name: 'offbox_odd', read: () => [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((value) => ({ value })) }),
    family({ name: 'offbox_none', read: () => [] }),
  )
  t.equal(
    metrics.render(),
    [
      '# TYPE offbox_memory_bytes gauge',
      '# UNIT offbox_memory_bytes bytes',
      '# HELP offbox_memory_bytes Two\\nlines \\\\ one',
      'offbox_memory_bytes 1',
      '# TYPE offbox_calls counter',
      '# HELP offbox_calls X.',
      'offbox_calls_total{who="a\\"b\\\\c\\nd",what="x"} 2.5',
      '# TYPE offbox_odd gauge',
      '# HELP offbox_odd X.',
      'offbox_odd NaN',
      'offbox_odd +Inf',
      'offbox_odd -Inf',
      '# TYPE offbox_none gauge',
      '# HELP offbox_none X.',
      '# EOF',
      '',
    ].join('\n'),
  )
})

t.test('a family that breaks a rule is found when it is added', async (t) => {
  const metrics = new Metrics()
  metrics.add(family({}))
  t.throws(() => metrics.add(family({})), /twice/)
  t.throws(() => metrics.add(family({ name: 'offbox_x_total' })), /not a name/)
  t.throws(() => metrics.add(family({ name: 'Other' })), /not a name/)
  t.throws(() => metrics.add(family({ name: 'offbox_memory', unit: 'bytes' })), /unit/)
})

t.test('every service is told with its bounds and how often it met them', async (t) => {
  const manifest = { heapMbMax: 32, limits: { cpuPercentMax: 50 } }
  const account = new Account(manifest)
  account.memoryBytes = 5_000_000
  account.cpuPercent = 12.5
  account.exceeds('LOGS_EXCEEDED', 7)
  account.exceeds('LIMIT_REACHED')
  const health = { status: 'degraded', reason: 'r', evidence: { sessionsUp: 2 } }
  const service = { service: 'one', version: '1.0.0', manifestSha256: 'ff', state: 'ready', health, starts: 3, use: account.use() } as unknown as RunningService
  const metrics = new Metrics()
  const parts = { services: () => [service], agent: () => ({ memoryBytes: 1, cpuMs: 2_000, uptimeMs: 3_000, starts: 4 }) }
  metrics.add(...agentFamilies(parts), ...serviceFamilies(parts))
  const lines = metrics.render().split('\n')
  for (const line of [
    'offbox_agent_cpu_seconds_total 2',
    'offbox_service_info{service="one",version="1.0.0",manifest_sha256="ff"} 1',
    'offbox_service_state{service="one",state="ready"} 1',
    'offbox_service_state{service="one",state="failed"} 0',
    'offbox_service_health{service="one",health="degraded"} 1',
    'offbox_service_evidence{service="one",name="sessionsUp"} 2',
    'offbox_service_memory_bytes{service="one"} 5000000',
    `offbox_service_memory_limit_bytes{service="one"} ${128 * 2 ** 20}`,
    'offbox_service_cpu_ratio{service="one"} 0.125',
    'offbox_service_cpu_limit_ratio{service="one"} 0.5',
    'offbox_service_limit_exceeded_total{service="one",code="MEMORY_EXCEEDED"} 0',
    'offbox_service_limit_exceeded_total{service="one",code="LOGS_EXCEEDED"} 7',
    'offbox_service_limit_exceeded_total{service="one",code="LIMIT_REACHED"} 1',
  ])
    t.ok(lines.includes(line), line)
  const names = lines.flatMap((line) => /^# TYPE (\S+)/.exec(line)?.[1] ?? [])
  t.equal(new Set(names).size, names.length)
})
