/** Inputs that were crashes once. Each has to end as the contract of its reader says, for ever. */
import t from 'tap'
import { record } from '../agent/change/record.ts'
import { execute, textBytes } from './target.ts'
import { TARGETS } from './targets/index.ts'

const open = record({ state: 'staged', settled: false })

// biome-ignore format: a table
const FOUND: readonly (readonly [target: string, what: string, input: string, outcome: string])[] = [
  ['floors',    'a signed statement that is null',             'null',                                       'FLOORS_UNTRUSTED'],
  ['floors',    'a floor of null, which is its own reading',   '{"version":3,"floors":{"telemetry":null}}',  'FLOORS_UNTRUSTED'],
  ['statement', 'a signed statement that is null',             'null',                                       'WITNESS_UNTRUSTED'],
  ['journal',   'steps that are no list',                      '{"records":{"c-0000000001":{"id":"c-0000000001","state":"staged","steps":5}}}', 'ignored'],
  ['journal',   'a record without its fields',                 '{"records":{"c-0000000001":{"id":"c-0000000001","state":"staged"}}}', 'ignored'],
  ['journal',   'a step that is null, with a right checksum',  `{"records":{"c-0000000001":${JSON.stringify(open)}},"steps":[null,0,[0],[0,null],[9,{"step":1}]]}`, 'accepted'],
  ['receipts',  'a receipt whose body is none, when listed',   '{"r-0000000001-c-0000000001":{"body":"{}","signature":"","chainPem":""}}', 'ignored'],
  ['receipts',  'a receipt without a key',                     '{"r-0000000001-c-0000000001":{"body":"{}","signature":"AAAA"}}', 'ignored'],
  ['bundle-store', 'a note of a version that is a path',       '{"active":{"version":"../../secret","config":{},"changeId":"c-0000000001"}}', 'ignored'],
  ['bundle-store', 'a note of another shape',                  '{"active":5,"last-good":[],"candidate-c-0000000001":"x"}', 'ignored'],
  ['wire-messages', 'something thrown that cannot be made text', '[{"type":"done","id":1,"value":{"toString":5}}]', 'accepted'],
]

for (const [name, what, input, outcome] of FOUND) {
  t.test(`${name}: ${what}`, async (t) => {
    const target = TARGETS.find((one) => one.name === name)
    if (!target) throw new Error(`no target ${name}`)
    t.equal(await execute(target, textBytes(input)), outcome)
  })
}
