import t from 'tap'
import type { ErrorCode } from '../../../core/errors.ts'
import { CHANGE_STATES } from '../../../agent/change/change.ts'
import { SWAP_STATES, SWAP_STEPS, type SwapState } from '../../../agent/supervisor/swap.ts'
import { FakeClock, settled } from '../../fakes/clock.ts'
import { failure, FakeFileSystem } from '../../fakes/file-system.ts'
import { TableSupervisor } from '../../fakes/table-supervisor.ts'
import { boot, bundleOf, confirm, type Device, orderOf } from './device.ts'

t.setTimeout(600_000)

const FAULTS = ['kill', 'power', 'ENOSPC', 'EIO'] as const

/** One upgrade from 1.0.0 to 1.1.0: what goes wrong in its swap, and how it ends. */
interface Story {
  readonly name: string
  readonly fault?: { readonly at: SwapState; readonly event: 'failed' | 'overBudget' }
  readonly end: 'confirm' | 'revert' | 'deadline' | 'unhealthy' | 'none'
  /** What must run when the client has been told, and when nobody was. */
  readonly after: '1.0.0' | '1.1.0'
}

const faults = (['preparing', 'draining', 'quiescing', 'taking'] as const).flatMap((at) =>
  (['failed', 'overBudget'] as const).map((event): Story => ({ name: `${event} while ${at}`, fault: { at, event }, end: 'none', after: '1.0.0' })),
)
const STORIES: readonly Story[] = [
  // There is nothing held yet that could be over its budget.
  ...faults.filter(({ name }) => name !== 'overBudget while preparing'),
  { name: 'confirmed', end: 'confirm', after: '1.1.0' },
  { name: 'reverted by hand', end: 'revert', after: '1.0.0' },
  { name: 'reverted at its deadline', end: 'deadline', after: '1.0.0' },
  { name: 'reverted for its health', end: 'unhealthy', after: '1.0.0' },
]

const states = new Set<string>()
const steps = new Set<string>()

async function tell(device: Device, story: Story): Promise<void> {
  const supervisor = device.supervisor as TableSupervisor
  supervisor.fault = story.fault
  device.engine.watch((record) => {
    states.add(record.state)
    for (const { step } of record.steps) steps.add(step)
  })
  const ordered = device.services.order(orderOf('upgrade', '1.1.0'), bundleOf('1.1.0'))
  if (story.end === 'none') {
    await ordered.catch((error: { code?: ErrorCode }) => {
      if (error.code !== 'SWAP_ROLLED_BACK') throw error
    })
    return
  }
  const { id } = await ordered
  if (story.end === 'confirm') await confirm(device, id)
  if (story.end === 'revert') await device.engine.revert(id, 'by hand')
  if (story.end === 'deadline') await device.clock.advance(60_000)
  if (story.end === 'unhealthy') supervisor.onProvisionalFailure('counter', 'unhealthy')
  for (let turns = 0; turns < 4; turns++) await settled()
  const record = device.engine.get(id)
  if (!record?.settled) throw new Error('nobody was told')
}

/** A device on which 1.0.0 runs, confirmed. */
async function present(): Promise<FakeFileSystem> {
  const disk = new FakeFileSystem()
  const device = await boot(disk, { supervisor: new TableSupervisor() })
  const { id } = await device.services.order(orderOf('install', '1.0.0'), bundleOf('1.0.0'))
  await confirm(device, id)
  return disk
}

for (const story of STORIES) {
  t.test(`an upgrade that is ${story.name} ends in exactly one active version, wherever it is cut or its disk fails`, async (t) => {
    const first = await present()
    for (const fault of FAULTS) {
      let points = 0
      for (let ends = false; !ends; points++) {
        const disk = first.restarted('power')
        const supervisor = new TableSupervisor()
        const device = await boot(disk, { supervisor })
        const at = disk.operations + points + 1
        if (fault === 'kill' || fault === 'power') disk.cutAt(points + 1)
        else
          disk.before = (operation, name) => {
            const spared = name === 'read' || (fault === 'ENOSPC' && name.startsWith('remove'))
            if (operation === at && !spared) throw failure(fault)
          }
        const told = await tell(device, story).then(
          () => true,
          () => false,
        )
        ends = disk.operations < at
        const what = `${fault} at ${points + 1}`
        if (supervisor.together.length > 0) t.fail(`${what}: ${supervisor.together.join()} took calls at once`)
        disk.before = () => {}
        if (fault === 'ENOSPC' || fault === 'EIO') {
          for (let waits = 0; waits < 4; waits++) await device.clock.advance(61_000)
          await check(t, device, [told ? story.after : undefined], what)
        }
        const again = await boot(disk.restarted(fault === 'power' ? 'power' : 'kill'), { supervisor: new TableSupervisor(), clock: new FakeClock() })
        await check(t, again, [told ? story.after : undefined], `${what}, started again`)
      }
      t.ok(points > 15, `${fault}: ${points} points`)
    }
  })
}

/** @param allowed undefined: either of the two, since nobody was told */
async function check(t: Pick<typeof import('tap').t, 'fail'>, device: Device, allowed: readonly (string | undefined)[], what: string): Promise<void> {
  const running = device.supervisor.list()
  const active = await device.bundles.active('counter')
  const right = allowed[0] === undefined ? ['1.0.0', '1.1.0'] : allowed
  const version = running[0]?.version
  const wrong = [
    running.length === 1 ? '' : `${running.length} versions run`,
    right.includes(version) ? '' : `${version} runs, not ${right.join(' or ')}`,
    running[0]?.previousVersion ? `${running[0].previousVersion} is kept beside it` : '',
    active?.version === version ? '' : `${active?.version} is active, ${version} runs`,
    ...device.engine.all().flatMap(({ id, settled, state }) => (settled ? [] : [`change ${id} stays ${state}`])),
    ...device.disk.paths().filter((path) => /candidate|\.tmp-|\.steps|\.corrupt/.test(path)),
    // A confirmed upgrade keeps the version before, for when the new one crashes too often.
    ...device.disk
      .paths()
      .filter((path) => path.endsWith('.offbox') && !path.endsWith(`/${version}.offbox`) && (version === '1.0.0' || !path.endsWith('/1.0.0.offbox'))),
  ].filter(Boolean)
  if (wrong.length > 0) t.fail(`${what}: ${wrong.join('; ')}`)
}

t.test('the stories above went through every state of a change and every step of a swap', async (t) => {
  t.same([...states].sort(), [...CHANGE_STATES].sort())
  t.same(
    Object.values(SWAP_STEPS).filter((step) => step !== undefined && !steps.has(step)),
    [],
  )
  t.ok(SWAP_STATES.length === 9, 'a new state needs a story')
})
