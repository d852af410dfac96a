import t from 'tap'
import { cell, EVENTS, LIFECYCLE, type Event, type State } from '../../../agent/supervisor/lifecycle.ts'

const states = Object.keys(LIFECYCLE) as State[]

t.test('every state is reachable from loaded', async (t) => {
  const reached = new Set<State>(['loaded'])
  for (const state of reached) {
    for (const event of EVENTS) {
      const move = cell(state, event)
      if (typeof move === 'object') reached.add(move.to)
    }
  }
  t.same([...reached].sort(), [...states].sort())
})

t.test('every state reaches stopped within stop, timeout, exit', async (t) => {
  for (const from of states) {
    let state = from
    for (const event of ['stop', 'timeout', 'exit'] satisfies Event[]) {
      if (state === 'stopped') break
      const move = cell(state, event)
      if (typeof move === 'object') state = move.to
    }
    t.equal(state, 'stopped', `from ${from}`)
  }
})

t.test('an event that a running service can cause is never our own bug', async (t) => {
  for (const state of ['starting', 'ready', 'quiescing'] satisfies State[]) {
    for (const event of ['ready', 'exit', 'exitFinal'] satisfies Event[]) t.not(cell(state, event), 'NEVER', `${event} while ${state}`)
  }
})

t.test('a worker is spawned only where there is none, and every start is timed', async (t) => {
  for (const state of states) {
    for (const event of EVENTS) {
      const move = cell(state, event)
      if (typeof move !== 'object' || !move.effects.includes('spawnWorker')) continue
      t.notOk(['starting', 'ready', 'quiescing'].includes(state), `${event} while ${state}`)
      t.ok(move.effects.indexOf('armStartTimer') < move.effects.indexOf('spawnWorker'))
    }
  }
})
