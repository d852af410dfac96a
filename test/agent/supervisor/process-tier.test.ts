import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { UID_FIRST } from '../../../agent/supervisor/confinement.ts'
import type { Supervisor } from '../../../agent/supervisor/types.ts'
import { counterBundle, escapedHostText, siblingBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, harness, stream, until } from './harness.ts'

t.setTimeout(280_000)
const tier = 'process' as const
const root = process.getuid?.() === 0
const notRoot = root ? false : 'not root: no uid to give'

/** Runs code in a service that is out of its sandbox, and answers what it returns, as text. */
async function run(supervisor: Supervisor, code: string): Promise<string> {
  const outcome = await ask(
    supervisor,
    'Do',
    `eval try { const node = (name) => process.getBuiltinModule('node:' + name); ${code} } catch (error) { return String(error.code ?? error.message) }`,
  )
  return outcome.text ?? `${outcome.error} ${outcome.message}`
}

const ready = (supervisor: Supervisor, service: string) => supervisor.get(service)?.state === 'ready'

t.test('a service serves from a process of its own as it does from a worker', async (t) => {
  const { supervisor, capabilityCalls, logs } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0', { tier }), {})
  t.same(await ask(supervisor, 'Next'), { text: '1.0.0 1' })
  t.same(await ask(supervisor, 'Do', 'lend'), { text: '{"load1":1.5}' })
  t.same(capabilityCalls, ['counter proc.read'])
  t.match(await ask(supervisor, 'Do', 'refuse'), { error: 'ARGUMENT_INVALID', message: 'refused on purpose' })
  t.match(await ask(supervisor, 'Do', 'bug'), { error: 'INTERNAL' })
  t.same(await ask(supervisor, 'Do', 'print'), { text: 'done' })
  await until('what it printed is logged', () => logs.some(({ fields }) => fields['stdout'] === 'printed\n'))
  const sum = stream(supervisor, 'Sum', 'clientStream')
  for (let number = 1; number <= 200; number++) sum.send(`${number}`)
  sum.handle.halfClose()
  t.equal(await sum.ended, 'OK')
  t.same(sum.received, ['20100'])
  const watch = stream(supervisor, 'Watch', 'serverStream', '300')
  t.equal(await watch.ended, 'OK')
  t.equal(watch.received.length, 300)
  t.match(supervisor.get('counter'), { tier: 'process', confinement: ['process', 'permission'] })
})

t.test('a device may want every service in a process', async (t) => {
  const { supervisor } = await harness({}, { tierMin: 'process' })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  t.match(supervisor.get('counter'), { tier: 'process' })
  t.not(await run(supervisor, 'return typeof process'), 'object', 'the sandbox is in the process as well')
})

t.test('a swap loses no call and no count, from worker to process, between processes, and back', async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0'), {})
  await supervisor.commit('counter')
  const counts: number[] = []
  const failed: string[] = []
  let calling = true
  const callers = Array.from({ length: 8 }, async () => {
    while (calling) {
      const { text, error } = await ask(supervisor, 'Next')
      if (error) failed.push(error)
      else counts.push(Number(text.split(' ')[1]))
    }
  })
  const versions = [
    ['1.1.0', tier],
    ['1.2.0', tier],
    ['1.3.0', 'worker'],
    ['1.4.0', tier],
  ] as const
  for (const [version, where] of versions) {
    const before = counts.length
    await supervisor.swap(await counterBundle(version, { tier: where }), {})
    await until('it serves', () => counts.length > before + 100)
    t.match(supervisor.get('counter'), { version, tier: where })
    if (version === '1.4.0') await supervisor.revert('counter', 'as planned')
    else await supervisor.commit('counter')
  }
  t.match(supervisor.get('counter'), { version: '1.3.0', tier: 'worker' }, 'a revert goes back to the other tier')
  calling = false
  await Promise.all(callers)
  t.same(failed, [])
  t.same(
    counts.sort((a, b) => a - b),
    Array.from({ length: counts.length }, (_, index) => index + 1),
    `${counts.length} calls, each once`,
  )
})

