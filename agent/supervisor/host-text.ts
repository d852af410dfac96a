import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The script of every worker, as `node build.mjs` made it: beside the bundled agent, or in dist/agent when run from source. */
export function readHostText(): string {
  const beside = join(import.meta.dirname, 'worker-host.js')
  return readFileSync(existsSync(beside) ? beside : join(import.meta.dirname, '../../dist/agent/worker-host.js'), 'utf8')
}
