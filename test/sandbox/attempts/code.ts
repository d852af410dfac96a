/** Through the text of the payload: what the sandbox reads it for, and how it is compiled. */
import type { Attempt } from '../attempt.ts'

export const CODE: readonly Attempt[] = [
  { name: 'import() in the payload', code: `(await import('node:fs')).writeFileSync(DIRECTORY + '/escaped', 'x')`, refused: /BUNDLE_MALFORMED|refused/ },
  { name: 'import() with a space', code: `(await import ('node:fs')).writeFileSync(DIRECTORY + '/escaped', 'x')`, refused: /refused/ },
  { name: 'import() behind a comment', code: `(await import/* */('node:fs')).writeFileSync(DIRECTORY + '/escaped', 'x')`, refused: /refused/ },
  { name: 'import() on a line of its own', code: `(await import\n('node:fs')).writeFileSync(DIRECTORY + '/escaped', 'x')`, refused: /refused/ },
  { name: 'import() after three dots', code: `[...import('node:fs')]`, refused: /refused/ },
  { name: 'import() with an escape', code: `(await im\\u0070ort('node:fs')).writeFileSync(DIRECTORY + '/escaped', 'x')`, refused: /compile/ },
  { name: 'import.meta', code: `return import.meta.url`, refused: /compile/ },
  { name: 'import.defer()', code: `(await import.defer('node:fs')).writeFileSync(DIRECTORY + '/escaped', 'x')`, refused: /compile|refused/ },
  { name: 'a static import', top: `import fs from 'node:fs'`, code: `fs.writeFileSync(DIRECTORY + '/escaped', 'x')`, refused: /compile/ },
  { name: 'eval() in the payload', code: `return useProcess(eval('process'))`, refused: /refused/ },
  { name: 'an HTML comment', code: `let a = 1 <!-- 2\nreturn a`, refused: /refused/ },
  { name: 'an HTML comment at the start of a line', code: `let a = 1\n--> hidden\nreturn a`, refused: /refused/ },
  { name: 'import() by Function', code: `await Function('return imp' + 'ort("node:fs").then((fs) => fs.writeFileSync("' + DIRECTORY + '/escaped", "x"))')()` },
  {
    name: 'import() by AsyncFunction',
    code: `await Object.getPrototypeOf(async () => {}).constructor('(await imp' + 'ort("node:fs")).writeFileSync("' + DIRECTORY + '/escaped", "x")')()`,
  },
  {
    name: 'import() by an indirect eval',
    code: `const evaluate = eval; (await evaluate('imp' + 'ort("node:fs")')).writeFileSync(DIRECTORY + '/escaped', 'x')`,
  },
  { name: 'import() by a bound eval', code: `(await eval.call(null, 'imp' + 'ort("node:fs")')).writeFileSync(DIRECTORY + '/escaped', 'x')` },
  {
    name: 'import() by a compartment that evades the test',
    code: `const inner = new Compartment({ globals: {} }); return await inner.evaluate('imp' + 'ort("node:fs")', { __evadeImportExpressionTest__: true })`,
  },
  {
    name: 'modules of a compartment',
    code: `return (await new Compartment({ importHook: (name) => name }).import('node:fs')).namespace.writeFileSync(DIRECTORY + '/escaped', 'x')`,
  },
  { name: 'Function: parameters that close the list', code: `return useProcess(Function('a = 1) { return process } function b(', '')())` },
  { name: 'Function: a body that closes the function', code: `return useProcess(Function('}, function () { return process }, function () {')())` },
  { name: 'breaking out of the wrapper', top: `return { create }\n})()\nloot = process\n;(() => {`, code: `return useProcess(loot)`, refused: /./ },
  { name: 'a source URL that is a file', top: `//# sourceURL=/etc/passwd`, code: `return new Error().stack.includes('root') ? useProcess(1) : 'no'` },
  {
    name: 'a source map that is a file',
    top: `//# sourceMappingURL=file:///etc/passwd`,
    code: `return new Error().stack.includes('root') ? useProcess(1) : 'no'`,
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
    code: `let depth = 0; const fall = () => { depth++; fall() }; try { fall() } catch {}\nfor (let at = 0; at < 40; at++) { const near = (left) => left === 0 ? new AbortController().constructor('return process') : near(left - 1); try { useProcess(near(depth - at)()) } catch {} }`,
  },
]
