import t from 'tap'
import { CASES } from './cases.ts'
import { TARGETS } from './targets.ts'

for (const { name, start } of TARGETS) {
  t.test(`the behavioural list of gRPC, against ${name}`, async (t) => {
    const target = await start(t)
    for (const [claim, run] of Object.entries(CASES)) await t.test(claim, async (t) => await run(t, target))
  })
}
