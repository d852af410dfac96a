/** What a user can try once the lab is up: commands that work as printed. */
import { relative } from 'node:path'
import type { Home } from '../home/home.ts'
import type { LabDevice } from './mesh.ts'

export function whatToTryNext(input: { say: (text: string) => void; home: Home; devices: readonly LabDevice[] }): void {
  const { say, home, devices } = input
  const where = relative(process.cwd(), home.path) === '.offbox' ? '' : ` --home ${home.path}`
  const id = devices[0]?.id ?? 'sw1'
  const lines = [
    'The lab is up. In another terminal, in this directory:',
    '',
    `  npx offbox${where} device list                    the fleet`,
    `  npx offbox${where} device get ${id}                 one device: boot facts, listeners, memory`,
    `  npx offbox${where} device logs ${id} --follow       its log, audit lines included`,
    `  npx offbox${where} service list ${id}               what runs on it`,
    `  npx offbox${where} device rotate ${id}              a new key and certificate, no connection dropped`,
    `  npx offbox${where} trust device ${id}               what it believes: root, policy, witness, trusted time`,
    `  npx offbox${where} trust policy show              what the fleet's owners let run`,
    `  npx offbox${where} rollout start telemetry 1.0.0 --allow-downgrade --watch`,
    '',
    'Ctrl-C ends the lab and removes it.',
  ]
  for (const line of lines) say(line)
}
