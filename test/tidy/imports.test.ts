import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { root, services, sources } from './sources.ts'

/** Who may import whom: a folder, and the folders (or files) that its files may import. The longest match rules. */
const RULES: Readonly<Record<string, readonly string[]>> = {
  proto: ['proto'],
  core: ['core'],
  'services/sdk': ['services/sdk', 'proto', 'core'],
  ...Object.fromEntries(services().map((name) => [`services/${name}`, [`services/${name}`, 'services/sdk', 'proto']])),
  agent: ['agent', 'core', 'proto', 'services/sdk/wire.ts'],
  fleet: ['fleet', 'core', 'proto'],
  image: ['image'],
}

/** Modules that decide and do not act: no `node:` import, no clock of their own. */
const PURE = [
  'agent/supervisor/lifecycle.ts',
  'agent/supervisor/restart-policy.ts',
  'agent/supervisor/breaker.ts',
  'agent/supervisor/swap.ts',
  'agent/change/dependencies.ts',
  'agent/supervisor/account.ts',
  'agent/supervisor/usage.ts',
  'agent/metrics/open-metrics.ts',
  'agent/metrics/families.ts',
  'agent/metrics/trust-families.ts',
  'agent/metrics/audit-families.ts',
  'agent/change/change.ts',
  'agent/trust/admit.ts',
  'agent/boot/command-line.ts',
  'agent/drivers/bird-protocol.ts',
  'services/routing/render.ts',
  'fleet/rollout/plan.ts',
  'fleet/cli/calls.ts',
  'fleet/cli/explain.ts',
]

const files = sources()
const inside = (path: string, folder: string) => path === folder || path.startsWith(`${folder}/`)

t.test('every import obeys the table of who may import whom', async (t) => {
  const broken: string[] = []
  for (const file of files) {
    const rule = Object.keys(RULES)
      .filter((folder) => inside(file, folder))
      .sort((a, b) => b.length - a.length)[0]
    if (!rule) continue
    for (const [index, line] of readFileSync(join(root, file), 'utf8').split('\n').entries()) {
      const target = /^\s*(?:import|export|\}).*?\bfrom '(\.[^']+)'|^\s*import '(\.[^']+)'|\bimport\('(\.[^']+)'\)/.exec(line)?.slice(1).find(Boolean)
      if (!target) continue
      const path = normalize(join(dirname(file), target))
      if (!RULES[rule]?.some((allowed) => inside(path, allowed)))
        broken.push(`${file}:${index + 1} imports ${path}; ${rule}/ may import ${RULES[rule]?.join(', ')}`)
    }
  }
  t.same(broken, [])
})

t.test('pure modules import nothing of Node and read no clock', async (t) => {
  const broken: string[] = []
  for (const file of PURE) {
    const code = readFileSync(join(root, file), 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
    // isIP of node:net looks at text and at nothing else.
    const text = code.replace(/import \{ isIP(v4)? \} from 'node:net'/, '')
    if (/from 'node:/.test(text)) broken.push(`${file} imports a node: module`)
    if (/\b(Date\.now|performance\.now|Math\.random|setTimeout|process\.)/.test(text)) broken.push(`${file} reads a clock, a random number or the process`)
  }
  t.same(broken, [])
})

t.test('no file is longer than 400 lines, and none is called utils', async (t) => {
  const broken = files
    .filter((file) => !file.startsWith('test/fixtures/'))
    .flatMap((file) => {
      const lines = readFileSync(join(root, file), 'utf8').split('\n').length
      return [...(lines > 401 ? [`${file} has ${lines} lines`] : []), ...(/utils|helpers/.test(file) ? [`${file}: name it for the noun inside`] : [])]
    })
  t.same(broken, [])
})
