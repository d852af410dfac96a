import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'
import { type Cgroups, openCgroups } from '../../../agent/supervisor/cgroup.ts'
import { type Means, surveyMeans, UidPool } from '../../../agent/supervisor/confinement.ts'
import { SUPERVISOR_LIMITS } from '../../../agent/supervisor/limits.ts'
import { PROCESS_LIMITS, processTransport } from '../../../agent/supervisor/process-transport.ts'
import { Tiers } from '../../../agent/supervisor/tiers.ts'
import type { Transport } from '../../../agent/supervisor/transport.ts'
import { counterBundle, processHostText } from '../../fixtures/services/counter/bundle.ts'
import { until } from './harness.ts'

t.setTimeout(200_000)
const root = join(import.meta.dirname, '../../..')
const means = surveyMeans(true)
const PIPE = `const pipe = new (require('node:net').Socket)({ fd: 3 }); const frame = (header, bytes = 0) => { const start = Buffer.alloc(8); start.writeUInt32BE(Buffer.byteLength(header), 0); start.writeUInt32BE(bytes, 4); return Buffer.concat([start, Buffer.from(header)]) };`
const HELLO = `pipe.write(frame('[[],[]]'));`

interface Started {
  readonly transport: Transport
  readonly batches: unknown[]
  readonly printed: string[]
  readonly errors: string[]
  readonly end: Promise<string>
  ended: boolean
}

/** A process that runs any script in place of the host. */
async function start(hostText: string, over: Partial<Parameters<typeof processTransport>[0]> = {}): Promise<Started> {
  const batches: unknown[] = []
  const printed: string[] = []
  const errors: string[] = []
  let end = (_: string) => {}
  const started = { batches, printed, errors, ended: false, end: new Promise<string>((resolve) => (end = resolve)) }
  const open = processTransport({ hostText, means, cgroups: 'none in this test', key: `test-${process.pid}`, ...over })
  const transport = open(
    { bundle: await counterBundle('1.0.0'), limits: SUPERVISOR_LIMITS },
    {
      batch: (batch) => void batches.push(...(batch as unknown[])),
      printed: (_, text) => void printed.push(text),
      error: (reason) => void errors.push(reason),
      exit: (reason) => {
        started.ended = true
        end(reason)
      },
    },
  )
  return Object.assign(started, { transport })
}

/** What a hostile script does first, and what is said of it. */
const hostile: Record<string, { script: string; error: RegExp }> = {
  'speaks before it is asked': { script: `pipe.write(frame('[[{"type":"log"}],[]]'))`, error: /spoke before it was asked/ },
  'sends what is no frame': { script: `${HELLO} pipe.write('GET / HTTP/1.1\\r\\n\\r\\n')`, error: /broke the protocol: a frame with a header of/ },
  'announces more than a frame may hold': {
    script: `${HELLO} pipe.write(frame('[[],[]]', 0x7fffffff))`,
    error: /broke the protocol: a frame of 2147483647 bytes/,
  },
  'sends a header that is no JSON': { script: `${HELLO} pipe.write(frame('[[],[]'))`, error: /broke the protocol/ },
  'sends what is no batch': {
    script: `${HELLO} pipe.once('data', () => pipe.write(frame('[[{"list":["data",1,9]}],[]]')))`,
    error: /broke the protocol: a payload lies outside its batch/,
  },
  'ends in the middle of a frame': { script: `pipe.write(frame('[[],[]]').subarray(0, 10), () => process.exit(0))`, error: /middle of a frame/ },
}

t.test('a process that breaks the protocol is ended, and the reason is named', async (t) => {
  for (const [what, { script, error }] of Object.entries(hostile)) {
    const { end, errors } = await start(`${PIPE} ${script}; setInterval(() => {}, 1000)`)
    await end
    t.match(errors[0], error, what)
  }
})

t.test('a process that does not read is ended before more than its share waits for it', async (t) => {
  const { transport, end, errors } = await start(`${PIPE} ${HELLO} pipe.pause(); setInterval(() => {}, 1000)`)
  let posted = 0
  const feeding = setInterval(() => {
    transport.post([{ type: 'data', call: 1, bytes: new Uint8Array(4 * 1024 * 1024) }], [])
    posted += 4
  }, 10)
  await end
  clearInterval(feeding)
  t.match(errors[0], /it does not read: \d+ bytes wait for it/)
  t.ok(posted <= PROCESS_LIMITS.unreadBytesMax / 1024 / 1024 + 200, `${posted} MiB were offered`)
})

