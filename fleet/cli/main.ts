/** The command line: builds the tree of commands, runs one, turns what it throws into words and an exit code. */
import { Command, CommanderError } from 'commander'
import { OffboxError } from '../../core/errors.ts'
import { auditCommands } from './commands/audit.ts'
import { bundleCommands } from './commands/bundle.ts'
import { deviceCommands } from './commands/device.ts'
import { homeCommands } from './commands/home.ts'
import { imageCommands } from './commands/image.ts'
import { rolloutCommands } from './commands/rollout.ts'
import { serveCommands } from './commands/serve.ts'
import { serviceCommands } from './commands/service.ts'
import { trustCommands } from './commands/trust.ts'
import { whyCommand } from './commands/why.ts'
import { witnessCommands } from './commands/witness.ts'
import { interrupted, outcome } from './context.ts'
import { EXIT, reportError } from './output.ts'

/** The whole tree; docs/cli.md and a test read it. */
export function program(): Command {
  const root = new Command('offbox')
    .description('Runs a fleet of network devices: identities, bundles, desired states, rollouts. Start with: offbox init')
    .addHelpText('after', HELP)
    .option('--home <dir>', 'home directory of the fleet (default: $OFFBOX_HOME, else ./.offbox)')
    .option('--json', 'one JSON object on the last line of stdout (streams: one a line)')
    .showSuggestionAfterError(true)
    .exitOverride()
  for (const add of [
    homeCommands,
    imageCommands,
    serveCommands,
    bundleCommands,
    deviceCommands,
    serviceCommands,
    rolloutCommands,
    auditCommands,
    trustCommands,
    witnessCommands,
    whyCommand,
  ])
    add(root)
  overrideExits(root)
  return root
}

const HELP = `
Home directory: --home DIR, else $OFFBOX_HOME, else ./.offbox. Settings: offbox.yaml in it (docs/configuration.md).
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the rollout watched did not succeed; 4 controller or device not reachable; 5 part of the answer is not known (why); 6 it contradicts itself (why); 130 interrupted.

A first fleet:
  $ offbox init --fleet lab
  $ offbox controller serve &
  $ offbox device add sw1 --serial SN-1 --mac 52:54:00:0b:00:01
  $ offbox bundle build services/telemetry --sign --out telemetry.offbox && offbox bundle push telemetry.offbox
  $ offbox device desire sw1 --service telemetry=1.1.0`

/** commander ends the process at every mistake; here it throws instead, in every command. */
function overrideExits(command: Command): void {
  for (const child of command.commands) {
    child.exitOverride()
    overrideExits(child)
  }
}

async function main(argv: readonly string[]): Promise<number> {
  try {
    await program().parseAsync([...argv])
    return outcome.exitCode
  } catch (error) {
    // commander has printed its message or the help already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
    if (interrupted.aborted) return EXIT.interrupted
    const code = reportError(error, outcome.json)
    return error instanceof OffboxError && error.code === 'ARGUMENT_INVALID' ? EXIT.usage : code
  }
}

if (import.meta.main) {
  // A reader that went away (offbox … | head) is no error of ours.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))
  const code = await main(process.argv)
  // A gRPC channel lingers for seconds after its close.
  process.stdout.write('', () => process.exit(code))
}
