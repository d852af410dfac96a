import t from 'tap'
import { findForbidden } from '../../core/payload-rules.ts'

t.test('the first place that the sandbox refuses is named', async (t) => {
  t.match(findForbidden(`const a = 1\nlet b = import('x')\neval(a)`), { line: 2, column: 9, reason: /import/ })
  t.match(findForbidden(`eval(a)\nimport('x')`), { line: 1, column: 1, reason: /eval/ })
  t.match(findForbidden('let a = b <!-- c'), { line: 1, column: 11, reason: /HTML/ })
  t.match(findForbidden('a\n--> b'), { line: 2, column: 1 })
})

for (const code of ['import (x)', 'import\n(x)', 'import/**/(x)', '[...import(x)]', '"import("', '// eval(', 'eval\t(a)', '=import(x)']) {
  t.test(`refused: ${JSON.stringify(code)}`, async (t) => t.ok(findForbidden(code)))
}

for (const code of ['a.import(x)', 'reimport(x)', 'a.eval(b)', 'medieval(a)', '(0, eval)(a)', 'import a from "b"', 'a < ! --b', 'a-- > b']) {
  t.test(`not refused: ${JSON.stringify(code)}`, async (t) => t.notOk(findForbidden(code)))
}