t.test('a process that writes without end does not keep the agent from its other work', async (t) => {
  const flood = `${PIPE} ${HELLO} pipe.once('data', () => { const many = Buffer.concat(Array.from({ length: 2000 }, () => frame('[[{"list":["credit",1,1]}],[]]'))); const write = () => { while (pipe.write(many)) {} pipe.once('drain', write) }; write() })`
  const started = await start(flood)
  await until('it floods', () => started.batches.length > 100_000)
  let turns = 0
  const before = started.batches.length
  const counting = setInterval(() => turns++, 1)
  await until('the agent goes on meanwhile', () => turns > 50)
  clearInterval(counting)
  t.ok(started.batches.length > before, `${started.batches.length - before} messages beside ${turns} turns`)
  t.ok(process.memoryUsage().rss < 1_500 * 1024 * 1024)
  started.transport.kill()
  t.match(await started.end, /ended by SIGKILL/)
})

t.test('printing without end is read at a bounded rate', async (t) => {
  const started = await start(`${PIPE} ${HELLO} const line = 'x'.repeat(65000); for (;;) require('node:fs').writeSync(1, line)`)
  await until('it prints', () => started.printed.length > 10)
  const before = started.printed.length
  await new Promise((resolve) => setTimeout(resolve, PROCESS_LIMITS.printPauseMs * 4))
  t.ok(started.printed.length - before < 20, `${started.printed.length - before} pieces`)
  started.transport.kill()
  await started.end
})

t.test('a process that never says a word can be ended', async (t) => {
  const { transport, end } = await start('for (;;);')
  transport.post([{ type: 'halfClose', call: 1 }], [])
  await until('it runs', () => children(process.pid).length > 0)
  transport.kill()
  t.match(await end, /ended by SIGKILL/)
})

t.test('the use of a process is known while it lives', async (t) => {
  const { transport, end } = await start(await processHostText())
  t.equal(await transport.usage(), undefined, 'not before it serves')
  let use = await transport.usage()
  while (!use) {
    await new Promise((resolve) => setTimeout(resolve, 10))
    use = await transport.usage()
  }
  t.ok(use.memoryBytes > 10e6 && use.memoryBytes < 500e6, `${use.memoryBytes} bytes`)
  t.ok(use.cpuMs > 0 && use.cpuMs < 60_000, `${use.cpuMs} ms`)
  transport.kill()
  await end
  t.equal(await transport.usage(), undefined)
})

t.test('without any of the tools a process still runs, and says what is missing', async (t) => {
  const tools = { setpriv: undefined, unshare: undefined, prlimit: undefined, env: '/usr/bin/env' }
  const bare: Means = { tools, layers: new Set(), missing: ['no namespaces: unshare is not installed'], canDropBounding: false, userNamespace: false }
  const { transport, end } = await start(await processHostText(), { means: bare })
  await until('it serves', () => children(process.pid).length > 0)
  t.same(transport.confinement, ['process', 'permission', 'no namespaces: unshare is not installed', 'ses', 'no cgroup: none in this test'])
  transport.kill()
  t.match(await end, /ended by SIGKILL/)
})

t.test('two that live at once never have the same uid', async (t) => {
  const pool = new UidPool()
  const taken = Array.from({ length: 100 }, () => pool.take('one'))
  t.equal(new Set(taken).size, 100)
  pool.free(taken[0] ?? 0)
  t.equal(pool.take('one'), taken[0], 'and a name gets its own again')
})

