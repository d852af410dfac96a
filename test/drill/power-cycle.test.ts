import { spawn } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { noLab } from '../integration/lab-under-test.ts'

async function drill(...args: string[]) {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'power-cycle.ts'), '--local', '--json', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk) => (stdout += chunk))
  child.stderr.on('data', (chunk) => (stderr += chunk))
  const code = await new Promise((resolve) => child.on('close', resolve))
  return { code, stderr, verdict: JSON.parse(stdout.trim().split('\n').at(-1) ?? '') }
}

t.test('the drill passes where the device comes back', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const { code, verdict, stderr } = await drill()
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { boot: 'local', passed: true, services: 3, bgpSessionEnds: 2 })
})

t.test('the drill fails where the controller has forgotten what the device should run', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const { code, verdict } = await drill('--sabotage', 'forget')
  t.equal(code, 1)
  t.match(verdict, { passed: false })
})
