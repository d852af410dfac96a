/**
 * Every function of the published suite (github.com/theupdateframework/tuf-conformance at eec841c) as a case against the device's own trust
 * with the device's own rules. Where our profile of TUF is narrower than the suite, the case says so and asserts the refusal.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { BASIC, EXPIRATION } from './conformance/basic.ts'
import { ROLLBACK, ROTATIONS } from './conformance/rollback.ts'
import { Scene } from './conformance/scene.ts'
import { DELEGATIONS, DOWNLOAD, KEYS, NAMES } from './conformance/targets.ts'

const CASES = { ...BASIC, ...EXPIRATION, ...DOWNLOAD, ...KEYS, ...NAMES, ...ROLLBACK, ...DELEGATIONS, ...ROTATIONS }

for (const [name, run] of Object.entries(CASES)) {
  t.test(name, { timeout: 250_000 }, async (t) => await run(new Scene(t), t))
}

t.test('docs/tuf-conformance.md names every function of the suite, and each is a case here', async (t) => {
  const docs = readFileSync(join(import.meta.dirname, '../../../../docs/tuf-conformance.md'), 'utf8')
  const named = [...docs.matchAll(/^\| `(test_[a-z0-9_]+)`/gm)].map(([, name]) => name)
  t.same(named.sort(), Object.keys(CASES).sort())
})
