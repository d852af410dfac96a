// `npm run fuzz -- [TARGET …] [--seconds N] [--json]`: sets up, then runs test/fuzz/main.ts under Node 26.
import '../../fleet/lab/node-version.mjs'
import { run26, SetupError, setUp } from '../../fleet/lab/setup.mjs'

try {
  await setUp({ debian: false, say: (line) => process.stderr.write(`${line}\n`) })
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`SETUP_MISSING: ${error.message}\n`)
  process.exit(1)
}
process.exit(await run26('test/fuzz/main.ts', process.argv.slice(2)))
