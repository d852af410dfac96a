/** Through the text of the payload: what the sandbox reads it for, and how it is compiled. */
import type { Attempt } from '../attempt.ts'

export const CODE: readonly Attempt[] = [
  { name: 'import() in the payload', code: `useFiles(await import('node:fs'))`, refused: /BUNDLE_MALFORMED|refused/ },
  { name: 'import() with a space', code: `useFiles(await import ('node:fs'))`, refused: /refused/ },
  { name: 'import() behind a comment', code: `useFiles(await import/* */('node:fs'))`, refused: /refused/ },
  { name: 'import() on a line of its own', code: `useFiles(await import\n('node:fs'))`, refused: /refused/ },
  {
    name: 'import() after three dots',
    code: `Promise.prototype[Symbol.iterator] = function* () { yield this }; const [found] = [...import('node:fs')]; useFiles(await found)`,
    refused: /refused/,
  },
  { name: 'eval() in the payload', code: `return useProcess(eval('process'))`, refused: /refused/ },
  { name: 'import() by Function', code: `useFiles(await Function('return imp' + 'ort("node:fs")')())` },
  {
    name: 'import() by AsyncFunction',
    code: `useFiles(await Object.getPrototypeOf(async () => {}).constructor('return imp' + 'ort("node:fs")')())`,
  },
  {
    name: 'import() by an indirect eval',
    code: `const evaluate = eval; useFiles(await evaluate('imp' + 'ort("node:fs")'))`,
  },
  { name: 'import() by a bound eval', code: `useFiles(await eval.call(null, 'imp' + 'ort("node:fs")'))` },
  {
    name: 'import() by a compartment that evades the test',
    code: `const inner = new Compartment({ globals: {} }); useFiles(await inner.evaluate('imp' + 'ort("node:fs")', { __evadeImportExpressionTest__: true }))`,
  },
  {
    name: 'modules of a compartment',
    code: `useFiles((await new Compartment({ importHook: (name) => name }).import('node:fs')).namespace)`,
  },
  { name: 'Function: parameters that close the list', code: `return useProcess(Function('a = 1) { return process } function b(', '')())` },
  { name: 'Function: a body that closes the function', code: `return useProcess(Function('}, function () { return process }, function () {')())` },
  {
    name: 'breaking out of the wrapper',
    top: `return {}\n})()\n})();\nlet outside; try { outside = process } catch {}\n(() => { var offboxService = (() => {\nlet ctx, call, request; const loot = [], hooks = {}, text = (value) => new TextEncoder().encode(String(value))`,
    code: `loot[0] = typeof outside === 'object' ? 'forged: has process' : ''`,
  },
  {
    name: 'names that fall through by Symbol.unscopables',
    code: `globalThis[Symbol.unscopables] = { process: true, require: true }; return useProcess(process)`,
  },
  { name: 'the same by a definition', code: `Object.defineProperty(globalThis, Symbol.unscopables, { value: { process: true } }); return useProcess(process)` },
  {
    name: 'a prototype of the globals that answers every name',
    code: `Object.setPrototypeOf(globalThis, new Proxy({}, { get: (_, name) => loot.push(String(name)) })); return useProcess(process)`,
  },
  { name: 'arguments of the evaluator', code: `return useProcess(arguments[0].process ?? arguments[1]?.process)` },
  { name: 'callers of the payload', code: `function up() { return up.caller ?? arguments.callee.caller }\nreturn useProcess(up()('process'))` },
  { name: 'this at the top', top: `const top = this`, code: `return useProcess(top.process)` },
  {
    name: 'a getter that is called with the scope as this',
    code: `Object.defineProperty(globalThis, 'trap', { get() { return this } }); return useProcess(trap.process)`,
  },
  {
    name: 'a tail of the stack',
    code: `const near = (left, run) => left === 0 ? run() : near(left - 1, run)
let [most, tooMany] = [0, 1e6]
while (tooMany - most > 1) { const half = (most + tooMany) >> 1; try { near(half, () => 0); most = half } catch { tooMany = half } }
for (let at = 0; at < 400; at++) try { useProcess(near(most - at, () => new AbortController().constructor.constructor('return process'))()) } catch {}`,
  },
]
