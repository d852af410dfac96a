import { spawn } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { noLab } from '../integration/lab-under-test.ts'

async function drill(...args: string[]) {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'process-tier.ts'), '--json', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk) => (stdout += chunk))
  child.stderr.on('data', (chunk) => (stderr += chunk))
  const code = await new Promise((resolve) => child.on('close', resolve))
  return { code, stderr, verdict: JSON.parse(stdout.trim().split('\n').at(-1) ?? '') }
}

t.test('on a device the kernel ends a service that takes more memory or threads than it may', { skip: noLab('pxe'), timeout: 880_000 }, async (t) => {
  const { code, verdict, stderr } = await drill()
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { boot: 'pxe', passed: true, agentRestarts: 0, othersRestarted: 0 })
})

t.test('the drill fails where the control groups bound nothing', { skip: noLab('pxe'), timeout: 880_000 }, async (t) => {
  const { code, verdict } = await drill('--sabotage', 'no-bounds')
  t.equal(code, 1)
  t.match(verdict, { passed: false })
})
