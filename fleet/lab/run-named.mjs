// `npm run bench -- NAME` and `npm run drill -- NAME`: sets up, then runs FOLDER/NAME.ts under Node 26 with the other arguments.
import './node-version.mjs'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { root, run26, SetupError, setUp } from './setup.mjs'

/** Ends the process with the named program's exit code. @param {string} folder from the root, e.g. "bench" */
export async function runNamed(folder, what) {
  const [name, ...args] = process.argv.slice(2)
  const names = readdirSync(join(root, folder)).flatMap((file) => (/^[a-z-]+\.ts$/.test(file) ? [file.slice(0, -3)] : []))
  if (!name || !/^[a-z-]+$/.test(name) || !existsSync(join(root, folder, `${name}.ts`))) {
    process.stderr.write(`${name && name !== '--help' ? `there is no ${what} ${name}\n` : ''}npm run ${what} -- NAME [--json]\n\nNames: ${names.join(', ')}\n`)
    process.exit(name === '--help' ? 0 : 2)
  }
  try {
    await setUp({ debian: true, say: (line) => process.stderr.write(`${line}\n`) })
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    process.stderr.write(`SETUP_MISSING: ${error.message}\n`)
    process.exit(1)
  }
  process.exit(await run26(`${folder}/${name}.ts`, args))
}
