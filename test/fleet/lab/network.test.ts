import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { createLocalAgent } from '../../../fleet/lab/local-agent.ts'
import { createLabNetwork, portOf, removeLab } from '../../../fleet/lab/network.ts'
import { command, longRunning } from '../../../fleet/lab/process.ts'

const why = process.getuid?.() !== 0 ? 'needs root to make network namespaces' : existsSync('/bin/ip') ? false : 'needs iproute2'
const prefix = `obx-net-${process.pid}`
const log = () => {}
const namespaces = () => execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).match(new RegExp(`${prefix}-\\w+`, 'g')) ?? []

t.setTimeout(120_000)
const dir = await mkdtemp(join(tmpdir(), 'offbox-lab-'))
t.teardown(async () => {
  if (!why) await removeLab(prefix)
  await rm(dir, { recursive: true, force: true })
})

/** Stands in for the agent: listens, starts something that outlives it, and tells who it is. */
const AGENT = `
import { createServer } from 'node:net'
import { spawn } from 'node:child_process'
const child = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' })
createServer((socket) => socket.end('hello')).listen(9339, () => console.log(JSON.stringify({ msg: 'serving', pid: process.pid, child: child.pid })))
`

t.test('ports have fixed addresses and MACs', async (t) => {
  t.same(portOf(1), { index: 1, address: '10.77.0.11', mac: '52:54:00:4f:42:0b' })
  t.equal(new Set(Array.from({ length: 200 }, (_, index) => portOf(index + 1).mac)).size, 200)
  for (const bad of [0, 201, 1.5]) t.throws(() => portOf(bad), { code: 'ARGUMENT_INVALID' })
})

t.test('agents in their namespaces reach the bridge, and each other', { skip: why }, async (t) => {
  const network = await createLabNetwork(prefix, { log })
  const [one, two] = [await network.agentNamespace(portOf(1)), await network.agentNamespace(portOf(2))]
  t.equal(await network.agentNamespace(portOf(1)), one, 'asked for twice, made once')
  t.match(await network.tap(portOf(3)), 'port3')
  const ping = (namespace: string, to: string) => command('ip', ['netns', 'exec', namespace, process.execPath, '-e', TCP_PROBE, to])
  const listener = await longRunning(process.execPath, ['-e', TCP_LISTEN], { namespace: two, onLine: () => {} })
  t.equal((await ping(one, portOf(2).address)).trim(), 'hello')
  t.equal((await ping(network.namespace, portOf(2).address)).trim(), 'hello')
  await network.remove()
  await listener.exited
  t.same(namespaces(), [], 'nothing is left, and what ran inside is gone')
  await network.remove()
})

t.test('what a killed lab left behind goes when the next one of its name starts', { skip: why }, async (t) => {
  const network = await createLabNetwork(prefix, { log })
  const leftover = await longRunning('sleep', ['1000'], { namespace: await network.agentNamespace(portOf(1)), onLine: () => {} })
  const again = await createLabNetwork(prefix, { log })
  t.equal(await leftover.exited, 'SIGTERM')
  t.same(namespaces(), [`${prefix}-lan`])
  await again.remove()
})

t.test('an agent that is killed starts again, what it started lives on; with the power all of it goes', { skip: why }, async (t) => {
  const network = await createLabNetwork(prefix, { log })
  const program = join(dir, 'agent.mjs')
  const stateDir = join(dir, 'state')
  await writeFile(program, AGENT)
  await writeFile(join(dir, 'node.json'), '{"flags":[],"environment":{}}')
  const options = { name: 'd1', network, port: portOf(1), program, configFile: '/dev/null', stateDirs: [stateDir], consoleFile: join(dir, 'd1.log'), log }
  const agent = await createLocalAgent(options)
  const serving = async (from: number) => JSON.parse(await agent.console.waitFor(/"serving"/, { timeoutMs: 30_000, from })) as { pid: number; child: number }
  await agent.powerOn()
  await agent.powerOn()
  const first = await serving(0)
  t.equal(first.pid, agent.pid)
  const position = agent.console.count
  t.ok(agent.signal('SIGKILL'))
  const second = await serving(position)
  t.not(second.pid, first.pid)
  t.ok(alive(first.child), 'as BIRD lives on')
  await writeFile(join(stateDir, 'kept'), 'x')
  await agent.powerOff()
  t.notOk(agent.running)
  t.notOk([first.child, second.pid, second.child].some(alive))
  t.notOk(existsSync(stateDir), 'a diskless device keeps nothing')
  const off = agent.console.count
  await agent.powerOn()
  await serving(off)
  await agent.close()
  t.match(await readFile(options.consoleFile, 'utf8'), /serving/)
  await network.remove()
})

t.test('an abort signal cuts the power', { skip: why }, async (t) => {
  const network = await createLabNetwork(prefix, { log })
  await writeFile(join(dir, 'idle.mjs'), "console.log('up'); setInterval(() => {}, 1000)")
  const stop = new AbortController()
  const options = { name: 'd2', network, port: portOf(2), program: join(dir, 'idle.mjs'), configFile: '/dev/null', stateDirs: [], signal: stop.signal, log }
  const agent = await createLocalAgent({ ...options, consoleFile: join(dir, 'd2.log') })
  await agent.powerOn()
  await agent.console.waitFor(/up/, { timeoutMs: 30_000 })
  stop.abort()
  for await (const _line of agent.console.follow()) t.fail('nothing more comes')
  t.notOk(agent.running)
  await t.rejects(agent.powerOn(), { name: 'AbortError' })
  await network.remove()
})

t.test('a prefix that could match somebody else is refused', async (t) => {
  for (const bad of ['', 'A', 'a.*', '-x', 'x'.repeat(21)]) await t.rejects(createLabNetwork(bad, { log }), { code: 'ARGUMENT_INVALID' })
})

const TCP_LISTEN = "require('net').createServer((s) => s.end('hello')).listen(9000)"
const TCP_PROBE = `
const attempt = (left) => require('net').connect(9000, process.argv[1])
  .on('data', (data) => { console.log(String(data)); process.exit(0) })
  .on('error', () => left > 0 ? setTimeout(attempt, 100, left - 1) : process.exit(1))
attempt(200)
`

/** A process that ended but that nobody has waited for yet is not alive. */
function alive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}
