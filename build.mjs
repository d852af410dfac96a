// Builds what runs: proto/gen, and dist/ with the agent, the host script that runs services, and nothing else. Service bundles
// are built by `offbox bundle build`. Runs under any Node >= 20; called by npm's `prepare`, `npm start` and `npm test`.
import { copyFileSync, existsSync, lstatSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { generate } from './proto/generate.mjs'

const root = import.meta.dirname

/**
 * Bundles the agent, its examiner thread and the hosts of services (worker, process) into `out`, dist/agent by default; tests that run at once each use a directory of their
 * own. Readable stacks matter more than 200 kB: nothing is minified.
 * @param {{ out?: string, plugins?: import('esbuild').Plugin[] }} options plugins: a drill's, for a build of its own
 */
export async function buildAll({ out = join(root, 'dist/agent'), plugins = [] } = {}) {
  generate()
  linkCommand()
  mkdirSync(out, { recursive: true })
  // What Node is started with to run the agent: read by whoever starts one, in the image, in the lab and in tests.
  copyFileSync(join(root, 'agent/node.json'), join(out, 'node.json'))
  const shared = { bundle: true, platform: 'node', target: 'node26', legalComments: 'none', logLevel: 'warning', absWorkingDir: root }
  // grpc-js and pino are CommonJS and call `require` for Node's own modules.
  const banner = { js: "import { createRequire as __createRequire } from 'node:module'\nconst require = __createRequire(import.meta.url)" }
  await build({ ...shared, entryPoints: ['agent/main.ts'], outfile: join(out, 'main.mjs'), format: 'esm', banner, plugins })
  await build({ ...shared, entryPoints: ['services/sdk/run.ts'], outfile: join(out, 'worker-host.js'), format: 'cjs' })
  await build({ ...shared, entryPoints: ['services/sdk/run-process.ts'], outfile: join(out, 'process-host.js'), format: 'cjs', plugins })
  await build({ ...shared, entryPoints: ['agent/trust/examiner-thread.ts'], outfile: join(out, 'examiner.js'), format: 'cjs', plugins })
}

/** `npx offbox` inside the checkout: npm links the commands of dependencies, not a package's own. */
function linkCommand() {
  const link = join(root, 'node_modules/.bin/offbox')
  if (existsSync(join(root, 'node_modules/.bin')) && !lstatSync(link, { throwIfNoEntry: false })) symlinkSync('../../fleet/cli/offbox.mjs', link)
}

if (process.argv[1] === import.meta.filename) {
  await buildAll()
}
