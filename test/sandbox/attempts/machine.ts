/** Out to the machine: files, network, programs, signals, flags. Each first needs a module of Node, by whatever route there is. */
import { type Attempt, ROUTES } from '../attempt.ts'

const withModule = (name: string, module: string, code: string): Attempt => ({ name, code: `const module = await module_('${module}')\n${code}` })

export const MACHINE: readonly Attempt[] = [
  // Every route by itself, so that one that opens is named.
  ...ROUTES.map((route): Attempt => ({ name: `process by ${route}`, code: `return useProcess(await (${route}))` })),
  withModule('fs: write a file', 'fs', `module.writeFileSync(DIRECTORY + '/escaped', 'x')`),
  withModule('fs: read a secret file', 'fs', `return module.readFileSync(SECRET_FILE, 'utf8')`),
  withModule('fs: open by the promises', 'fs/promises', `await module.writeFile(DIRECTORY + '/escaped', 'x')`),
  withModule('fs: a link beside the secret', 'fs', `module.linkSync(SECRET_FILE, DIRECTORY + '/escaped')`),
  withModule('sqlite: a database is a file', 'sqlite', `new module.DatabaseSync(DIRECTORY + '/escaped').exec('create table t (x)')`),
  withModule(
    'sqlite: attach the secret',
    'sqlite',
    `const db = new module.DatabaseSync(':memory:'); db.exec("attach '" + DIRECTORY + "/escaped' as a; create table a.t (x)")`,
  ),
  withModule('sqlite: load an extension', 'sqlite', `new module.DatabaseSync(':memory:', { allowExtension: true }).loadExtension(SECRET_FILE)`),
  withModule('net: connect', 'net', `await new Promise((resolve) => module.connect(PORT, '127.0.0.1', resolve).on('error', resolve))`),
  withModule('http: a request', 'http', `await new Promise((resolve) => module.get({ port: PORT, host: '127.0.0.1' }, resolve).on('error', resolve))`),
  withModule('tls: connect', 'tls', `await new Promise((resolve) => module.connect(PORT, '127.0.0.1', {}, resolve).on('error', resolve))`),
  { name: 'net: fetch', code: `return (await took('fetch', fetch)('http://127.0.0.1:' + PORT)).status` },
  { name: 'net: WebSocket', code: `await new Promise((resolve) => { new (took('WebSocket', WebSocket))('ws://127.0.0.1:' + PORT).onerror = resolve })` },
  withModule('child_process: run a program', 'child_process', `module.execFileSync('/bin/touch', [DIRECTORY + '/escaped'])`),
  withModule('child_process: fork', 'child_process', `module.fork('-e', ["require('fs').writeFileSync('" + DIRECTORY + "/escaped', '')"])`),
  withModule('cluster: fork', 'cluster', `module.setupPrimary({ exec: '/bin/touch', args: [DIRECTORY + '/escaped'] }); module.fork()`),
  {
    name: 'process.binding: spawn_sync',
    code: `(await reach()).binding('spawn_sync').spawn({ file: '/bin/touch', args: ['touch', DIRECTORY + '/escaped'], stdio: [] })`,
  },
  { name: 'process.binding: fs', code: `const fs = (await reach()).binding('fs'); fs.mkdir(DIRECTORY + '/escaped', 0o700, false)` },
  { name: 'process.dlopen', code: `took('dlopen', (await reach()).dlopen)({ exports: {} }, SECRET_FILE)` },
  { name: 'process.kill: the agent by its number', code: `(await reach()).kill(AGENT_PID, 'SIGUSR2')` },
  { name: 'process.kill: its own number', code: `const found = await reach(); found.kill(found.pid, 'SIGUSR2')` },
  { name: 'process.kill: its parent', code: `const found = await reach(); found.kill(found.ppid, 'SIGUSR2')` },
  { name: 'process.kill: its whole group', code: `(await reach()).kill(0, 'SIGUSR2')` },
  { name: 'process.exit', code: `(await reach()).exit(0)` },
  { name: 'process.reallyExit', code: `(await reach()).reallyExit(0)` },
  { name: 'process.env', code: `return JSON.stringify((await reach()).env)` },
  { name: 'process.report: a file of facts', code: `(await reach()).report.writeReport(DIRECTORY + '/escaped')` },
  { name: 'process.chdir: and its files', code: `(await reach()).chdir(DIRECTORY); took('a folder of its choice', true)` },
  withModule('v8: flags', 'v8', `module.setFlagsFromString('--allow-natives-syntax')`),
  withModule('v8: a heap snapshot as a file', 'v8', `module.writeHeapSnapshot(DIRECTORY + '/escaped')`),
  withModule('vm: the realm of the host', 'vm', `return useProcess(module.runInThisContext('process'))`),
  withModule('vm: a realm of its own', 'vm', `return useProcess(module.runInNewContext('this.constructor.constructor("return process")()'))`),
  withModule('inspector: open a port', 'inspector', `module.open(0, '127.0.0.1')`),
  withModule('module: a loader', 'module', `return useFiles(module.createRequire('/')('node:fs'))`),
  withModule('trace_events: a file', 'trace_events', `module.createTracing({ categories: ['v8'] }).enable(); took('traces', true)`),
  withModule('wasi: the file system', 'wasi', `took('WASI', new module.WASI({ version: 'preview1', preopens: { '/': DIRECTORY } }))`),
]