t.test('a device that insists on the process tier refuses the service where something is missing', async (t) => {
  const tiers = new Tiers({ processTier: 'required', tierMin: 'worker', key: `test-${process.pid}-required`, hostText: '', processHostText: '' })
  const lacking = [...surveyMeans(false).missing, ...lackingOf(openCgroups(`test-${process.pid}-required`))]
  const manifest = { name: 'secrets', tier: 'process', heapMbMax: 64 } as const
  tiers.check({ ...manifest, tier: 'worker' })
  if (lacking.length > 0) t.throws(() => tiers.check(manifest), { code: 'TIER_UNAVAILABLE' }, lacking.join('; '))
  else t.doesNotThrow(() => tiers.check(manifest))
  const lenient = new Tiers({ processTier: 'best-effort', tierMin: 'process', key: 'test', hostText: '', processHostText: '' })
  lenient.check({ ...manifest, tier: 'worker' })
  t.throws(() => lenient.check({ ...manifest, limits: { memoryMbMax: 95 } }), { code: 'TIER_UNAVAILABLE' }, 'and one that could not even start there')
})

const lackingOf = (cgroups: Cgroups | string) => (typeof cgroups === 'string' ? [cgroups] : cgroups.missing)
const groups = openCgroups(`test-${process.pid}`)
const noGroups = typeof groups === 'string' ? `no control groups: ${groups}` : false

t.test('a control group ends with all that is in it, also one that an earlier agent left', { skip: noGroups }, async (t) => {
  if (typeof groups === 'string') return
  const sleeper = spawn('sleep', ['1000'])
  const exited = once(sleeper, 'exit')
  const group = groups.make('sleeper', { memoryMbMax: 64, cpuPercentMax: 50 })
  await group.join(sleeper.pid ?? 0)
  t.same(await group.pids(), [sleeper.pid])
  t.equal(await group.end(), true)
  t.same(await exited, [null, 'SIGKILL'])

  const key = `test-${process.pid}-earlier`
  const earlier = openCgroups(key)
  if (typeof earlier === 'string') return
  const left = spawn('sleep', ['1000'])
  const leftExited = once(left, 'exit')
  await earlier.make('left', { memoryMbMax: 64, cpuPercentMax: 50 }).join(left.pid ?? 0)
  openCgroups(key)
  t.same(await leftExited, [null, 'SIGKILL'])
  const mount = readFileSync('/proc/self/mountinfo', 'utf8').match(/^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 /m)?.[1] ?? ''
  await until('nothing is left', () => !readdirSync(mount).some((name) => name.startsWith(`offbox-test-${process.pid}`)))
})

/** An agent of sorts: starts one process of a service, and says so. */
const AGENT = `
import { createSupervisor } from '${root}/agent/supervisor/supervisor.ts'
import { counterBundle, hostText, processHostText } from '${root}/test/fixtures/services/counter/bundle.ts'
const host = { capability: async () => ({}), log: () => {}, methodsChanged: () => {} }
const supervisor = createSupervisor(host, { hostText: await hostText(), tiers: { processHostText: await processHostText(), key: 'test-' + process.pid } })
await supervisor.install(await counterBundle('1.0.0', { tier: 'process' }), {})
console.log(JSON.stringify(supervisor.get('counter').confinement))
`

t.test('an agent that is killed leaves no process behind', async (t) => {
  const agent = spawn(process.execPath, ['--input-type=module-typescript', '--eval', AGENT], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => agent.kill('SIGKILL'))
  await once(createInterface({ input: agent.stdout }), 'line')
  const below = descendants(agent.pid ?? 0)
  t.ok(below.length >= 1, `${below.length} processes`)
  agent.kill('SIGKILL')
  await until('they are gone', () => below.every((pid) => !existsSync(`/proc/${pid}`)))
})

const userNamespaces = spawnSync('unshare', ['-Urn', 'true']).status === 0 ? false : 'no user namespaces here'

t.test('without root the process has no uid of its own, and all the rest', { skip: userNamespaces }, async (t) => {
  const { stdout, stderr } = spawnSync(
    'unshare',
    ['-Urn', '--kill-child', '--fork', process.execPath, '--input-type=module-typescript', '--eval', `${AGENT}\nprocess.exit()`],
    {
      encoding: 'utf8',
    },
  )
  t.match(stdout, /"no uid of its own: this user namespace has no uids to give"/, stderr)
  t.match(stdout, /"privileges dropped","network namespace","pid namespace","rlimits"/)
})

function children(pid: number): number[] {
  const tasks = existsSync(`/proc/${pid}/task`) ? readdirSync(`/proc/${pid}/task`) : []
  return tasks.flatMap((task) => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number))
}

function descendants(pid: number): number[] {
  return children(pid).flatMap((child) => [child, ...descendants(child)])
}
