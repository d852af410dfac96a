/** offbox init */
import type { Command } from 'commander'
import { action, type CommonOptions, leaf } from '../context.ts'

export function homeCommands(root: Command): void {
  leaf(root, 'init', 'make what a fleet needs: CA, certificates, bundle key, anchors, offbox.yaml. Never replaces a key.', [
    'offbox init --fleet lab',
    'offbox init --home /var/lib/offbox --fleet backbone',
  ])
    .option('--fleet <name>', 'name of the fleet, a slug (default: lab)')
    .action(
      action<CommonOptions & { fleet?: string }, []>(async ({ home, print }, options) => {
        // Certificates and servers are loaded by the commands that need them: the others start in half the time.
        const { initHome } = await import('../../home/init.ts')
        const report = await initHome(home.path, { ...(options.fleet === undefined ? {} : { fleet: options.fleet }), nowMs: Date.now() })
        print.result(report, () =>
          report.made.length === 0
            ? `${report.home} is complete (fleet ${report.fleet}); nothing was changed`
            : `fleet ${report.fleet} in ${report.home}\n${report.made.map((path) => `  made ${path}`).join('\n')}\n\nNext: offbox controller serve`,
        )
      }),
    )
}
