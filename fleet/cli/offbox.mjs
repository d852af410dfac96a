#!/usr/bin/env node
// The command `offbox`. Starts under whatever Node is there (20 or later) and goes on under the Node 26 of this checkout, which
// runs TypeScript as it is.
import { spawn } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(realpathSync(fileURLToPath(import.meta.url)))
const root = join(here, '../..')
const node = join(root, 'node_modules/.bin/node')
const generated = join(root, 'proto/gen/fleet.ts')

if (!existsSync(node) || !existsSync(generated)) {
  console.error(`SETUP_MISSING: ${existsSync(node) ? generated : node} is not there. Run "npm install" (or "npm start") in ${root} first.`)
  process.exit(1)
}

// A passphrase may come from an open file descriptor; that one has to be handed on as well.
const given = /--passphrase-fd[= ](\d{1,3})\b/.exec(process.argv.slice(2).join(' '))
const fd = given ? Number(given[1]) : 0
const stdio = ['inherit', 'inherit', 'inherit', ...Array.from({ length: Math.max(0, fd - 2) }, (_, index) => (index + 3 === fd ? fd : 'ignore'))]

const child = spawn(node, ['--disable-warning=ExperimentalWarning', join(here, 'main.ts'), ...process.argv.slice(2)], { stdio })
child.on('error', (error) => {
  console.error(`SETUP_MISSING: ${node} cannot be run: ${error.message}`)
  process.exit(1)
})
// Ctrl-C reaches the child by itself, as one of the terminal's group; it decides when to end. Others have to be passed on.
process.on('SIGINT', () => {})
for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
child.on('exit', (code, signal) => {
  process.exitCode = code ?? 128 + (constants.signals[signal] ?? 0)
})