/** What a service that is out of its sandbox finds; each answer must match. */
const reach: Record<string, { code: string; answer: RegExp; skip?: string | false }> = {
  'no files': { code: `return node('fs').readFileSync('/etc/hostname')`, answer: /^ERR_ACCESS_DENIED$/ },
  'no file through a descriptor of its own': { code: `return node('fs').writeSync(4, 'x')`, answer: /^(EBADF|ERR_ACCESS_DENIED)$/ },
  'no database': {
    code: `new (node('sqlite').DatabaseSync)('/tmp/offbox-escape-${process.pid}').exec('create table t (a)'); return 'made'`,
    answer: /^(?!made)/,
  },
  'no programs': { code: `return node('child_process').execSync('id')`, answer: /^ERR_ACCESS_DENIED$/ },
  'no workers': { code: `return new (node('worker_threads').Worker)('1', { eval: true })`, answer: /^ERR_ACCESS_DENIED$/ },
  'no interfaces': { code: `return Object.keys(node('os').networkInterfaces()).join()`, answer: /^$/ },
  'no network': {
    code: `return await new Promise((resolve) => node('net').connect(9, '127.0.0.1').on('error', (error) => resolve(error.code)))`,
    answer: /^(ERR_ACCESS_DENIED|ENETUNREACH)$/,
  },
  'no datagrams': {
    code: `return await new Promise((resolve) => node('dgram').createSocket('udp4').on('error', (error) => resolve(error.code)).send('x', 9, '127.0.0.1', (error) => resolve(error ? error.code : 'sent')))`,
    answer: /^(ERR_ACCESS_DENIED|ENETUNREACH)$/,
  },
  'no signal to the agent': { code: `process.kill(${process.pid}, 0); return 'sent'`, answer: /^(ESRCH|EPERM)$/ },
  'no signal to everybody': { code: `process.kill(-1, 0); return 'sent'`, answer: /^(ESRCH|EPERM)$/ },
  'no other process to be seen': { code: `return process.pid + ' ' + process.ppid`, answer: /^1 0$/ },
  'no environment': { code: `return JSON.stringify(process.env)`, answer: /^\{\}$/ },
  'a uid of its own': { code: `return process.getuid() + ' ' + process.getgid()`, answer: /^19\d{8} 19\d{8}$/, skip: notRoot },
  'no way to another uid': { code: `process.setuid(0); return 'root'`, answer: /^EPERM$/, skip: notRoot },
}

t.test('a service that got out of its sandbox gets no further than its process', async (t) => {
  const { supervisor } = await harness({}, { processHostText: await escapedHostText() })
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0', { tier }), {})
  await supervisor.commit('counter')
  t.equal(await run(supervisor, 'return typeof process'), 'object', 'it is out')
  const missing = supervisor.get('counter')?.confinement.find((one) => one.startsWith('no namespaces'))
  for (const [what, { code, answer, skip = missing }] of Object.entries(reach)) {
    if (skip) t.comment(`skipped: ${what}: ${skip}`)
    else t.match(await run(supervisor, code), answer, what)
  }
  t.match(await ask(supervisor, 'Next'), { text: '1.0.0 1' }, 'and is none the worse for it')
})

t.test('two services have two uids, and the kernel says that neither has a privilege', { skip: notRoot }, async (t) => {
  const { supervisor } = await harness()
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0', { tier }), {})
  const sibling = await siblingBundle()
  await supervisor.install({ ...sibling, manifest: { ...sibling.manifest, tier } }, {})
  const services = children(process.pid)
    .flatMap((pid) => [pid, ...children(pid)])
    .map(statusOf)
    .filter(({ uid }) => uid >= UID_FIRST)
  t.equal(services.length, 2)
  t.equal(new Set(services.map(({ uid }) => uid)).size, services.length, services.map(({ uid }) => uid).join())
  for (const { status } of services) {
    for (const line of ['CapPrm:\t0000000000000000', 'CapEff:\t0000000000000000', 'CapBnd:\t0000000000000000', 'NoNewPrivs:\t1']) t.match(status, line)
  }
})

