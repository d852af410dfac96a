import t from 'tap'
import { highestCommon, planHandOver, SWAP, SWAP_EVENTS, SWAP_STATES, swapCell, type SwapEffect, type SwapState } from '../../../agent/supervisor/swap.ts'

/** Everything that matters between two events, as far as the effects tell it. */
interface World {
  readonly state: SwapState
  readonly holding: boolean
  readonly candidate: boolean
  readonly previous: boolean
  readonly unanswered: boolean
}

const start: World = { state: 'idle', holding: false, candidate: false, previous: false, unanswered: false }

function after(world: World, to: SwapState, effects: readonly SwapEffect[], event: string): World {
  let { holding, candidate, previous, unanswered } = { ...world, unanswered: world.unanswered || ['swap', 'commit', 'revert'].includes(event) }
  for (const effect of effects) {
    if (effect === 'hold') holding = true
    if (effect === 'release') holding = false
    if (effect === 'prepareCandidate') candidate = true
    if (effect === 'discardCandidate') candidate = false
    if (effect === 'flip') [candidate, previous] = [false, true]
    if (effect === 'endPrevious' || effect === 'flipBack') previous = false
    if (effect === 'succeed' || effect === 'fail') unanswered = false
  }
  return { state: to, holding, candidate, previous, unanswered }
}

/** Every world that can come about. */
function worlds(): World[] {
  const found = new Map([[JSON.stringify(start), start]])
  for (const world of found.values()) {
    for (const event of SWAP_EVENTS) {
      const move = swapCell(world.state, event)
      if (typeof move !== 'object') continue
      const next = after(world, move.to, move.effects, event)
      found.set(JSON.stringify(next), next)
    }
  }
  return [...found.values()]
}

t.test('every state of the table comes about', async (t) => {
  t.same([...new Set(worlds().map(({ state }) => state))].sort(), [...SWAP_STATES].sort())
  t.same(Object.keys(SWAP).sort(), [...SWAP_STATES].sort())
})

t.test('whatever happens, nothing is left over: calls released, candidate gone, caller answered', async (t) => {
  for (const world of worlds()) {
    if (world.state === 'idle') t.same(world, start)
    if (world.state === 'provisional') t.same(world, { ...start, state: 'provisional', previous: true })
  }
})

t.test('calls are held exactly from draining to the flip, and while going back', async (t) => {
  const holding = ['draining', 'quiescing', 'taking', 'restoring', 'reverting', 'returning']
  for (const world of worlds()) t.equal(world.holding, holding.includes(world.state), world.state)
})

t.test('every state leads back to idle', async (t) => {
  for (const from of SWAP_STATES) {
    const reached = new Set<SwapState>([from])
    for (const state of reached) {
      for (const event of SWAP_EVENTS) {
        const move = swapCell(state, event)
        if (typeof move === 'object') reached.add(move.to)
      }
    }
    t.ok(reached.has('idle'), from)
  }
})

t.test('a swap can give up in every state before the flip, and the current is restored exactly if it was asked for its state', async (t) => {
  for (const state of ['preparing', 'draining', 'quiescing', 'taking'] satisfies SwapState[]) {
    const move = swapCell(state, 'failed')
    t.ok(typeof move === 'object' && move.effects.includes('discardCandidate'), state)
    t.equal(typeof move === 'object' && move.effects.includes('resumeCurrent'), state === 'quiescing' || state === 'taking', state)
  }
})

t.test('state goes over in the newest format both know, and the way back is planned beforehand', async (t) => {
  const formats = (writes: number[], reads: number[]) => ({ snapshot: { writes, reads } })
  t.same(planHandOver(formats([1], [1]), formats([1, 2], [1, 2])), { schema: 1, ownSchema: 1 })
  t.same(planHandOver(formats([1, 2], [1, 2]), formats([1, 2, 3], [1, 2])), { schema: 2, ownSchema: 2 })
  t.same(planHandOver(formats([1, 2], [1]), formats([2], [2])), { schema: 2, ownSchema: 1 }, 'the giver itself does not read 2')
  t.same(planHandOver(formats([], []), formats([1], [1])), { schema: undefined, ownSchema: undefined }, 'no state')
  t.equal(planHandOver(formats([1], [1]), formats([2], [2])), undefined, 'nothing in common')
  t.equal(planHandOver(formats([2], [1]), formats([2], [2])), undefined, 'no way back')
  t.equal(highestCommon(formats([1], []), formats([], [2])), undefined)
})
