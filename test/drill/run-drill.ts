/** Runs a drill as its users do, and reads the verdict that it prints last. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import type { Test } from 'tap'

export interface DrillResult {
  readonly code: number | null
  readonly stderr: string
  // biome-ignore lint/suspicious/noExplicitAny: each drill has its own
  readonly verdict: any
}

/** `name`: of a file beside this one. The drill ends with the test at the latest. */
export async function runDrill(test: Test, name: string, ...args: string[]): Promise<DrillResult> {
  const child = spawn(process.execPath, [join(import.meta.dirname, `${name}.ts`), '--json', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk) => (stdout += chunk))
  child.stderr.on('data', (chunk) => (stderr += chunk))
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
  // It cleans up after itself, which has to be done when the next one begins.
  test.teardown(async () => {
    child.kill()
    await ended
  })
  const code = await ended
  return { code, stderr, verdict: JSON.parse(stdout.trim().split('\n').at(-1) ?? '') }
}
