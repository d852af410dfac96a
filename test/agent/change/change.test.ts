import t from 'tap'
import { CHANGE, CHANGE_EVENTS, CHANGE_STATES, changeCell, type ChangeEvent } from '../../../agent/change/change.ts'
import { checkConfirm, kept, slotOf } from '../../../agent/change/rules.ts'
import type { ChangeState } from '../../../agent/change/types.ts'
import { record } from './record.ts'

function reachable(from: ChangeState, events: readonly ChangeEvent[]): Set<ChangeState> {
  const found = new Set<ChangeState>([from])
  for (const state of found) {
    for (const event of events) {
      const cell = changeCell(state, event)
      if (typeof cell === 'object') found.add(cell.to)
    }
  }
  return found
}

t.test('every state is reachable, and every unconfirmed one can still be undone', async (t) => {
  t.same([...reachable('proposed', CHANGE_EVENTS)].sort(), [...CHANGE_STATES].sort())
  for (const state of ['proposed', 'staged', 'provisional'] as const) {
    for (const event of ['failed', 'restart'] as const) t.match(changeCell(state, event), { to: 'reverted', effects: ['revert'] }, `${event} in ${state}`)
  }
})

t.test('nothing leaves confirmed or reverted', async (t) => {
  t.same([...reachable('confirmed', CHANGE_EVENTS)], ['confirmed'])
  t.same([...reachable('reverted', CHANGE_EVENTS)], ['reverted'])
})

t.test('only a provisional change is confirmed or passes its deadline', async (t) => {
  for (const state of CHANGE_STATES) {
    const cell = changeCell(state, 'confirm')
    t.equal(typeof cell === 'object', state === 'provisional')
    t.equal(CHANGE[state].length, CHANGE_EVENTS.length)
  }
})

t.test('what a caller can command is answered, never an assertion', async (t) => {
  for (const state of CHANGE_STATES) for (const event of ['confirm', 'revert'] as const) t.not(changeCell(state, event), 'NEVER', `${event} in ${state}`)
})

t.test('a confirm needs a connection younger than the change, and the bake behind it', async (t) => {
  const change = record({ state: 'provisional', bakeMs: 100 })
  t.throws(() => checkConfirm(change, 10, 10, 500), { code: 'CONFIRM_NOT_FRESH' })
  t.throws(() => checkConfirm(change, 9, 10, 500), { code: 'CONFIRM_NOT_FRESH' })
  t.throws(() => checkConfirm(change, 11, 10, 109), { code: 'STATE_REFUSED' })
  checkConfirm(change, 11, 10, 110)
})

t.test('changes of the version of a service exclude one another, other kinds only themselves', async (t) => {
  const slots = (['install', 'upgrade', 'remove', 'config', 'certificate'] as const).map((kind) => slotOf({ kind, service: 'a' }))
  t.equal(new Set(slots.slice(0, 3)).size, 1)
  t.equal(new Set(slots).size, 3)
})

t.test('history is bounded, and keeps the change that put each running version there', async (t) => {
  const many = Array.from({ length: 100 }, (_, at) => record({ id: `c-${at}`, kind: 'config' }))
  const old = record({ id: 'old', kind: 'install', service: 'b' })
  const older = record({ id: 'older', kind: 'install', service: 'b' })
  const keep = kept([...many, old, older], 64)
  t.equal(keep.size, 65)
  t.ok(keep.has('old'))
  t.notOk(keep.has('older'))
})
