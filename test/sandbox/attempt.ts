/** One try to get out of the sandbox: a payload of its own, which the harness judges by what it did and not by what it says. */

export interface Attempt {
  /** A claim about what it tries, unique. */
  readonly name: string
  /**
   * Body of an async function in the service. Finds `request`, `call`, `ctx` and what TOOLS declares. What it returns is shown when the
   * attempt got through.
   */
  readonly code: string
  /** Text of the payload outside any function, run when it is loaded. */
  readonly top?: string
  /** The device must refuse to load it, for this reason. */
  readonly refused?: RegExp
  /** What its stream has to answer: the bytes as they were when it gave them. */
  readonly flows?: RegExp
  /** Replaced by the next version afterwards, so that its snapshot is asked for. */
  readonly swapped?: true
}

/** What the harness made for attempts to lay hands on. */
export interface Target {
  readonly agentPid: number
  readonly directory: string
  readonly secretFile: string
  readonly port: number
}

export const METHODS = [
  { path: '/escape.Attempt/Try', kind: 'unary' },
  { path: '/escape.Attempt/Quiet', kind: 'unary' },
  { path: '/escape.Attempt/Tell', kind: 'unary' },
  { path: '/escape.Attempt/Feed', kind: 'clientStream' },
  { path: '/escape.Attempt/Flow', kind: 'serverStream' },
] as const

/** Ways to Node's `process`, each an expression; an attempt of its own, and behind everything that needs a module. */
export const ROUTES: readonly string[] = [
  `process`,
  `globalThis.process`,
  `global.process`,
  `require('node:process')`,
  `module.constructor._load('node:process')`,
  `Function('return process')()`,
  `Function('return this')().process`,
  `new Function('return globalThis')().process`,
  `(0, eval)('process')`,
  `(0, eval)('this').process`,
  `({}).constructor.constructor('return process')()`,
  `Object.getPrototypeOf(async () => {}).constructor('return process')()`,
  `Object.getPrototypeOf(function* () {}).constructor('return process')().next().value`,
  `Object.getPrototypeOf(async function* () {}).constructor('return process')().next().then(({ value }) => value)`,
  `Reflect.construct(Function, ['return process'], class {})()`,
  `setTimeout(() => {}, 1).constructor.constructor('return process')()`,
  `new Promise((resolve) => setTimeout(function () { try { resolve(this.constructor.constructor('return process')()) } catch { resolve() } }, 1))`,
  `new Promise((resolve) => setImmediate(function () { try { resolve(this.constructor.constructor('return process')()) } catch { resolve() } }))`,
  `new AbortController().constructor.constructor('return process')()`,
  `ctx.signal.constructor.constructor('return process')()`,
  `call.signal.constructor.constructor('return process')()`,
  `ctx.log.constructor('return process')()`,
  `ctx.capabilities.proc.read.constructor('return process')()`,
  `request.constructor.constructor('return process')()`,
  `request.buffer.constructor.constructor('return process')()`,
  `console.log.constructor('return process')()`,
  `performance.constructor.constructor('return process')()`,
  `new URL('http://a/').constructor.constructor('return process')()`,
  `new TextDecoder().constructor.constructor('return process')()`,
  `structuredClone(new Error('x')).constructor.constructor('return process')()`,
  `thrownBy(() => structuredClone(() => {})).constructor.constructor('return process')()`,
  `thrownBy(() => atob('?')).constructor.constructor('return process')()`,
  `thrownBy(() => new URL('')).constructor.constructor('return process')()`,
  `new Error().constructor.constructor('return process')()`,
  `(await ctx.capabilities.proc.read(() => {}).catch((error) => error)).constructor.constructor('return process')()`,
  `new Compartment({ globals: {} }).globalThis.process`,
  `globalThis.constructor.constructor('return process')()`,
]

/** Declared in every payload. */
const TOOLS = `
const text = (value) => new TextEncoder().encode(String(value))
const loot = []
const hooks = {}
const thrownBy = (run) => { try { run() } catch (error) { return error } }
/** To have a means in hand is harm by itself: that another layer refuses to use it is no merit of the sandbox. */
const took = (what, means) => {
  if (means === undefined || means === null || means === false) throw new Error('no ' + what)
  // Not by push, which an attempt may have replaced.
  loot[loot.length] = 'forged: has ' + what
  // Also at once, for one that does not live until it is asked for its loot.
  try { ctx.log('error', 'forged: has ' + what) } catch {}
  return means
}
/** Resolves when the agent has what was said before. */
const heard = async () => { try { await ctx.capabilities.proc.read() } catch {} }
/** Whoever gets hold of process has everything. */
const useProcess = (found) => {
  took('process', typeof found?.kill === 'function')
  try { found.kill(AGENT_PID, 'SIGUSR2') } catch {}
  try { loot.push(found.env.OFFBOX_ESCAPE_SECRET) } catch {}
  try { useFiles(found.getBuiltinModule?.('node:fs') ?? found.binding?.('fs')) } catch {}
  return 'process ' + found.pid
}
const useFiles = (fs) => took('node:fs', typeof fs?.writeFileSync === 'function') && fs.writeFileSync(DIRECTORY + '/escaped', 'x')
const reach = async () => {
  const ways = [ROUTE_FUNCTIONS]
  for (const way of ways) {
    try { const found = await way(); if (typeof found?.kill === 'function') { took('process', found); await heard(); return found } } catch {}
  }
  throw new Error('no way to process')
}
const module_ = async (name) => took('node:' + name, (await reach()).getBuiltinModule('node:' + name))
`

/** The payload's text. */
export function payloadOf(attempt: Attempt, target: Target): string {
  const routes = ROUTES.map((route) => `async () => (${route})`).join(',\n')
  const constants = `const AGENT_PID = ${target.agentPid}, DIRECTORY = ${JSON.stringify(target.directory)}, SECRET_FILE = ${JSON.stringify(target.secretFile)}, PORT = ${target.port};`
  return `var offboxService = (() => {
${constants}
let ctx, call, request
${TOOLS.replace('[ROUTE_FUNCTIONS]', `[${routes}]`)}
${attempt.top ?? ''}
const attempt = async () => {
${attempt.code}
}
const handlers = {
  Try: async (bytes, about) => {
    [request, call] = [bytes, about]
    try { return text(await attempt()) } catch (error) { return text('threw ' + error) }
  },
  Quiet: async () => text('quiet'),
  Tell: async () => text(JSON.stringify(loot)),
  Feed: async (requests) => hooks.feed ? await hooks.feed(requests) : text((await Array.fromAsync(requests)).length),
  Flow: (bytes, about) => hooks.flow ? hooks.flow(bytes, about) : (async function* () { yield text('flow') })(),
}
const kinds = { Try: 'unary', Quiet: 'unary', Tell: 'unary', Feed: 'clientStream', Flow: 'serverStream' }
const create = () => ({
  methods: Object.keys(kinds).map((name) => ({ path: '/escape.Attempt/' + name, kind: kinds[name], handle: handlers[name] })),
  check: (raw) => raw,
  start: async (config, context, inherited) => {
    ctx = context
    // What a predecessor leaves has to be bytes of their own.
    if (inherited && (!ArrayBuffer.isView(inherited.bytes) || inherited.bytes.byteLength !== inherited.bytes.buffer.byteLength)) loot.push('forged: inherited')
  },
  stop: async () => hooks.stop?.(),
  health: () => hooks.health ? hooks.health() : { status: 'healthy', evidence: {} },
  snapshot: (schema) => hooks.snapshot ? hooks.snapshot(schema) : { schema, bytes: text('state') },
})
return { create }
})()`
}
