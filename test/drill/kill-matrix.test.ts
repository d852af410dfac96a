import t from 'tap'
import { runDrill } from './run-drill.ts'

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
