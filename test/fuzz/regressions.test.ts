/** Inputs that were crashes once. Each has to end as the contract of its reader says, for ever. */
import t from 'tap'
import { execute, textBytes } from './target.ts'
import { TARGETS } from './targets/index.ts'

// biome-ignore format: a table
const FOUND: readonly (readonly [target: string, what: string, input: string, outcome: string])[] = [
  ['floors',    'a signed statement that is null',             'null',                                       'FLOORS_UNTRUSTED'],
  ['floors',    'a floor of null, which is its own reading',   '{"version":3,"floors":{"telemetry":null}}',  'FLOORS_UNTRUSTED'],
  ['statement', 'a signed statement that is null',             'null',                                       'WITNESS_UNTRUSTED'],
]

for (const [name, what, input, outcome] of FOUND) {
  t.test(`${name}: ${what}`, async (t) => {
    const target = TARGETS.find((one) => one.name === name)
    if (!target) throw new Error(`no target ${name}`)
    t.equal(await execute(target, textBytes(input)), outcome)
  })
}
