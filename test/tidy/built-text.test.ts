import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { buildAll } from '../../build.mjs'

t.test('what is built for the agent is ASCII: V8 holds a text with one other character in twice its size', async (t) => {
  const out = mkdtempSync(join(tmpdir(), 'offbox-built-'))
  t.teardown(() => rmSync(out, { recursive: true, force: true }))
  await buildAll({ out })
  for (const file of ['main.mjs', 'worker-host.js', 'process-host.js']) {
    const lines = readFileSync(join(out, file), 'utf8').split('\n')
    t.same(
      lines.filter((line) => /[^\0-\x7f]/.test(line)),
      [],
      file,
    )
  }
})
