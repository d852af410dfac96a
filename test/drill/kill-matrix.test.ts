import t from 'tap'
import { STEPS } from './kill-matrix/story.ts'
import { hasPassed, type Matrix, pointsOf } from './kill-matrix.ts'
import { runDrill } from './run-drill.ts'

t.test('a few points are of every fault asked for', async (t) => {
  const operations = new Map(STEPS.map((step) => [step, 20]))
  for (const most of [4, 10, 14, 28]) {
    const points = pointsOf(operations, ['ENOSPC', 'EIO'], most)
    t.equal(points.length, most)
    t.same([...new Set(points.map(({ fault }) => fault))], ['ENOSPC', 'EIO'], `${most} points`)
  }
})

t.test('the drill passes only when each fault asked for has hit', async (t) => {
  const good: Matrix = { kills: 400, ENOSPC: 90, EIO: 100, spared: 5, notReached: 0, lost: 0, twoActive: 0, corrupt: 0, maxRecoveryMs: 1 }
  const asked = { before: 200, after: 200, ENOSPC: 100, EIO: 105 }
  t.ok(hasPassed(good, asked, true))
  for (const worse of [{ EIO: 0 }, { EIO: 94 }, { ENOSPC: 85 }, { kills: 199 }, { lost: 1 }])
    t.notOk(hasPassed({ ...good, ...worse }, asked, true), JSON.stringify(worse))
  t.ok(hasPassed({ ...good, EIO: 5 }, { ...asked, EIO: 6 }, false))
  for (const worse of [{ EIO: 0 }, { EIO: 93 }, { ENOSPC: 84 }, { ENOSPC: 0 }, { kills: 359 }])
    t.notOk(hasPassed({ ...good, ...worse }, asked, false), JSON.stringify(worse))
})

t.test('an agent killed around a dozen durable operations of every step comes back with the one version it must run', { timeout: 250_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'kill-matrix', '--faults', 'kill', '--kills', '12')
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { lost: 0, twoActive: 0, corrupt: 0 })
  t.ok(verdict.kills >= 11, `${verdict.kills} kills`)
})

t.test('the drill fails where the journal does not say that a change is confirmed', { timeout: 250_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'kill-matrix', '--faults', 'kill', '--kills', '12', '--only', 'confirm', '--sabotage', 'skip-confirmed')
  if (!t.equal(code, 1)) t.comment(stderr)
  t.ok(verdict.kills >= 11 && verdict.corrupt > 0, JSON.stringify(verdict))
})

t.test('an agent whose disk fails at an operation now and then loses nothing either', { timeout: 250_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'kill-matrix', '--faults', 'ENOSPC,EIO', '--kills', '10')
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { lost: 0, twoActive: 0, corrupt: 0 })
  t.ok(verdict.ENOSPC + verdict.EIO >= 6, JSON.stringify(verdict))
})

t.test('the drill fails where receipts are not kept', { timeout: 250_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'kill-matrix', '--faults', 'kill', '--kills', '4', '--only', 'remove', '--sabotage', 'skip-receipt')
  if (!t.equal(code, 1)) t.comment(stderr)
  t.ok(verdict.corrupt > 0, JSON.stringify(verdict))
})