function children(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number),
  )
}

function statusOf(pid: number): { uid: number; status: string } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return { uid: Number(/^Uid:\t(\d+)/m.exec(status)?.[1]), status }
}

/** (module (memory 1) (func (export "f") (i32.store (i32.const 0x70000000) (i32.const 1)))): harmless while V8 checks bounds. */
const WILD_STORE = '0061736d01000000010401600000030201000503010001070501016600000a0f010d004180808080074101360200 0b'.replace(' ', '')

/** Each ends its process, or makes it useless; the reason in the history must match. A heap that is nearly full hangs as well as it fails. */
const deaths: Record<string, { code: string; reason: RegExp }> = {
  abort: { code: 'process.abort()', reason: /ended by SIG(ABRT|SEGV|TRAP|ILL)|code 13[0-9]/ },
  'a wild store in machine code': {
    code: `for (const flag of ['--no-wasm-bounds-checks', '--no-wasm-enforce-bounds-checks']) node('v8').setFlagsFromString(flag); new WebAssembly.Instance(new WebAssembly.Module(Buffer.from('${WILD_STORE}', 'hex'))).exports.f()`,
    reason: /ended by SIGSEGV/,
  },
  exit: { code: 'process.exit(3)', reason: /ended with code 3/ },
  'a closed pipe': { code: `node('fs').closeSync(3); setTimeout(() => process.exit(0), 100); return 'closed'`, reason: /ended with code|broke the protocol/ },
  'a signal to itself': { code: `process.kill(0, 'SIGKILL'); process.kill(process.pid, 'SIGKILL'); process.exit(4)`, reason: /ended by SIGKILL|code 4/ },
  'a loop without end': { code: 'for (;;);', reason: /heartbeat/ },
  'a heap without end': { code: 'const list = []; for (;;) list.push(new Array(1000).fill(list.length))', reason: /MEMORY_EXCEEDED|heartbeat/ },
  'buffers without end': {
    code: `const list = []; setInterval(() => { for (let i = 0; i < 20; i++) list.push(Buffer.alloc(5e6, 1)) }, 1); await new Promise(() => {})`,
    reason: /MEMORY_EXCEEDED|heartbeat/,
  },
}

t.test('whatever ends a process leaves the agent and the others alone, and the service comes back', async (t) => {
  const { supervisor } = await harness(
    { heartbeatTimeoutMs: 1_500, healthIntervalMs: 200, backoffFirstMs: 20, restartsBurst: 20 },
    { processHostText: await escapedHostText() },
  )
  t.teardown(() => supervisor.close())
  await supervisor.install(await counterBundle('1.0.0', { tier }), {})
  await supervisor.commit('counter')
  const sibling = await siblingBundle()
  await supervisor.install({ ...sibling, manifest: { ...sibling.manifest, tier } }, {})
  await supervisor.commit('sibling')
  for (const [what, { code, reason }] of Object.entries(deaths)) {
    const before = supervisor.get('counter')?.starts ?? 0
    void run(supervisor, code)
    await until(`${what} is found and the service is back`, () => (supervisor.get('counter')?.starts ?? 0) > before && ready(supervisor, 'counter'))
    const end = supervisor.get('counter')?.history.findLast(({ to }) => to === 'backoff')
    t.match(end?.reason, reason, what)
    t.match(await ask(supervisor, 'Next'), { text: '1.0.0 1' }, `${what}: it serves again`)
    t.match(supervisor.get('sibling'), { starts: 1, state: 'ready', health: { status: 'healthy' } }, `${what}: its sibling never noticed`)
  }
})
