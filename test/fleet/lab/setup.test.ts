import { cpSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'

const root = join(import.meta.dirname, '../../..')

t.test('a set-up does not empty the packages of another checkout, to which node_modules is a link', async (t) => {
  const checkout = t.testdir({ theirs: { kept: '' }, 'package.json': '{}', 'package-lock.json': '{}' })
  mkdirSync(join(checkout, 'fleet/lab'), { recursive: true })
  for (const name of ['setup.mjs', 'needs.mjs']) cpSync(join(root, 'fleet/lab', name), join(checkout, 'fleet/lab', name))
  writeFileSync(join(checkout, 'build.mjs'), '')
  symlinkSync('theirs', join(checkout, 'node_modules'))
  const { setUp } = await import(join(checkout, 'fleet/lab/setup.mjs'))
  await t.rejects(setUp({ debian: false, say: () => {} }), { message: /node_modules is a link/ })
  t.same(readdirSync(join(checkout, 'theirs')), ['kept'])
})
