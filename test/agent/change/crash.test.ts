import t from 'tap'
import { settled } from '../../fakes/clock.ts'
import { failure, FakeFileSystem } from '../../fakes/file-system.ts'
import { boot, bundleOf, confirm, type Device, orderOf } from './device.ts'

t.setTimeout(240_000)

/** What must be found after a restart: what the client was told last, or either side of the step it waits for. */
interface Expected {
  before: string | undefined
  after: string | undefined
}

/** One story a step at a time; `expected` says what a restart in the middle of the step may find. */
interface Step {
  readonly name: string
  readonly expected: Expected
  run(device: Device, ids: string[]): Promise<void>
}

const order = (kind: 'install' | 'upgrade', version: string, stays: string | undefined): Step => ({
  name: `${kind} ${version}`,
  expected: { before: stays, after: stays },
  run: async ({ services }, ids) => void ids.push((await services.order(orderOf(kind, version), bundleOf(version))).id),
})
const keep = (before: string | undefined, after: string): Step => ({
  name: `confirm ${after}`,
  expected: { before, after },
  run: async (device, ids) => await confirm(device, ids.at(-1) ?? ''),
})
const back = (stays: string): Step => ({
  name: 'revert',
  expected: { before: stays, after: stays },
  run: async ({ engine }, ids) => void (await engine.revert(ids.at(-1) ?? '', 'by hand')),
})
const remove = (before: string): Step => ({
  name: 'remove',
  expected: { before, after: undefined },
  run: async ({ services }) => void (await services.remove('counter', { author: 'me', reason: '' })),
})

const STORY: readonly Step[] = [
  order('install', '1.0.0', undefined),
  keep(undefined, '1.0.0'),
  order('upgrade', '1.1.0', '1.0.0'),
  back('1.0.0'),
  order('upgrade', '1.2.0', '1.0.0'),
  keep('1.0.0', '1.2.0'),
  remove('1.2.0'),
]

/** Runs the story until a step fails. Returns what a restart may find. */
async function tell(device: Device): Promise<{ allowed: (string | undefined)[]; failedAt: string | null; error: unknown }> {
  const ids: string[] = []
  let last: string | undefined
  for (const step of STORY) {
    try {
      await step.run(device, ids)
      last = step.expected.after
    } catch (error) {
      return { allowed: [step.expected.before, step.expected.after], failedAt: step.name, error }
    }
  }
  return { allowed: [last], failedAt: null, error: null }
}

/** Exactly one active version or none, running, its bundle whole, nothing of others left behind, nothing in between. */
async function check(t: Pick<typeof import('tap').t, 'ok' | 'equal' | 'same'>, device: Device, allowed: (string | undefined)[], what: string): Promise<void> {
  const running = device.supervisor.list().map(({ version }) => version)
  const active = await device.bundles.active('counter')
  t.ok(running.length <= 1 && allowed.includes(running[0]), `${what}: ${running.join()} runs, of ${allowed.join(' or ')}`)
  t.equal(active?.version, running[0], `${what}: what runs is what is active`)
  const left = device.disk.paths().filter((path) => path.startsWith('/state/bundles/'))
  const lastGood = await device.bundles.lastGood('counter')
  const bundles = new Set([running[0], lastGood?.version].flatMap((version) => (version ? [`${version}.offbox`] : [])))
  const wanted = [...bundles, 'active', ...(lastGood ? ['last-good'] : [])].map((name) => `/state/bundles/counter/${name}`)
  t.same(left.toSorted(), running[0] ? wanted.toSorted() : [], `${what}: nothing else is left`)
  t.same(
    device.engine.all().filter((record) => !record.settled),
    [],
    `${what}: every change is settled`,
  )
}

t.test('a process killed, or a device without power, at any operation comes back with exactly one version: the one it must', async (t) => {
  for (const after of ['kill', 'power'] as const) {
    let ends = false
    for (let at = 1; !ends; at++) {
      const disk = new FakeFileSystem()
      const device = await boot(disk)
      disk.cutAt(at)
      const { allowed, failedAt } = await tell(device)
      const silent = failedAt === null && device.engine.all().some((record) => !record.settled)
      ends = failedAt === null && !silent
      const again = await boot(disk.restarted(after))
      await check(t, again, allowed, `${after} at ${at}, in ${failedAt ?? 'the end'}`)
      if (at % 4 > 0) continue
      const [present] = again.supervisor.list()
      const next = present
        ? await again.services.order(orderOf('upgrade', '2.0.0'), bundleOf('2.0.0'))
        : await again.services.order(orderOf('install', '2.0.0'), bundleOf('2.0.0'))
      await confirm(again, next.id)
      await check(t, again, ['2.0.0'], `${after} at ${at}, and on`)
    }
  }
})

t.test('a second cut during the recovery from the first changes nothing', async (t) => {
  for (let first = 3; first < 140; first += 7) {
    const disk = new FakeFileSystem()
    const device = await boot(disk)
    disk.cutAt(first)
    const { allowed, failedAt } = await tell(device)
    for (let second = 1; second < 12; second += 2) {
      const recovering = disk.restarted('power')
      recovering.cutAt(second)
      await boot(recovering).catch(() => {})
      await settled()
      await check(t, await boot(recovering.restarted('kill')), allowed, `cut at ${first} in ${failedAt ?? 'the end'}, again at ${second}`)
    }
  }
})

t.test('a disk that is full for one operation, or from one on until space is freed, loses nothing and leaves nothing half done', async (t) => {
  for (const lasting of [false, true]) {
    let ends = false
    for (let at = 1; !ends; at++) {
      const disk = new FakeFileSystem()
      const device = await boot(disk)
      const first = disk.operations + at
      disk.before = (operation, name) => {
        // Removing needs no space.
        const grows = name !== 'remove' && name !== 'removeTree' && name !== 'read'
        if (grows && (lasting ? operation >= first : operation === first)) throw failure('ENOSPC')
      }
      const { allowed, failedAt, error } = await tell(device)
      ends = failedAt === null && disk.operations < first
      if (failedAt) t.match(error, { code: /^(STORE_FULL|SWAP_IN_PROGRESS|ENOSPC)$/ }, `${failedAt}: ${error}`)
      disk.before = () => {}
      for (let waits = 0; waits < 8; waits++) await device.clock.advance(61_000)
      await check(t, device, allowed, `full at ${at}${lasting ? ' and on' : ''}, in ${failedAt ?? 'the end'}`)
      await check(t, await boot(disk.restarted('power')), allowed, `full at ${at}, then restarted`)
    }
  }
})

t.test('on a disk that forgets what was synced, the same check finds a loss: it can fail', async (t) => {
  let found = 0
  const record = (holds: unknown) => {
    if (!holds) found += 1
    return true
  }
  const counting = { ok: record, equal: (one: unknown, other: unknown) => record(one === other), same: () => true }
  for (let at = 20; at < 120; at += 5) {
    const disk = new FakeFileSystem()
    disk.sync = async () => {}
    const device = await boot(disk)
    disk.cutAt(at)
    const { allowed } = await tell(device)
    await check(counting as never, await boot(disk.restarted('power')), allowed, '')
  }
  t.ok(found > 0)
})
