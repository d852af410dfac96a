/**
 * Every reader for a few hundred executions, the same ones each time: what `npm run fuzz` does for minutes, with new ones. $OFFBOX_FUZZ_SEED
 * takes other inputs.
 */
import t from 'tap'
import { runCampaign } from './engine/campaign.ts'
import { Random } from './engine/random.ts'
import type { Target } from './target.ts'
import { TARGETS } from './targets/index.ts'

const seed = Number(process.env['OFFBOX_FUZZ_SEED'] ?? 1)
/** tweetnacl takes 10 ms a signature. */
const executionsOf = ({ coverage, costly }: Target) => (coverage === 'off' ? 4 : costly ? 16 : 128)

for (const target of TARGETS) {
  t.test(`${target.name}: nothing but what its contract names`, { timeout: 120_000 }, async (t) => {
    const wanted = executionsOf(target)
    const { executions, crashes } = await runCampaign({
      ...{ target, random: new Random(seed), coverage: null, guided: false, batch: Math.min(wanted, 64) },
      goesOn: ({ executions }) => executions < wanted,
    })
    t.ok(executions >= wanted)
    for (const { message, input } of crashes.values()) t.fail(message, { seed, input: Buffer.from(input.subarray(0, 2_000)).toString('base64') })
  })
}

t.test('targets have names of their own, and seeds that their readers take', async (t) => {
  t.equal(new Set(TARGETS.map(({ name }) => name)).size, TARGETS.length)
  for (const { name, seeds } of TARGETS) t.ok(seeds().length > 0, name)
})
