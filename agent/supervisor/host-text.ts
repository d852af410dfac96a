import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The script of every service of a tier, as `node build.mjs` made it: beside the bundled agent, or in dist/agent when run from source. */
export function readHostText(name: 'worker-host.js' | 'process-host.js' = 'worker-host.js'): string {
  const beside = join(import.meta.dirname, name)
  return readFileSync(existsSync(beside) ? beside : join(import.meta.dirname, '../../dist/agent', name), 'utf8')
}
