// `npm start`: sets everything up under whatever Node is there, then runs the lab (lab.ts) under Node 26.
import './node-version.mjs'
import { run26, SetupError, setUp, whyNoNode26 } from './setup.mjs'

const args = process.argv.slice(2)
const say = (line) => process.stderr.write(`${line}\n`)

if (args.includes('--help') || args.includes('-h')) {
  say(`npm start -- [options]

  Builds the image, PXE-boots devices in QEMU on one lab network, enrols them, installs the services, brings up a full
  mesh of BGP and rolls telemetry from 1.0.0 to 1.1.0 across them while a client keeps calling it.

  --devices N   how many devices (1 to 8; default 3)
  --local       agents as processes in network namespaces instead of virtual machines: seconds instead of minutes
  --once        end and clean up when the rollout is done
  --json        the last line on stdout is one JSON object with the figures
  --home DIR    where keys, images and records are kept (default ./.offbox, or $OFFBOX_HOME)
  --no-install  do not install Debian packages; name what is missing instead
  --help        this text`)
  process.exit(0)
}

try {
  const started = Date.now()
  const { missing } = await setUp({ debian: !args.includes('--no-install'), say })
  const why = whyNoNode26()
  if (why) throw new SetupError(`Node 26 was installed but does not start: ${why}\nOn Debian: apt-get install libatomic1 libstdc++6`)
  for (const one of missing) say(`missing: ${one.need} (Debian package ${one.package}): ${one.why}`)
  process.env.OFFBOX_STARTED_AT_MS = String(started)
  process.exitCode = await run26('fleet/lab/lab.ts', args)
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  say(`SETUP_MISSING: ${error.message}`)
  process.exitCode = 1
}
