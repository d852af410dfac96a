/** A fuzzer that finds nothing proves nothing: these readers are broken, each in its own way, and each has to be found out. */
import t from 'tap'
import type { Bounds } from './engine/campaign.ts'
import { mutate } from './engine/mutate.ts'
import { Random } from './engine/random.ts'
import { runWatched } from './engine/watched.ts'
import { planted, type Planted } from './planted.ts'

const module = new URL('./planted.ts', import.meta.url).href
/** Small, so that to reach them takes no long. */
const bounds: Bounds = { cpuMsMax: 300, workMax: 100_000, workPerByteMax: 10, residentMbMax: 96, heapMbMax: 32 }
const order = { module, seed: 1, inputBytesMax: 64, forMs: 90_000, executionsMax: 12_000, crashesMax: 1, covers: [module], bounds } as const

async function fuzz(target: Planted, coverage: 'guided' | 'blind') {
  return await runWatched({ ...order, target, coverage })
}

t.test('an error that no contract names is found, with an input that causes it', { timeout: 120_000 }, async (t) => {
  const { crashes } = await fuzz('throws', 'blind')
  t.match(crashes[0]?.text, /throws: TypeError/)
  t.throws(() => planted('throws').run(crashes[0]?.input ?? new Uint8Array()), TypeError)
})

t.test('a code of the table that this contract does not name is a crash as well', { timeout: 120_000 }, async (t) => {
  t.match((await fuzz('wrong-code', 'blind')).crashes[0]?.text, /wrong-code: OffboxError STORE_FULL/)
})

t.test('a promise that is broken without an error is found', { timeout: 120_000 }, async (t) => {
  t.match((await fuzz('accepts-too-much', 'blind')).crashes[0]?.text, /accepts-too-much: Broken/)
})

t.test('a reader that hangs is ended, and the input named', { timeout: 180_000 }, async (t) => {
  const { crashes } = await fuzz('hangs', 'blind')
  t.match(crashes[0]?.text, /hangs: hangs/)
  t.equal(crashes[0]?.input[0], 0x21)
})

t.test('a reader that does more work than its input is long is found, whatever the clock says', { timeout: 180_000 }, async (t) => {
  t.match((await fuzz('works-too-much', 'guided')).crashes[0]?.text, /works-too-much: Error: did more work/)
})

t.test('a reader that outgrows its bounds is found: on the heap and beside it', { timeout: 180_000 }, async (t) => {
  t.match((await fuzz('fills-heap', 'blind')).crashes[0]?.text, new RegExp(`more than ${bounds.heapMbMax} MiB of heap`))
  t.match((await fuzz('fills-buffers', 'blind')).crashes[0]?.text, new RegExp(`more than ${bounds.residentMbMax} MiB of memory`))
})

t.test('what lies behind six right bytes is found with coverage, and not without', { timeout: 180_000 }, async (t) => {
  t.match((await fuzz('deep', 'guided')).crashes[0]?.text, /deep: TypeError/)
  t.same((await fuzz('deep', 'blind')).crashes, [])
})

t.test('the same seed gives the same inputs', async (t) => {
  const seed = new Uint8Array(Buffer.from('{"a":[1,{"b":"text"}],"c":null}'))
  const make = (number: number) => {
    const random = new Random(number)
    return Array.from({ length: 200 }, () => Buffer.from(mutate(random, seed, { corpus: [seed], bytesMax: 1_000 })).toString('latin1'))
  }
  t.same(make(5), make(5))
  t.not(make(5).join(), make(6).join())
  t.ok(make(5).every((one) => one.length <= 1_000))
})
