/** Builds of the agent for the drill: one whose service host is broken, so that a service gets hold of threads; and a sabotaged one. */
import { readFile } from 'node:fs/promises'
import type { Plugin } from 'esbuild'
import { buildAll } from '../../../build.mjs'

/** What a native hole in the sandbox would allow: 128 threads at once, through libuv's pool. */
const GRAB = `import { pbkdf2 } from 'node:crypto'
import { env } from 'node:process'
const grab = (message: { method?: string }) => {
  if (!message.method?.endsWith('/Grab')) return
  env['UV_THREADPOOL_SIZE'] = '128'
  pbkdf2('', '', 1, 1, 'sha512', () => {})
}
`
const RECEIVE = 'host.receive(one)'

const CGROUP = /\/agent\/supervisor\/cgroup\.ts$/
// biome-ignore lint/suspicious/noTemplateCurlyInString: source text
const MEMORY_MAX = "'memory.max': `${memoryMbMax * 1024 * 1024}`"
// biome-ignore lint/suspicious/noTemplateCurlyInString: source text
const PIDS_MAX = "'pids.max': `${THREADS_MAX}`"

/** @param unbounded sabotaged: its control groups bound nothing */
export async function buildAgent(out: string, unbounded: boolean): Promise<void> {
  const opened = replacing('opened', /\/services\/sdk\/run-process\.ts$/, [[RECEIVE, `(grab(one as never), ${RECEIVE})`]], GRAB)
  const sabotage = replacing('sabotage', CGROUP, [
    [MEMORY_MAX, "'memory.max': 'max'"],
    [PIDS_MAX, "'pids.max': 'max'"],
  ])
  await buildAll({ out, plugins: unbounded ? [opened, sabotage] : [opened] })
}

function replacing(name: string, file: RegExp, changes: readonly (readonly [string, string])[], before = ''): Plugin {
  return {
    name,
    setup: ({ onLoad }) =>
      onLoad({ filter: file }, async ({ path }) => {
        let text = await readFile(path, 'utf8')
        for (const [from, to] of changes) {
          if (!text.includes(from)) throw new Error(`${path} no longer holds ${from}`)
          text = text.replace(from, () => to)
        }
        return { contents: before + text, loader: 'ts' }
      }),
  }
}
