/** `offbox bundle build` in processes of their own: nothing of when, where and by whom gets into the file. */
import { execFile } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { sha256Hex } from '../../../fleet/home/keys.ts'

const root = join(import.meta.dirname, '../../..')
const offbox = join(root, 'fleet/cli/offbox.mjs')
const services = readdirSync(join(root, 'services'), { withFileTypes: true })
  .filter((one) => one.isDirectory() && readdirSync(join(root, 'services', one.name)).includes('manifest.json'))
  .map(({ name }) => name)

t.setTimeout(300_000)

t.test('every service of ours is built and signed twice, bit for bit the same, whatever the surroundings', async (t) => {
  const directory = t.testdir()
  const home = join(directory, 'home')
  const run = async (args: readonly string[], surroundings: { cwd: string; env: Record<string, string> }) =>
    await promisify(execFile)(process.execPath, [offbox, ...args, '--home', home], { cwd: surroundings.cwd, env: { ...process.env, ...surroundings.env } })
  await run(['init', '--fleet', 'lab'], { cwd: root, env: {} })
  t.ok(services.length >= 3, services.join(', '))
  for (const name of services) {
    const built = async (number: number, surroundings: { cwd: string; env: Record<string, string> }) => {
      const out = join(directory, `${name}-${number}.offbox`)
      await run(['bundle', 'build', join(root, 'services', name), '--sign', '--out', out], surroundings)
      return sha256Hex(readFileSync(out))
    }
    const first = await built(1, { cwd: root, env: { TZ: 'UTC', LANG: 'C', USER: 'one' } })
    const second = await built(2, {
      cwd: directory,
      env: { TZ: 'Asia/Kathmandu', LANG: 'tr_TR.UTF-8', USER: 'other', SOURCE_DATE_EPOCH: '1', NODE_ENV: 'production' },
    })
    t.equal(second, first, name)
  }
})
